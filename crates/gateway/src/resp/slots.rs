//! Which nodes serve which slots, as Redis Cluster clients are told: the first node of a slot is its master.
//!
//! Every replica takes every write, so a replica that is present stands in for an absent first one and nothing moves.

use std::collections::BTreeMap;

use slipring_model::{BucketId, NodeId, PartitionId, SLOT_COUNT};
use slipring_node::{Node, Presence};
use slipring_ring::Layout;

/// Slots with the same nodes.
pub(crate) struct Range {
    pub(crate) first: u16,
    pub(crate) last: u16,
    /// Nodes that are present, in preference order, and then the others.
    pub(crate) nodes: Vec<NodeId>,
}

impl Range {
    pub(crate) fn slot_count(&self) -> u16 {
        self.last - self.first + 1
    }
}

/// The slots of one bucket and the presence of every member, both at one moment.
pub(crate) struct SlotTable {
    pub(crate) ranges: Vec<Range>,
    presences: BTreeMap<NodeId, Presence>,
}

impl SlotTable {
    pub(crate) fn new(node: &Node, layout: &Layout, bucket: BucketId) -> Self {
        let presences: BTreeMap<NodeId, Presence> =
            layout.nodes().keys().map(|member| (*member, node.presence(*member))).collect();
        let lists = (0..layout.partition_count()).map(|partition| {
            layout.replicas(bucket, PartitionId(partition)).iter().map(|replica| replica.node).collect()
        });
        let mut table = Self { ranges: Vec::new(), presences };
        table.ranges = table.join(SLOT_COUNT >> layout.bits(), lists);
        table
    }

    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        self.presences.get(&node).copied().unwrap_or(Presence::Absent)
    }

    pub(crate) fn is_present(&self, node: NodeId) -> bool {
        self.presence(node) == Presence::Present
    }

    /// How many slots have a first node of this presence.
    pub(crate) fn slots_led(&self, presence: Presence) -> u16 {
        let led = |range: &&Range| range.nodes.first().is_some_and(|node| self.presence(*node) == presence);
        self.ranges.iter().filter(led).map(Range::slot_count).sum()
    }

    /// Neighbours with equal lists become one range.
    fn join(&self, slots_each: u16, lists: impl Iterator<Item = Vec<NodeId>>) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        let mut first = 0;
        for mut nodes in lists {
            nodes.sort_by_key(|node| !self.is_present(*node));
            let last = first + (slots_each - 1);
            match ranges.last_mut() {
                Some(range) if range.nodes == nodes => range.last = last,
                _ => ranges.push(Range { first, last, nodes }),
            }
            first = last + 1;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);

    /// Four partitions of 4096 slots; A is first in two of them.
    fn table(a: Presence, b: Presence) -> SlotTable {
        let presences = BTreeMap::from([(A, a), (B, b), (C, Presence::Present)]);
        let mut table = SlotTable { ranges: Vec::new(), presences };
        let lists = [vec![A, B, C], vec![B, A, C], vec![B, A, C], vec![A, B]];
        table.ranges = table.join(4096, lists.into_iter());
        table
    }

    fn firsts(table: &SlotTable) -> Vec<(u16, u16, NodeId)> {
        table
            .ranges
            .iter()
            .filter_map(|range| Some((range.first, range.last, *range.nodes.first()?)))
            .collect()
    }

    #[test]
    fn present_nodes_keep_the_preference_order() {
        let table = table(Presence::Present, Presence::Present);
        assert_eq!(firsts(&table), [(0, 4095, A), (4096, 12287, B), (12288, 16383, A)]);
        assert_eq!(table.slots_led(Presence::Present), SLOT_COUNT);
    }

    #[test]
    fn replica_stands_in_for_a_first_node_that_is_away() {
        for away in [Presence::Suspected, Presence::Absent] {
            let table = table(away, Presence::Present);
            assert!(firsts(&table).iter().all(|(_, _, node)| *node == B));
            let lasts: Vec<_> = table.ranges.iter().map(|range| range.nodes.last()).collect();
            assert!(lasts.iter().all(|node| *node == Some(&A)), "the absent one is last");
        }
    }

    #[test]
    fn slots_without_a_present_node_keep_their_first() {
        let table = table(Presence::Absent, Presence::Suspected);
        assert_eq!(firsts(&table), [(0, 4095, C), (4096, 12287, C), (12288, 16383, A)]);
        let counts = [Presence::Present, Presence::Suspected, Presence::Absent].map(|p| table.slots_led(p));
        assert_eq!(counts, [12288, 0, 4096]);
    }
}
