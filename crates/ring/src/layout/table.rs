//! Tables: who holds each partition, and where those that move are going.
//!
//! A partition moves in two steps, as a Raft group changes its members: from the agreement on its `next`
//! replicas on, requests need a quorum of the old and one of the next; when every next replica has taken over
//! what a quorum of the old holds, the next become its only replicas. A move may be turned elsewhere, or back,
//! at any time: until it is over every request has had a quorum of the old replicas.
//!
//! Invariant: one move at a time of each partition; its session is the index of the command that aimed it.
//! Source: joint consensus, Raft (Ongaro 2014), 4.3.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slipring_model::{Mutant, NodeId, limits};

use super::{Layout, StandIns, TableId};
use crate::placement::{Infeasible, Placement, Request, solve};

/// One node's copy of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// Never the same twice in one partition: the index of the command that placed it there, and which of those
    /// that it placed.
    pub assignment: u64,
}

/// Who holds one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// In preference order.
    pub replicas: Vec<Replica>,
    /// Where it moves, if it does.
    pub next: Option<Move>,
    /// The epoch from which on this holds. Requests made under an older one are refused.
    pub since: u64,
}

/// A move under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Who will hold the partition, in preference order.
    pub replicas: Vec<Replica>,
    /// The index of the command that aimed it.
    pub session: u64,
}

/// Names one move of one partition; never the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MoveId {
    /// The table; called by its copies before there were others.
    #[serde(rename = "copies")]
    pub table: TableId,
    /// The partition.
    pub partition: u16,
    /// The index of the command that aimed it.
    pub session: u64,
}

/// Partition by partition.
pub(super) type Table = Vec<Holders>;

impl Holders {
    /// Who holds it once it has moved.
    #[must_use]
    pub fn target(&self) -> &[Replica] {
        self.next.as_ref().map_or(&self.replicas, |next| &next.replicas)
    }

    /// This node's copy, of now or of then.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<Replica> {
        self.replicas.iter().chain(self.target()).find(|replica| replica.node == node).copied()
    }

    /// The nodes that had best be among `copies` ones: those it is to lie on; when it is to lie on fewer, those of
    /// them that have everything already, if they are enough.
    fn worth_keeping(&self, copies: u8) -> Vec<NodeId> {
        let target = nodes_in_order(self.target());
        let holding = nodes_of(&self.replicas);
        let have_all: Vec<NodeId> = target.iter().filter(|node| holding.contains(*node)).copied().collect();
        let wanted = usize::from(copies);
        if target.len() > wanted && have_all.len() >= wanted { have_all } else { target }
    }

    /// The target is these nodes, from `since` on unless it was before; copies that stay keep their assignment,
    /// others get `index`.
    pub(super) fn aim(&mut self, nodes: &[NodeId], index: u64, since: u64) {
        let assign = |(nth, node): (usize, &NodeId)| {
            let kept = self.of(*node);
            kept.unwrap_or_else(|| new_replica(*node, index, nth))
        };
        let target: Vec<Replica> = nodes.iter().enumerate().map(assign).collect();
        let wanted = nodes_of(&target);
        match &mut self.next {
            Some(next) if nodes_of(&next.replicas) == wanted => next.replicas = target,
            None if nodes_of(&self.replicas) == wanted => self.replicas = target,
            Some(_) if nodes_of(&self.replicas) == wanted => {
                *self = Self { replicas: target, next: None, since };
            }
            _ => {
                let session = if Mutant::ReuseSession.is_planted() { 0 } else { index };
                self.next = Some(Move { replicas: target, session });
                self.since = since;
            }
        }
    }
}

/// The moves of one table.
pub(super) fn moves(id: TableId, table: &Table) -> impl Iterator<Item = (MoveId, &Holders)> {
    table.iter().enumerate().filter_map(move |(partition, holders)| {
        let session = holders.next.as_ref()?.session;
        Some((MoveId { table: id, partition: partition as u16, session }, holders))
    })
}

impl Layout {
    /// Places every table anew, as epoch `since`. Partitions that move already are aimed anew where they should
    /// be elsewhere. What lies on a node that is replaced counts as its stand-in's, which so gets the very same.
    pub(super) fn place(&mut self, index: u64, since: u64, stand_ins: &StandIns) -> Result<(), Infeasible> {
        let roles = || self.nodes.iter().map(|(node, entry)| (*node, &entry.role));
        let mut tables = BTreeMap::new();
        for (id, copies) in self.copies_by_table() {
            let mut table = self.tables.get(&id).cloned().unwrap_or_default();
            let stand_in = |node: NodeId| stand_ins.get(&node).copied().unwrap_or(node);
            let worth_keeping = |holders: &Holders| -> Vec<NodeId> {
                holders.worth_keeping(copies).into_iter().map(stand_in).collect()
            };
            let before: Placement = table.iter().map(worth_keeping).collect();
            let request = Request {
                partitions: self.partition_count(),
                replicas: copies,
                zones: copies,
                nodes: roles().map(|(node, role)| (node, (role.zone.clone(), role.share()))).collect(),
            };
            let placed = solve(&request, &before)?;
            if table.is_empty() {
                table = placed.iter().map(|nodes| new_holders(nodes, index, since)).collect();
            } else {
                let aimed = table.iter_mut().zip(&placed);
                aimed.for_each(|(holders, nodes)| holders.aim(nodes, index, since));
            }
            tables.insert(id, table);
        }
        self.tables = tables;
        Ok(())
    }

    /// The moves in `arrived` are over: their next replicas are the only ones. Whatever names another session
    /// is passed over.
    pub(super) fn arrive(&mut self, arrived: &[MoveId], since: u64) -> bool {
        let mut is_changed = false;
        for id in arrived {
            let table = self.tables.get_mut(&id.table);
            let Some(holders) = table.and_then(|table| table.get_mut(usize::from(id.partition))) else {
                continue;
            };
            if let Some(next) = holders.next.take_if(|next| next.session == id.session) {
                (holders.replicas, holders.since) = (next.replicas, since);
                is_changed = true;
            }
        }
        is_changed
    }

    /// Every move under way is given up.
    pub(super) fn turn_back(&mut self, since: u64) {
        for holders in self.tables.values_mut().flatten().filter(|holders| holders.next.is_some()) {
            (holders.next, holders.since) = (None, since);
        }
    }

    /// Whether a node holds, or is to hold, any partition.
    #[must_use]
    pub fn holds_any(&self, node: NodeId) -> bool {
        self.tables.values().flatten().any(|holders| holders.of(node).is_some())
    }
}

/// The `nth` replica that a command places: its dots must differ from those of the others.
fn new_replica(node: NodeId, index: u64, nth: usize) -> Replica {
    const { assert!(limits::REPLICAS_MAX < 8) };
    let index = if Mutant::ReuseAssignment.is_planted() { 0 } else { index };
    Replica { node, assignment: (index << 3) + nth as u64 }
}

fn new_holders(nodes: &[NodeId], index: u64, since: u64) -> Holders {
    let replicas = nodes.iter().enumerate().map(|(nth, node)| new_replica(*node, index, nth)).collect();
    Holders { replicas, next: None, since }
}

fn nodes_in_order(replicas: &[Replica]) -> Vec<NodeId> {
    replicas.iter().map(|replica| replica.node).collect()
}

fn nodes_of(replicas: &[Replica]) -> BTreeSet<NodeId> {
    replicas.iter().map(|replica| replica.node).collect()
}
