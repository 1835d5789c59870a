//! The view: every other member, how it is believed to be, and the order in which members are probed.
//!
//! Invariant: `ring` holds exactly the members that are not gone, each once.

use std::collections::BTreeMap;

use fastrand::Rng;
use slipring_model::{Moment, NodeId};
use xxhash_rust::xxh3::xxh3_64;

use crate::member::{Incarnation, Liveness, Member};
use crate::message::{Claim, Target};
use crate::suspicion::Suspicion;

/// What is believed of a member, and since when.
#[derive(Clone, Debug)]
pub(crate) enum Belief {
    Alive,
    Suspected(Suspicion),
    Down(Moment),
    Left(Moment),
}

/// One member of the view.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) member: Member,
    pub(crate) belief: Belief,
}

impl Record {
    pub(crate) fn liveness(&self) -> Liveness {
        match self.belief {
            Belief::Alive => Liveness::Alive,
            Belief::Suspected(_) => Liveness::Suspected,
            Belief::Down(_) => Liveness::Down,
            Belief::Left(_) => Liveness::Left,
        }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.liveness().is_gone()
    }

    /// Whether any word of the member has come, or only its name.
    pub(crate) fn is_heard_of(&self) -> bool {
        self.member.incarnation > Incarnation::default()
    }

    pub(crate) fn gone_since(&self) -> Option<Moment> {
        match self.belief {
            Belief::Down(since) | Belief::Left(since) => Some(since),
            Belief::Alive | Belief::Suspected(_) => None,
        }
    }

    /// What to tell a member that may not know what is believed of it.
    pub(crate) fn accusation(&self, by: NodeId) -> Option<Claim> {
        let (node, incarnation) = (Target(self.member.node), self.member.incarnation);
        match self.belief {
            Belief::Alive => None,
            Belief::Suspected(_) => Some(Claim::Suspected { node, incarnation, by: Target(by) }),
            Belief::Down(_) => Some(Claim::Down { node, incarnation }),
            Belief::Left(_) => Some(Claim::Left { node, incarnation }),
        }
    }
}

/// All other members.
#[derive(Debug)]
pub(crate) struct Table {
    records: BTreeMap<NodeId, Record>,
    ring: Vec<NodeId>,
    cursor: usize,
    records_max: usize,
}

impl Table {
    pub(crate) fn new(records_max: usize) -> Self {
        Self { records: BTreeMap::new(), ring: Vec::new(), cursor: 0, records_max }
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Record> {
        self.records.get(node)
    }

    pub(crate) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Record> {
        self.records.get_mut(node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.records.values_mut()
    }

    /// Members that are not gone.
    pub(crate) fn present(&self) -> usize {
        self.ring.len()
    }

    /// Adds a member that is there; whether there was room, if need be in the place of one that is gone.
    pub(crate) fn insert(&mut self, member: Member, rng: &mut Rng) -> bool {
        if self.records.len() >= self.records_max && !self.drop_longest_gone() {
            return false;
        }
        let node = member.node;
        self.records.insert(node, Record { member, belief: Belief::Alive });
        self.enter(node, rng);
        true
    }

    /// Puts a member that is back among those that are probed.
    pub(crate) fn enter(&mut self, node: NodeId, rng: &mut Rng) {
        self.ring.push(node);
        let last = self.ring.len().saturating_sub(1);
        self.ring.swap(rng.usize(..=last), last);
    }

    /// Takes a member that is gone out of those that are probed.
    pub(crate) fn leave(&mut self, node: &NodeId) {
        if let Some(position) = self.ring.iter().position(|other| other == node) {
            self.ring.remove(position);
            if position < self.cursor {
                self.cursor = self.cursor.saturating_sub(1);
            }
        }
    }

    /// Takes a member out altogether.
    pub(crate) fn remove(&mut self, node: &NodeId) {
        self.leave(node);
        self.records.remove(node);
    }

    /// The next member to probe: each once in a round, in an order drawn anew for each round.
    pub(crate) fn next_to_probe(&mut self, rng: &mut Rng) -> Option<NodeId> {
        if self.cursor >= self.ring.len() {
            self.cursor = 0;
            rng.shuffle(&mut self.ring);
        }
        let node = self.ring.get(self.cursor).copied();
        self.cursor = self.cursor.saturating_add(1);
        node
    }

    /// Up to `count` different members that are not gone, drawn at random; never `except`.
    pub(crate) fn pick(&self, count: usize, except: Option<NodeId>, rng: &mut Rng) -> Vec<NodeId> {
        let mut picked = Vec::new();
        for _ in 0..count.saturating_mul(4) {
            let Some(node) = rng.choice(&self.ring).copied() else { break };
            if picked.len() < count && Some(node) != except && !picked.contains(&node) {
                picked.push(node);
            }
        }
        picked
    }

    /// Forgets those that have been gone since before `horizon`.
    pub(crate) fn forget_gone_before(&mut self, horizon: Moment) {
        self.records.retain(|_, record| record.gone_since().is_none_or(|since| since > horizon));
    }

    /// A number that two views share if they hold the same members in the same incarnations.
    pub(crate) fn digest(&self, node: NodeId, incarnation: Incarnation) -> u64 {
        let present = self.records.values().filter(|record| !record.is_gone() && record.is_heard_of());
        let others = present.map(|record| hash(record.member.node, record.member.incarnation));
        others.fold(hash(node, incarnation), u64::wrapping_add)
    }

    fn drop_longest_gone(&mut self) -> bool {
        let gone = self.records.iter().filter_map(|(node, record)| Some((record.gone_since()?, *node)));
        let longest = gone.min();
        longest.is_some_and(|(_, node)| self.records.remove(&node).is_some())
    }
}

fn hash(node: NodeId, incarnation: Incarnation) -> u64 {
    let mut bytes = node.0.to_vec();
    bytes.extend_from_slice(&incarnation.start.to_be_bytes());
    bytes.extend_from_slice(&incarnation.renewal.to_be_bytes());
    xxh3_64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Metadata;

    fn member(byte: u8) -> Member {
        let address = std::net::SocketAddr::from(([10, 0, 0, byte], 1));
        let incarnation = Incarnation::at_start(1);
        Member { node: NodeId([byte; 32]), address, incarnation, metadata: Metadata::default() }
    }

    #[test]
    fn each_round_probes_each_member_once() {
        let (mut table, mut rng) = (Table::new(100), Rng::with_seed(3));
        (0..20).for_each(|byte| assert!(table.insert(member(byte), &mut rng)));
        table.cursor = 20;
        let mut orders = Vec::new();
        for _ in 0..3 {
            let order: Vec<NodeId> = (0..20).map(|_| table.next_to_probe(&mut rng).unwrap()).collect();
            let mut sorted = order.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), 20);
            orders.push(order);
        }
        assert_ne!(orders[0], orders[1]);
    }

    #[test]
    fn a_full_view_takes_nobody_in_unless_somebody_is_gone() {
        let (mut table, mut rng) = (Table::new(2), Rng::with_seed(3));
        assert!(table.insert(member(1), &mut rng) && table.insert(member(2), &mut rng));
        assert!(!table.insert(member(3), &mut rng));
        table.get_mut(&NodeId([1; 32])).unwrap().belief = Belief::Down(Moment(5));
        table.leave(&NodeId([1; 32]));
        assert!(table.insert(member(3), &mut rng));
        assert!(table.get(&NodeId([1; 32])).is_none());
        assert_eq!(table.present(), 2);
    }
}
