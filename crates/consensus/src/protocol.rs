//! The words of the group: its types, its messages, and their encoding.
//!
//! A byte for the version comes before everything that is stored or sent, so that a later one can differ.

use std::fmt;

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use slipring_model::NodeId;
use slipring_ring::{Applied, Command, Layout, Refused};

use crate::lineage::Lineage;

const VERSION: u8 = 1;

openraft::declare_raft_types!(
    /// The layout group. Members are numbered by the layout; their address is their node id.
    pub(crate) Group:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = NodeId,
        AsyncRuntime = DeterministicRng<TokioRuntime>,
);

pub(crate) type Entry = openraft::alias::EntryOf<Group>;
pub(crate) type LogId = openraft::alias::LogIdOf<Group>;
pub(crate) type Vote = openraft::alias::VoteOf<Group>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Group>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Group>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<Group, String>;

/// One entry of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Proposal {
    /// The first document. Means nothing once there is one.
    Found(Box<Layout>),
    /// A change to it.
    Change(Box<Command>),
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(layout) => write!(f, "found {}", layout.cluster()),
            Self::Change(command) => write!(f, "{command:?}"),
        }
    }
}

/// What applying an entry came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Applied(Applied),
    Refused(Refused),
}

/// A call on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Parcel {
    /// The sender's.
    pub(crate) lineage: Lineage,
    pub(crate) call: Call,
}

/// What a member asks of another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Call {
    Append(AppendEntriesRequest<Group>),
    Vote(VoteRequest<Group>),
    PreVote(VoteRequest<Group>),
    Snapshot { vote: Vote, meta: SnapshotMeta, document: String },
    Transfer(TransferLeaderRequest<Group>),
    Propose { command: Command, deadline_ms: u64 },
}

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<Group>),
    Vote(VoteResponse<Group>),
    Snapshot(SnapshotResponse<Group>),
    Transfer(TransferLeaderResponse<Group>),
    Proposed(Outcome),
    /// The member does not lead, or leads no more; whether the command was appended is not known.
    NotLeading {
        may_have_happened: bool,
    },
    Failed(String),
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).expect("the group's words are plain data");
    bytes.into()
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
        Some((other, _)) => Err(format!("it is of version {other}, and this node knows {VERSION}")),
        None => Err("it is empty".to_owned()),
    }
}
