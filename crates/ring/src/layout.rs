//! The layout document: nodes, buckets, and who holds what, under one epoch.
//!
//! Changed only by commands that the layout group has agreed on, in their order; applying one is
//! deterministic, so every node that has applied the same commands has the same document.
//!
//! Invariant: each change raises the epoch by one; an assignment id is the index of the command that made the
//! assignment and is never used again, nor is a bucket's number.

mod command;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slipring_model::{
    BucketId, BucketName, BucketPolicy, ClusterId, Mutant, NodeId, PartitionId, StorageId, limits,
};

pub use command::{Applied, Command, Refused};

use crate::placement::{Placement, Request, solve};

/// How the copies of a bucket are spread: buckets with the same spread share one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spread {
    /// Copies of each partition.
    pub replicas: u8,
}

/// One node's copy of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// The index of the command that placed it there.
    pub assignment: u64,
}

/// Where a node can be reached; each `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// By its peers.
    pub peer: String,
    /// By Redis clients.
    pub redis: String,
    /// By HTTP clients.
    pub http: String,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its data directory.
    pub storage: StorageId,
    /// Its latest start.
    pub incarnation: u64,
    /// Drawn at that start.
    pub boot: u64,
    /// Its number in the layout group.
    pub raft_id: u64,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// Where it stands.
    pub zone: String,
    /// Its share, relative to the others'.
    pub weight: u32,
}

impl NodeEntry {
    /// Whether a start of this member came from an older copy of its data directory than one known already.
    #[must_use]
    pub fn is_rolled_back(&self, incarnation: u64, boot: u64) -> bool {
        let is_older = incarnation < self.incarnation || incarnation == self.incarnation && boot != self.boot;
        is_older && !Mutant::AcceptRollback.is_planted()
    }
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketEntry {
    /// Its name.
    pub name: BucketName,
    /// What it promises.
    pub policy: BucketPolicy,
}

/// How much of the ring a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Copies of partitions, summed over all spreads.
    pub replicas: u32,
    /// Those of which it is the primary.
    pub primaries: u32,
}

/// Who holds what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    epoch: u64,
    cluster: ClusterId,
    bits: u8,
    nodes: BTreeMap<NodeId, NodeEntry>,
    buckets: BTreeMap<BucketId, BucketEntry>,
    next_bucket: u32,
    /// By copies per partition.
    tables: BTreeMap<u8, Vec<Vec<Replica>>>,
}

impl Layout {
    /// The first layout of a cluster: one node, the buckets `default` and `cache`, `1 << bits` partitions.
    #[must_use]
    pub fn found(cluster: ClusterId, bits: u8, founder: (NodeId, NodeEntry)) -> Self {
        let name = |text: &str| text.parse().expect("the name is valid");
        let default = BucketEntry { name: name("default"), policy: BucketPolicy::durable() };
        let cache = BucketEntry { name: name("cache"), policy: BucketPolicy::cache() };
        let mut layout = Self {
            epoch: 1,
            cluster,
            bits: bits.clamp(1, limits::PARTITION_BITS_MAX),
            nodes: BTreeMap::from([founder]),
            buckets: BTreeMap::from([(BucketId(0), default), (BucketId(1), cache)]),
            next_bucket: 2,
            tables: BTreeMap::new(),
        };
        layout.place(1).expect("one node can hold everything");
        layout
    }

    /// The version; each change raises it by one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How many bits of a position name its partition.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partition_count(&self) -> u16 {
        1 << self.bits
    }

    /// The members.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeEntry> {
        &self.nodes
    }

    /// The buckets.
    #[must_use]
    pub fn buckets(&self) -> &BTreeMap<BucketId, BucketEntry> {
        &self.buckets
    }

    /// The bucket with this name.
    #[must_use]
    pub fn bucket_named(&self, name: &str) -> Option<(BucketId, &BucketEntry)> {
        self.buckets.iter().find(|(_, entry)| entry.name.to_string() == name).map(|(id, entry)| (*id, entry))
    }

    /// The nodes that hold a partition of a bucket, in preference order; empty when there is no such bucket.
    #[must_use]
    pub fn replicas(&self, bucket: BucketId, partition: PartitionId) -> &[Replica] {
        let table = self.buckets.get(&bucket).and_then(|entry| self.tables.get(&entry.policy.replicas));
        table.and_then(|table| table.get(partition.index())).map_or(&[], Vec::as_slice)
    }

    /// How much each node holds.
    #[must_use]
    pub fn load(&self) -> BTreeMap<NodeId, NodeLoad> {
        let mut load: BTreeMap<NodeId, NodeLoad> =
            self.nodes.keys().map(|node| (*node, NodeLoad::default())).collect();
        for set in self.tables.values().flatten() {
            for (place, replica) in set.iter().enumerate() {
                let node = load.entry(replica.node).or_default();
                node.replicas += 1;
                node.primaries += u32::from(place == 0);
            }
        }
        load
    }

    /// Who should vote in the layout group: one of two nodes, three of three or four, five of more.
    ///
    /// Zones are taken in turn, in each the node that joined first.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let wanted = match self.nodes.len() {
            0..=2 => 1,
            3..=4 => 3,
            _ => limits::LAYOUT_VOTERS_MAX,
        };
        let mut by_age: Vec<(&NodeId, &NodeEntry)> = self.nodes.iter().collect();
        by_age.sort_by_key(|(_, entry)| entry.raft_id);
        let mut taken_of_zone: BTreeMap<&str, usize> = BTreeMap::new();
        let mut ranked: Vec<(usize, u64, NodeId)> = Vec::new();
        for (node, entry) in by_age {
            let turn = taken_of_zone.entry(&entry.zone).or_default();
            ranked.push((*turn, entry.raft_id, *node));
            *turn += 1;
        }
        ranked.sort_unstable();
        ranked.into_iter().take(wanted).map(|(_, _, node)| node).collect()
    }

    /// Places every table anew; pairs of partition and node that stay keep their assignment, others get `index`.
    fn place(&mut self, index: u64) -> Result<(), crate::Infeasible> {
        let spreads: BTreeSet<u8> = self.buckets.values().map(|entry| entry.policy.replicas).collect();
        let mut tables = BTreeMap::new();
        for replicas in spreads {
            let before = self.tables.get(&replicas).map_or(&[][..], Vec::as_slice);
            let nodes_before: Placement =
                before.iter().map(|set| set.iter().map(|replica| replica.node).collect()).collect();
            let nodes = self.nodes.iter().map(|(node, entry)| (*node, (entry.zone.clone(), entry.weight)));
            let request = Request {
                partitions: self.partition_count(),
                replicas,
                zones: replicas,
                nodes: nodes.collect(),
            };
            let placed = solve(&request, &nodes_before)?;
            let table = placed.into_iter().enumerate().map(|(partition, set)| {
                let held = before.get(partition).map_or(&[][..], Vec::as_slice);
                let assign = |node| {
                    let kept = held.iter().find(|replica| replica.node == node).copied();
                    kept.unwrap_or(Replica { node, assignment: index })
                };
                set.into_iter().map(assign).collect()
            });
            tables.insert(replicas, table.collect());
        }
        self.tables = tables;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
