//! Going on without a lost majority, by an operator's word: one member makes itself the only voter.
//!
//! What the group had agreed on and this member never heard of is lost. So the member that holds the latest
//! entry must be the one; the others follow it then. Source: Ongaro's thesis (2014) leaves this to operators;
//! the shape is that of etcd's `--force-new-cluster`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::entry::RaftEntry;
use openraft::{EntryPayload, Membership};
use redb::Database;
use slipring_model::{Mutant, NodeId, limits};
use slipring_ring::{Change, Command, Layout, NodeChange, NodeState};
use tokio::sync::watch;

use crate::document::Document;
use crate::group::{Ballot, EntryId, Error, LayoutGroup};
use crate::lineage::Lineage;
use crate::log::Log;
use crate::protocol::{Entry, LogId, Outcome, Proposal, Vote};

/// Numbers that are left out, more than a lost majority may have agreed on since this member last heard of it:
/// indices number assignments, and neither they nor epochs may ever mean two things.
const NUMBERS_LEFT_OUT: u64 = 1 << 20;

/// What a stopped member holds of its group.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The layout, with every entry that is there, agreed on or not.
    pub layout: Layout,
    /// The last of them.
    pub last: Option<EntryId>,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
}

/// A member's state, brought up to its last entry.
struct Whole {
    document: Document,
    last: Option<LogId>,
}

impl LayoutGroup {
    /// What the database of a stopped member holds; `None` when it has never heard of a layout.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn remains(database: &Arc<Database>) -> Result<Option<Remains>, Error> {
        let Whole { document, last } = Whole::read(&Log(Arc::clone(database)))?;
        let voters: BTreeSet<u64> = document.membership().voter_ids().collect();
        let nodes = document.membership().nodes();
        let voters = nodes.filter(|(id, _)| voters.contains(id)).map(|(_, node)| *node).collect();
        let last = last.map(|id| EntryId {
            index: id.index,
            ballot: Ballot { term: id.leader_id.term, candidate: id.leader_id.node_id },
        });
        Ok(document.layout().map(|layout| Remains { layout: layout.clone(), last, voters }))
    }

    /// Makes a stopped member the only voter of its group and gives the nodes in `lost` up, in one step on disk.
    /// The layout then.
    ///
    /// # Errors
    /// The database cannot be used, holds no layout, or the nodes cannot be given up.
    pub fn recover(database: &Arc<Database>, me: (NodeId, u64), lost: &[NodeId]) -> Result<Layout, Error> {
        let log = Log(Arc::clone(database));
        let Whole { mut document, last } = Whole::read(&log)?;
        let lineage = Lineage::read(&log).map_err(failed)?.next(me.0, last);
        let voted = log.vote().map_err(failed)?.map_or(0, |vote| vote.leader_id.term);
        let vote = Vote::new(voted.max(last.map_or(0, |id| id.leader_id.term)) + 1, me.1);
        let left_out = if Mutant::ReuseNumbers.is_planted() { 0 } else { NUMBERS_LEFT_OUT };
        let before = LogId::new(vote.leader_id, last.map_or(0, |id| id.index) + left_out);
        document.skip(left_out);
        let mut entries = Vec::new();
        let mut agree = |document: &mut Document, payload| {
            let index = before.index + 1 + entries.len() as u64;
            let entry = Entry::new(LogId::new(vote.leader_id, index), payload);
            entries.push(entry.clone());
            document.apply_entry(entry)
        };
        if !lost.is_empty() {
            let changes = giving_up(document.layout(), me.0, lost);
            let command = Proposal::Change(Box::new(Command::Change { changes, expected_epoch: None }));
            if let Outcome::Refused(refused) = agree(&mut document, EntryPayload::Normal(command)) {
                return Err(Error(format!("the nodes cannot be given up: {refused}")));
            }
        }
        let mut members: BTreeMap<u64, NodeId> =
            document.membership().nodes().map(|(id, node)| (*id, *node)).collect();
        members.retain(|_, node| !lost.contains(node));
        members.insert(me.1, me.0);
        let alone = Membership::new(vec![BTreeSet::from([me.1])], members).map_err(failed)?;
        agree(&mut document, EntryPayload::Membership(alone));
        let layout = document.layout().cloned();
        let layout = layout.ok_or_else(|| Error("no layout was ever agreed on here".to_owned()))?;
        log.begin_anew(before, &entries, &vote, &[lineage.record(), document.record()]).map_err(failed)?;
        Ok(layout)
    }
}

