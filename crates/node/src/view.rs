//! What the data path needs of the layout, laid out for looking up: one place per bucket and partition.
//!
//! A view is made anew whenever the layout changes and never altered; requests hold the one they began with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use slipring_model::{BucketId, NodeId, PartitionId, Position, Quorum};
use slipring_replication::{QuorumSet, Quorums};
use slipring_ring::{Holders, Layout, Replica, TableId};
use smallvec::SmallVec;

use crate::bucket::Bucket;

/// One version of the layout, as seen from one node.
pub(crate) struct View {
    pub(crate) layout: Arc<Layout>,
    pub(crate) bits: u8,
    /// Whether its buckets are being cut anew, for the view that comes next.
    is_ending: AtomicBool,
    buckets: Vec<Option<BucketView>>,
}

/// One bucket in one version of the layout.
pub(crate) struct BucketView {
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) table: TableId,
    pub(crate) places: Vec<Place>,
}

/// Where one partition of one bucket lies.
pub(crate) struct Place {
    /// The replicas, in preference order; while it moves, those it moves away from.
    pub(crate) replicas: SmallVec<[NodeId; 3]>,
    /// This node's assignment, when it holds the partition or is to hold it.
    pub(crate) mine: Option<u64>,
    pub(crate) quorum: Quorum,
    /// Where it moves.
    pub(crate) next: Option<Box<NextPlace>>,
    /// Requests made under an older layout than this are refused.
    pub(crate) since: u64,
}

/// Where a partition moves.
pub(crate) struct NextPlace {
    pub(crate) replicas: SmallVec<[NodeId; 3]>,
    pub(crate) quorum: Quorum,
}

impl View {
    /// The view of `layout` from `me`; `bucket_of` gives the running bucket for an id.
    pub(crate) fn new(
        layout: Arc<Layout>,
        me: NodeId,
        mut bucket_of: impl FnMut(BucketId) -> Arc<Bucket>,
    ) -> Self {
        let mut buckets: Vec<Option<BucketView>> = Vec::new();
        for (id, entry) in layout.buckets() {
            let bucket = bucket_of(*id);
            let places = places(&layout, me, &bucket);
            buckets.resize_with(id.0 as usize, || None);
            buckets.push(Some(BucketView { bucket, table: entry.table(*id), places }));
        }
        Self { bits: layout.bits(), is_ending: AtomicBool::new(false), layout, buckets }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.layout.epoch()
    }

    /// Whether the ring is cut by so many bits; by those of the founding when none are told.
    pub(crate) fn is_cut_into(&self, bits: Option<u8>) -> bool {
        bits.unwrap_or(self.layout.bits_founded()) == self.bits
    }

    /// From now on partitions refuse what they are asked for under this view, and another view is about to come.
    pub(crate) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// The layout under which a request goes on that a partition has refused as stale under this view, or an older.
    pub(crate) fn epoch_to_wait_for(&self) -> u64 {
        self.epoch() + u64::from(self.is_ending.load(Ordering::Acquire))
    }

    pub(crate) fn bucket(&self, id: BucketId) -> Option<&BucketView> {
        self.buckets.get(id.0 as usize)?.as_ref()
    }

    /// How many copies of each key a bucket is to have.
    pub(crate) fn replicas(&self, id: BucketId) -> u8 {
        self.layout.buckets().get(&id).map_or(0, |entry| entry.policy.replicas)
    }

    pub(crate) fn buckets(&self) -> impl Iterator<Item = &BucketView> {
        self.buckets.iter().flatten()
    }

    pub(crate) fn place(&self, bucket: BucketId, position: Position) -> Option<(&BucketView, &Place)> {
        let view = self.bucket(bucket)?;
        Some((view, view.places.get(position.partition(self.bits).index())?))
    }
}

impl Place {
    /// This node's assignment when it is the only replica.
    pub(crate) fn alone(&self) -> Option<u64> {
        if self.replicas.len() == 1 && self.next.is_none() { self.mine } else { None }
    }

    /// Whether a node has all that the partition holds.
    pub(crate) fn is_held_by(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
    }

    /// Whether each of two nodes has all that the partition holds.
    pub(crate) fn is_held_by_both(&self, one: NodeId, other: NodeId) -> bool {
        self.is_held_by(one) && self.is_held_by(other)
    }

    /// Whether what was read of this node's copy under the layout `epoch` counts under this one.
    pub(crate) fn still_counts(&self, epoch: u64) -> bool {
        self.since <= epoch && self.mine.is_some()
    }

    /// How many copies each key has now: those of the smaller set, while it moves.
    pub(crate) fn copies(&self) -> u8 {
        self.next.as_ref().map_or(self.quorum.n, |next| next.quorum.n.min(self.quorum.n))
    }

    /// Who holds the partition or is to hold it, in preference order.
    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let next = self.next.iter().flat_map(|next| &next.replicas);
        self.replicas.iter().chain(next.filter(|node| !self.replicas.contains(node))).copied()
    }

    /// The members other than `me`, in preference order.
    pub(crate) fn others(&self, me: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.members().filter(move |node| *node != me)
    }

    /// The quorums a read needs, with the request's own wish.
    pub(crate) fn read_quorums(&self, wish: Option<u8>) -> Quorums {
        self.quorums(wish, |quorum| quorum.r)
    }

    /// The quorums a write needs, with the request's own wish.
    pub(crate) fn write_quorums(&self, wish: Option<u8>) -> Quorums {
        self.quorums(wish, |quorum| quorum.w)
    }

    fn quorums(&self, wish: Option<u8>, policy: impl Fn(&Quorum) -> u8) -> Quorums {
        let set = |members: &SmallVec<[NodeId; 3]>, quorum: &Quorum| QuorumSet {
            members: members.clone(),
            // A wish beyond the members is never met: fewer acknowledgements would be a false answer.
            needed: wish.map_or(policy(quorum), |asked| asked.max(1)),
        };
        let own = set(&self.replicas, &self.quorum);
        match &self.next {
            None => Quorums::of(own),
            Some(next) => Quorums::joint(own, set(&next.replicas, &next.quorum)),
        }
    }
}

fn places(layout: &Layout, me: NodeId, bucket: &Bucket) -> Vec<Place> {
    let nodes = |replicas: &[Replica]| -> SmallVec<[NodeId; 3]> {
        replicas.iter().map(|replica| replica.node).collect()
    };
    let place = |holders: &Holders| {
        let replicas = nodes(&holders.replicas);
        let next = holders.next.as_ref().map(|next| {
            let replicas = nodes(&next.replicas);
            Box::new(NextPlace { quorum: bucket.policy.quorum(replicas.len() as u8), replicas })
        });
        Place {
            mine: holders.of(me).map(|replica| replica.assignment),
            quorum: bucket.policy.quorum(replicas.len() as u8),
            replicas,
            next,
            since: holders.since,
        }
    };
    let partitions = (0..layout.partition_count()).map(PartitionId);
    partitions.filter_map(|partition| layout.holders(bucket.id, partition)).map(place).collect()
}

#[cfg(test)]
pub(crate) mod tests;
