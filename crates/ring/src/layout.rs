//! The layout document: nodes, buckets, and who holds what, under one epoch.
//!
//! Changed only by commands that the layout group has agreed on, in their order; applying one is
//! deterministic, so every node that has applied the same commands has the same document.
//!
//! Invariant: each change raises the epoch by one; an assignment id is the index of the command that made the
//! assignment and is never used again, nor is a bucket's number.

mod change;
mod command;
mod node;
mod replacement;
mod split;
mod spread;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slipring_model::{BucketId, BucketName, BucketPolicy, ClusterId, NodeId, PartitionId, Versions, limits};

pub use change::{Change, Changes, Exposure, NodeChange, Plan, PlannedMove};
pub use command::{Applied, Command, Refused};
pub use node::{Addresses, NodeEntry, NodeState, Role, is_older, start_statement};
pub use spread::{Spread, TableId};
pub use table::{Holders, Move, MoveId, Replica};

use replacement::StandIns;
use table::Table;

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketEntry {
    /// Its name.
    pub name: BucketName,
    /// What it promises.
    pub policy: BucketPolicy,
    /// How many copies it was made with, once it has had another number: since then no other uses its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_with: Option<u8>,
}

impl BucketEntry {
    fn new(name: BucketName, policy: BucketPolicy) -> Self {
        Self { name, policy, made_with: None }
    }
}

/// Why a name names no member.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NotOneMember {
    /// No member has it.
    #[error("no member is called \"{0}\": give the beginning of its id, or one of its addresses")]
    Nobody(String),
    /// Several ids begin so.
    #[error("several members are called \"{0}\": give more of the id")]
    Several(String),
}

/// How much of the ring a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Copies of partitions, summed over all tables.
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
    /// How often every partition has been halved since the founding.
    #[serde(default)]
    splits: u8,
    nodes: BTreeMap<NodeId, NodeEntry>,
    buckets: BTreeMap<BucketId, BucketEntry>,
    next_bucket: u32,
    tables: BTreeMap<TableId, Table>,
    /// The newest version of the protocol that anything in it needs; who does not speak it cannot be a member.
    #[serde(default)]
    floor: u8,
    /// What the nodes' roles were before the moves under way began.
    roles_before: Option<BTreeMap<NodeId, Role>>,
    /// How many copies buckets had then, those that have another number now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    copies_before: BTreeMap<BucketId, u8>,
}

impl Layout {
    /// The first layout of a cluster: one node, the buckets `default` and `cache`, `1 << bits` partitions.
    #[must_use]
    pub fn found(cluster: ClusterId, bits: u8, founder: (NodeId, NodeEntry)) -> Self {
        let name = |text: &str| text.parse().expect("the name is valid");
        let default = BucketEntry::new(name("default"), BucketPolicy::durable());
        let cache = BucketEntry::new(name("cache"), BucketPolicy::cache());
        let mut layout = Self {
            epoch: 1,
            cluster,
            bits: bits.clamp(1, limits::PARTITION_BITS_MAX),
            splits: 0,
            nodes: BTreeMap::from([founder]),
            buckets: BTreeMap::from([(BucketId(0), default), (BucketId(1), cache)]),
            next_bucket: 2,
            tables: BTreeMap::new(),
            floor: Versions::UNTOLD.newest,
            roles_before: None,
            copies_before: BTreeMap::new(),
        };
        layout.place(1, 1, &StandIns::new()).expect("one node can hold everything");
        layout
    }

    /// The version; each change raises it by one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Leaves so many epochs out: layouts may have had them that nobody knows any more.
    pub fn skip(&mut self, epochs: u64) {
        self.epoch += epochs;
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

    /// The newest version of the protocol that every member speaks. What came with a later one is refused: some
    /// member could not read it.
    #[must_use]
    pub fn level(&self) -> u8 {
        self.nodes.values().map(|entry| entry.versions.newest).min().unwrap_or(Versions::UNTOLD.newest)
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

    /// The one member whose id begins so, or that has this address.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn member_called(&self, name: &str) -> Result<NodeId, NotOneMember> {
        let is_meant = |(id, entry): &(&NodeId, &NodeEntry)| {
            let Addresses { peer, redis, http, redis_cluster } = &entry.addresses;
            !name.is_empty()
                && (id.to_string().starts_with(name)
                    || [peer, redis, http, redis_cluster].iter().any(|address| *address == name))
        };
        let mut meant = self.nodes.iter().filter(is_meant);
        match (meant.next(), meant.next()) {
            (Some((id, _)), None) => Ok(*id),
            (None, _) => Err(NotOneMember::Nobody(name.to_owned())),
            _ => Err(NotOneMember::Several(name.to_owned())),
        }
    }

    /// The nodes that hold a partition of a bucket, in preference order; empty when there is no such bucket.
    ///
    /// While it moves, those it moves away from.
    #[must_use]
    pub fn replicas(&self, bucket: BucketId, partition: PartitionId) -> &[Replica] {
        self.holders(bucket, partition).map_or(&[], |holders| holders.replicas.as_slice())
    }

    /// Who holds a partition of a bucket, and where it moves.
    #[must_use]
    pub fn holders(&self, bucket: BucketId, partition: PartitionId) -> Option<&Holders> {
        self.tables.get(&self.table_of(bucket)?)?.get(partition.index())
    }

    /// The partitions that move, by table.
    pub fn moves(&self) -> impl Iterator<Item = (MoveId, &Holders)> {
        self.tables.iter().flat_map(|(id, table)| table::moves(*id, table))
    }

    /// How much each node holds; of partitions that move, what it will hold.
    #[must_use]
    pub fn load(&self) -> BTreeMap<NodeId, NodeLoad> {
        let mut load: BTreeMap<NodeId, NodeLoad> =
            self.nodes.keys().map(|node| (*node, NodeLoad::default())).collect();
        for holders in self.tables.values().flatten() {
            for (place, replica) in holders.target().iter().enumerate() {
                let node = load.entry(replica.node).or_default();
                node.replicas += 1;
                node.primaries += u32::from(place == 0);
            }
        }
        load
    }

    /// Who should vote in the layout group: one of two nodes, three of three or four, five of more.
    ///
    /// Zones are taken in turn, in each the node that joined first; who leaves votes only where
    /// nobody else can, and who is lost no more.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<NodeId> {
        let mut by_age: Vec<(&NodeId, &NodeEntry)> =
            self.nodes.iter().filter(|(_, entry)| entry.role.state != NodeState::Lost).collect();
        let wanted = match by_age.len() {
            0..=2 => 1,
            3..=4 => 3,
            _ => limits::LAYOUT_VOTERS_MAX,
        };
        by_age.sort_by_key(|(_, entry)| entry.raft_id);
        let mut taken_of_zone: BTreeMap<&str, usize> = BTreeMap::new();
        let mut ranked: Vec<(bool, usize, u64, NodeId)> = Vec::new();
        for (node, entry) in by_age {
            let turn = taken_of_zone.entry(&entry.role.zone).or_default();
            ranked.push((!entry.role.state.stays(), *turn, entry.raft_id, *node));
            *turn += 1;
        }
        ranked.sort_unstable();
        ranked.into_iter().take(wanted).map(|(.., node)| node).collect()
    }
}

#[cfg(test)]
mod tests;
