//! Whose acknowledgements a request needs: a quorum of a partition's replicas and, while it moves, another one
//! of those it moves to.
//!
//! Source: joint consensus, Raft (Ongaro 2014), 4.3.

use std::fmt;

use slipring_model::{Mutant, NodeId};
use smallvec::{SmallVec, smallvec};

/// One set of replicas and how many of them must answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumSet {
    /// Distinct.
    pub members: SmallVec<[NodeId; 3]>,
    /// With more than there are members, there is no quorum.
    pub needed: u8,
}

/// The sets that must each give a quorum: one, or two while a partition moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorums(SmallVec<[QuorumSet; 1]>);

/// What a set lacks for its quorum, as people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// How many of its members count; fewer than are needed.
    pub held: u8,
    /// How many must.
    pub needed: u8,
    /// How many members it has.
    pub members: u8,
    /// Which set it is.
    pub side: Side,
}

/// Which set of replicas, seen from a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The only one: it does not move.
    Only,
    /// Those it moves from.
    From,
    /// Those it moves to.
    To,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} replicas{}", self.held, self.needed, self.side)
    }
}

/// What is said after "replicas".
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Only => "",
            Self::From => " that the partition moves from",
            Self::To => " that the partition moves to",
        })
    }
}

impl QuorumSet {
    fn lacks(&self, holds: impl Fn(NodeId) -> bool) -> bool {
        self.held(holds) < usize::from(self.needed)
    }

    fn held(&self, holds: impl Fn(NodeId) -> bool) -> usize {
        self.members.iter().filter(|member| holds(**member)).count()
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

    /// Whether any two quorums of each set share a member.
    #[must_use]
    pub fn overlap(&self) -> bool {
        self.0.iter().all(|set| usize::from(set.needed) * 2 > set.members.len())
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

    /// What the first set lacks that has no quorum of the nodes for which `holds` is true.
    #[must_use]
    pub fn shortfall(&self, holds: impl Fn(NodeId) -> bool) -> Shortfall {
        let lacking = self.0.iter().position(|set| set.lacks(&holds)).unwrap_or(0);
        let set = self.0.get(lacking).expect("there is one set at least");
        let side = match (self.0.len(), lacking) {
            (1, _) => Side::Only,
            (_, 0) => Side::From,
            _ => Side::To,
        };
        // A partition has few replicas.
        let few = |count: usize| u8::try_from(count).unwrap_or(u8::MAX);
        let (held, members) = (few(set.held(holds)), few(set.members.len()));
        Shortfall { held, needed: set.needed, members, side }
    }

    /// The most that any set needs.
    fn needed(&self) -> u8 {
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
        assert!(joint.overlap() && !Quorums::joint(set(&[1, 2, 3], 2), set(&[3, 4], 1)).overlap());
        let one = Quorums::of(set(&[1, 2, 3], 2));
        assert!(one.is_met(|node| node != NodeId([2; 32])) && !one.is_met(|node| node == NodeId([2; 32])));
    }

    #[test]
    fn a_shortfall_counts_the_set_that_lacks_a_quorum_and_no_other() {
        let joint = Quorums::joint(set(&[1, 2, 3], 2), set(&[3, 4, 5, 6, 7], 3));
        let told = |quorums: &Quorums, holders: &[u8]| {
            quorums.shortfall(|node| holders.iter().any(|byte| node == NodeId([*byte; 32]))).to_string()
        };
        assert_eq!(told(&joint, &[1, 2, 3]), "1 of 3 replicas that the partition moves to");
        assert_eq!(told(&joint, &[3, 4, 5]), "1 of 2 replicas that the partition moves from");
        assert_eq!(told(&joint, &[]), "0 of 2 replicas that the partition moves from");
        let one = Quorums::of(set(&[1, 2, 3], 2));
        assert_eq!(told(&one, &[3, 4, 5]), "1 of 2 replicas");
        let expected = Shortfall { held: 1, needed: 2, members: 3, side: Side::Only };
        assert_eq!(one.shortfall(|node| node == NodeId([1; 32])), expected);
    }
}
