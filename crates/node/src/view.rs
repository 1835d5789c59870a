//! What the data path needs of the layout, laid out for looking up: one place per bucket and partition.
//!
//! A view is made anew whenever the layout changes and never altered; requests hold the one they began with.

use std::sync::Arc;

use slipring_model::{BucketId, NodeId, Position, Quorum};
use slipring_ring::Layout;
use smallvec::SmallVec;

use crate::bucket::Bucket;

/// One version of the layout, as seen from one node.
pub(crate) struct View {
    pub(crate) layout: Arc<Layout>,
    pub(crate) bits: u8,
    buckets: Vec<Option<BucketView>>,
}

/// One bucket in one version of the layout.
pub(crate) struct BucketView {
    pub(crate) bucket: Arc<Bucket>,
    pub(crate) places: Vec<Place>,
}

/// Where one partition of one bucket lies.
pub(crate) struct Place {
    /// The replicas, in preference order.
    pub(crate) replicas: SmallVec<[NodeId; 3]>,
    /// This node's assignment, when it is one of them.
    pub(crate) mine: Option<u64>,
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
        for id in layout.buckets().keys() {
            let bucket = bucket_of(*id);
            let places = places(&layout, me, &bucket);
            buckets.resize_with(id.0 as usize, || None);
            buckets.push(Some(BucketView { bucket, places }));
        }
        Self { bits: layout.bits(), layout, buckets }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.layout.epoch()
    }

    pub(crate) fn bucket(&self, id: BucketId) -> Option<&BucketView> {
        self.buckets.get(id.0 as usize)?.as_ref()
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
        if self.replicas.len() == 1 { self.mine } else { None }
    }

    /// The replicas other than `me`, in preference order.
    pub(crate) fn others(&self, me: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.iter().copied().filter(move |node| *node != me)
    }
}

fn places(layout: &Layout, me: NodeId, bucket: &Bucket) -> Vec<Place> {
    let place = |partition| {
        let replicas = layout.replicas(bucket.id, slipring_model::PartitionId(partition));
        let mine = replicas.iter().find(|replica| replica.node == me).map(|replica| replica.assignment);
        let nodes: SmallVec<[NodeId; 3]> = replicas.iter().map(|replica| replica.node).collect();
        let quorum = bucket.policy.quorum(nodes.len() as u8);
        Place { replicas: nodes, mine, quorum }
    };
    (0..layout.partition_count()).map(place).collect()
}
