//! Whose acknowledgements a request needs: a quorum of a partition's replicas and, while it moves, another one
//! of those it moves to.
//!
//! Source: joint consensus, Raft (Ongaro 2014), 4.3.

use slipring_model::{Mutant, NodeId};
use smallvec::{SmallVec, smallvec};

/// One set of replicas and how many of them must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumSet {
    /// Distinct.
    pub members: SmallVec<[NodeId; 3]>,
    /// At most as many as there are members.
    pub needed: u8,
}

/// The sets that must each give a quorum: one, or two while a partition moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorums(SmallVec<[QuorumSet; 1]>);

impl QuorumSet {
    fn lacks(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.members.iter().filter(|member| holds(**member)).count() < usize::from(self.needed)
    }
}

impl Quorums {
    /// A quorum of one set.
    #[must_use]
    pub fn of(set: QuorumSet) -> Self {
        Self(smallvec![set])
    }

    /// A quorum of each of two sets.
    #[must_use]
    pub fn joint(old: QuorumSet, next: QuorumSet) -> Self {
        Self(smallvec![old, next])
    }

    /// Whether the nodes for which `holds` is true make up a quorum of every set.
    #[must_use]
    pub fn is_met(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        if Mutant::UnionQuorum.is_planted() {
            let holders = self.nodes().iter().filter(|node| holds(**node)).count();
            return holders >= usize::from(self.needed());
        }
        !self.0.iter().any(|set| set.lacks(&holds))
    }

    /// Every member of any set, in order.
    #[must_use]
    pub fn nodes(&self) -> SmallVec<[NodeId; 4]> {
        let mut nodes = SmallVec::new();
        for node in self.0.iter().flat_map(|set| &set.members) {
            if !nodes.contains(node) {
                nodes.push(*node);
            }
        }
        nodes
    }

    /// The most that any set needs.
    #[must_use]
    pub fn needed(&self) -> u8 {
        self.0.iter().map(|set| set.needed).max().unwrap_or(0)
    }

    /// How many of the sets that still lack a quorum a node would help.
    pub(crate) fn helps(&self, node: NodeId, holds: impl Fn(NodeId) -> bool) -> usize {
        self.0.iter().filter(|set| set.members.contains(&node) && set.lacks(&holds)).count()
    }

    /// The same sets with one answer fewer.
    pub(crate) fn less_one(mut self) -> Self {
        self.0.iter_mut().for_each(|set| set.needed = set.needed.saturating_sub(1));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[u8], needed: u8) -> QuorumSet {
        QuorumSet { members: members.iter().map(|byte| NodeId([*byte; 32])).collect(), needed }
    }

    #[test]
    fn each_set_needs_its_own_quorum() {
        let joint = Quorums::joint(set(&[1, 2, 3], 2), set(&[3, 4, 5], 2));
        let met =
            |holders: &[u8]| joint.is_met(|node| holders.iter().any(|byte| node == NodeId([*byte; 32])));
        assert!(met(&[1, 3, 4]) && met(&[1, 2, 4, 5]));
        assert!(!met(&[1, 2]) && !met(&[4, 5]) && !met(&[1, 4]) && !met(&[1, 2, 3]));
        assert_eq!(joint.nodes().len(), 5);
        assert_eq!(Quorums::joint(set(&[1, 2, 3], 2), set(&[3, 4, 5, 6, 7], 3)).needed(), 3);
        let one = Quorums::of(set(&[1, 2, 3], 2));
        assert!(one.is_met(|node| node != NodeId([2; 32])) && !one.is_met(|node| node == NodeId([2; 32])));
    }
}
