//! Which node is listed as the master of which slots, as Redis Cluster clients are told.
//!
//! Every replica takes every write, so a replica that is present stands in for an absent first one and nothing moves.
//! Replicas that are masters of no slot here are not listed for it: a node of Redis has one role, and each of these is a
//! master.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use slipring_model::{BucketId, NodeId, PartitionId, SLOT_COUNT};
use slipring_node::{Node, Presence};
use slipring_ring::Layout;

/// Slots with the same master.
pub(crate) struct Range {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) master: NodeId,
}

impl Range {
    pub(crate) fn slot_count(&self) -> u16 {
        self.last - self.first + 1
    }
}

/// The slots of one bucket and what is known of every member, both at one moment.
pub(crate) struct SlotTable {
    pub(crate) ranges: Vec<Range>,
    members: BTreeMap<NodeId, Member>,
}

/// What is known of a member.
#[derive(Clone, Copy)]
struct Member {
    presence: Presence,
    /// Whether it has told where cluster clients reach it. Members of older releases have no such port.
    has_address: bool,
}

impl SlotTable {
    pub(crate) fn new(node: &Node, layout: &Layout, bucket: BucketId) -> Self {
        let member = |member: &NodeId| {
            let (presence, address) = (node.presence(*member), node.redis_cluster_address(*member));
            (*member, Member { presence, has_address: !address.is_empty() })
        };
        let members = layout.nodes().keys().map(member).collect();
        let mut table = Self { ranges: Vec::new(), members };
        let partitions = (0..layout.partition_count()).map(PartitionId);
        let masters = partitions.map(|partition| {
            table.master(layout.replicas(bucket, partition).iter().map(|replica| replica.node))
        });
        table.ranges = join(SLOT_COUNT >> layout.bits(), masters);
        table
    }

    pub(crate) fn presence(&self, node: NodeId) -> Presence {
        self.members.get(&node).map_or(Presence::Absent, |member| member.presence)
    }

    /// How many slots have a master of this presence.
    pub(crate) fn slots_led(&self, presence: Presence) -> u16 {
        let led = |range: &&Range| self.presence(range.master) == presence;
        self.ranges.iter().filter(led).map(Range::slot_count).sum()
    }

    /// The slots that a node is master of.
    pub(crate) fn slots_of(&self, node: NodeId) -> impl Iterator<Item = RangeInclusive<u16>> {
        self.ranges.iter().filter(move |range| range.master == node).map(|range| range.first..=range.last)
    }

    /// Of the replicas in preference order the first that clients can use, or else the first of all.
    fn master(&self, replicas: impl Iterator<Item = NodeId>) -> Option<NodeId> {
        replicas.min_by_key(|node| match self.members.get(node) {
            Some(Member { presence: Presence::Present, has_address }) => u8::from(!has_address),
            _ => 2,
        })
    }
}

/// Neighbours with the same master become one range.
fn join(slots_each: u16, masters: impl Iterator<Item = Option<NodeId>>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    let firsts = (0..SLOT_COUNT).step_by(usize::from(slots_each));
    for (first, master) in firsts.zip(masters) {
        let Some(master) = master else { continue };
        let last = first + (slots_each - 1);
        match ranges.last_mut() {
            Some(range) if range.master == master && range.last + 1 == first => range.last = last,
            _ => ranges.push(Range { first, last, master }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);

    /// Four partitions of 4096 slots; A is first in two of them.
    fn table_of(members: [Member; 3]) -> SlotTable {
        let members = [A, B, C].into_iter().zip(members).collect();
        let mut table = SlotTable { ranges: Vec::new(), members };
        let lists = [vec![A, B, C], vec![B, A, C], vec![B, A, C], vec![A, B]];
        let masters: Vec<_> = lists.into_iter().map(|list| table.master(list.into_iter())).collect();
        table.ranges = join(4096, masters.into_iter());
        table
    }

    fn table(a: Presence, b: Presence) -> SlotTable {
        table_of([a, b, Presence::Present].map(|presence| Member { presence, has_address: true }))
    }

    fn masters(table: &SlotTable) -> Vec<(u16, u16, NodeId)> {
        table.ranges.iter().map(|range| (range.first, range.last, range.master)).collect()
    }

    #[test]
    fn present_nodes_keep_the_preference_order() {
        let table = table(Presence::Present, Presence::Present);
        assert_eq!(masters(&table), [(0, 4095, A), (4096, 12287, B), (12288, 16383, A)]);
        assert_eq!(table.slots_led(Presence::Present), SLOT_COUNT);
        assert_eq!(table.slots_of(A).collect::<Vec<_>>(), [0..=4095, 12288..=16383]);
        assert_eq!(table.slots_of(C).count(), 0);
    }

    #[test]
    fn replica_stands_in_for_a_first_node_that_is_away() {
        for away in [Presence::Suspected, Presence::Absent] {
            assert_eq!(masters(&table(away, Presence::Present)), [(0, 16383, B)]);
        }
    }

    #[test]
    fn slots_without_a_present_node_keep_their_first() {
        let table = table(Presence::Absent, Presence::Suspected);
        assert_eq!(masters(&table), [(0, 12287, C), (12288, 16383, A)]);
        let counts = [Presence::Present, Presence::Suspected, Presence::Absent].map(|p| table.slots_led(p));
        assert_eq!(counts, [12288, 0, 4096]);
    }

    #[test]
    fn member_without_a_cluster_port_comes_after_those_with_one() {
        let of = |has_address| Member { presence: Presence::Present, has_address };
        let away = Member { presence: Presence::Absent, has_address: true };
        assert_eq!(masters(&table_of([of(false), of(true), of(true)])), [(0, 16383, B)]);
        let expected = [(0, 12287, C), (12288, 16383, A)];
        assert_eq!(masters(&table_of([of(false), away, of(true)])), expected, "it is better than none");
    }
}