impl Whole {
    fn read(log: &Log) -> Result<Self, Error> {
        let (sender, _) = watch::channel(None);
        let mut document = Document::open(log.clone(), Arc::new(sender)).map_err(failed)?;
        let from = document.applied().map_or(0, |id| id.index + 1);
        let mut last = document.applied();
        for entry in log.entries(from..).map_err(failed)? {
            last = Some(entry.log_id());
            // What is refused comes to nothing, as it would when agreed on.
            document.apply_entry(entry);
        }
        Ok(Self { document, last })
    }
}

/// Gives the nodes in `lost` up. Where no other is to hold anything, as when those that are left were drained, `me` is
/// from now on: nobody could change that while nobody leads.
fn giving_up(layout: Option<&Layout>, me: NodeId, lost: &[NodeId]) -> Vec<Change> {
    let of = |node, change| Change { node, change };
    let mut changes: Vec<Change> =
        lost.iter().map(|node| of(*node, NodeChange::State(NodeState::Lost))).collect();
    let left = || layout.into_iter().flat_map(Layout::nodes).filter(|(node, _)| !lost.contains(node));
    if left().all(|(_, entry)| entry.role.share() == 0) {
        let weight = left().find(|(node, _)| **node == me).map_or(0, |(_, entry)| entry.role.weight);
        changes.push(of(me, NodeChange::State(NodeState::Active)));
        changes.push(of(me, NodeChange::Weight(weight.clamp(1, limits::WEIGHT_MAX))));
    }
    changes
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error(error.to_string())
}

#[cfg(test)]
mod tests {
    use slipring_model::{ClusterId, StorageId, Versions};
    use slipring_ring::{Addresses, NodeEntry, Role};

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn entry(raft_id: u64) -> NodeEntry {
        NodeEntry {
            storage: StorageId([raft_id as u8; 16]),
            incarnation: 1,
            boot: 1,
            raft_id,
            addresses: Addresses::default(),
            role: Role { zone: String::new(), weight: 70, state: NodeState::Active },
            versions: Versions::UNTOLD,
            signature: None,
        }
    }

    /// Two members.
    fn layout() -> Layout {
        let mut layout = Layout::found(ClusterId::default(), 2, (node(1), entry(1)));
        layout.apply(2, &Command::AddNode { node: node(2), entry: entry(2) }).expect("it joins");
        layout
    }

    #[test]
    fn who_is_recovered_holds_data_again_when_nobody_else_does() {
        let of = |number, change| Change { node: node(number), change };
        let given_up = of(2, NodeChange::State(NodeState::Lost));
        let giving_up = |layout: &Layout| giving_up(Some(layout), node(1), &[node(2)]);
        assert_eq!(giving_up(&layout()), std::slice::from_ref(&given_up));
        let drained = of(1, NodeChange::State(NodeState::Drained));
        let drained = layout().with(&vec![drained].into()).expect("the other one holds all");
        let again = [of(1, NodeChange::State(NodeState::Active)), of(1, NodeChange::Weight(70))];
        assert_eq!(giving_up(&drained), [&[given_up][..], &again].concat());
    }

    #[test]
    fn of_two_leaders_in_one_term_the_later_ones_entry_is_the_later() {
        let entry = |term, candidate, index| EntryId { ballot: Ballot { term, candidate }, index };
        assert!(entry(5, 2, 100) > entry(5, 1, 120), "the place says nothing where the leaders differ");
        assert!(entry(5, 1, 1) > entry(4, 9, 300) && entry(4, 1, 300) > entry(4, 1, 299));
    }
}
