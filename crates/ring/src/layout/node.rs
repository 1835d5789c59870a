//! Members: who they are, and what part of the ring is to be theirs.

use serde::{Deserialize, Serialize};
use slipring_model::{Mutant, NodeId, Signature, StorageId, Versions};

/// Where a node can be reached; each `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// By its peers.
    pub peer: String,
    /// By Redis clients.
    pub redis: String,
    /// By HTTP clients.
    pub http: String,
    /// By Redis Cluster clients. Empty where a member of an older release has written it down, or is meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub redis_cluster: String,
}

/// Whether a member is to hold anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It holds its share.
    #[default]
    Active,
    /// It gives away what it holds and stays a member.
    Drained,
    /// It gives away what it holds and then is no member any more.
    Leaving,
    /// Its data is given up: its share is rebuilt from other copies, and then it is no member any more.
    Lost,
}

impl NodeState {
    /// As it is called everywhere.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Drained => "drained",
            Self::Leaving => "leaving",
            Self::Lost => "lost",
        }
    }

    /// Whether it will still be a member when nothing moves any more.
    #[must_use]
    pub fn stays(self) -> bool {
        matches!(self, Self::Active | Self::Drained)
    }
}

/// What the placement asks of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// Where it stands.
    pub zone: String,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Whether it is to hold anything.
    pub state: NodeState,
}

impl Role {
    /// Its share as the placement sees it.
    #[must_use]
    pub fn share(&self) -> u32 {
        if self.state == NodeState::Active { self.weight } else { 0 }
    }
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
    /// What it is to hold.
    pub role: Role,
    /// The versions of the protocol that it spoke at that start.
    #[serde(default)]
    pub versions: Versions,
    /// The member's own signature under that start, as [`start_statement`] words it: with it anybody can show the member
    /// that it has started since its directory was copied.
    #[serde(default)]
    pub signature: Option<Signature>,
}

/// What a node signs of a start.
#[must_use]
pub fn start_statement(node: NodeId, storage: StorageId, incarnation: u64, boot: u64) -> Vec<u8> {
    let (incarnation, boot) = (incarnation.to_le_bytes(), boot.to_le_bytes());
    [&b"slipring: start of a node\0"[..], &node.0, &storage.0, &incarnation, &boot].concat()
}

impl NodeEntry {
    /// Whether a start of this member came from an older copy of its data directory than one known already.
    #[must_use]
    pub fn is_rolled_back(&self, incarnation: u64, boot: u64) -> bool {
        is_older((incarnation, boot), (self.incarnation, self.boot)) && !Mutant::AcceptRollback.is_planted()
    }
}

/// Whether a start, of an incarnation and a boot, came from an older copy of the directory than another start of the same
/// node.
#[must_use]
pub fn is_older(start: (u64, u64), other: (u64, u64)) -> bool {
    start.0 < other.0 || start.0 == other.0 && start.1 != other.1
}
