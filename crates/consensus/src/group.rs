//! A member of the layout group: founding, answering other members, telling what it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::alias::LeaderIdOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::Fatal;
use openraft::{Config, Instant as _, Raft, RaftMetrics, SnapshotPolicy};
use openraft_rt::deterministic_rng::DeterministicRng;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::Mutex;
use redb::Database;
use serde::{Deserialize, Serialize};
use slipring_model::NodeId;
use slipring_ring::{Layout, Refused};
use thiserror::Error;
use tokio::sync::{RwLock, watch};
use tokio::time::{Instant, timeout};

use crate::courier::{Courier, Lines};
use crate::document::Document;
use crate::lineage::{Ancestry, Lineage, Verdict};
use crate::log::Log;
use crate::protocol::{Answer, Call, Group, LogId, Parcel, Proposal, Snapshot, decode, encode};
use crate::reconcile;

/// How long a founder has to become leader of a group of one.
const FOUNDING_TIMEOUT: Duration = Duration::from_secs(10);
/// A leader that no majority has answered for so long leads nobody: several heartbeats, and longer than an election.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
/// Entries kept after a snapshot, for members that are a little behind.
const ENTRIES_KEPT: u64 = 200;

/// How the group keeps time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Between two heartbeats of the leader, in milliseconds.
    pub heartbeat_ms: u64,
    /// Without a heartbeat for this long, drawn between the two, members elect another leader; milliseconds.
    pub election_ms: (u64, u64),
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Where draws begin; the same seed draws the same.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { heartbeat_ms: 100, election_ms: (500, 1_000), snapshot_every: 500, seed: 0 }
    }
}

/// Why a member cannot start.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct Error(pub String);

/// Why a request of another member has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AnswerError {
    /// The group was recovered without the asker, which must not take part any more.
    #[error("the layout group was recovered without this node")]
    LeftBehind,
    /// This member knows of changes that the one who was recovered had not heard of: it must not go on.
    #[error(
        "the layout group was recovered from a node that had not heard of all that this one has: recover it from this \
         one instead, or remove this data directory and join anew"
    )]
    KnewLess,
    /// The asker's group and this one were recovered apart from each other: only one of the two may go on.
    #[error("the layout group was recovered twice, apart from each other")]
    Apart {
        /// Whether it is this one.
        goes_on: bool,
    },
    /// The asker's group was recovered, and this member has not heard of it from one that leads it.
    #[error("the layout group was recovered, and this node has not heard of it yet")]
    NotYet,
    /// The request cannot be read, or not be answered here.
    #[error(transparent)]
    Failed(Error),
}

/// Why a proposal has no result.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// It was agreed on and changed nothing.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It was not agreed on: no member leads.
    #[error("{0}")]
    Unavailable(String),
    /// It may be agreed on yet.
    #[error("{0}")]
    Unknown(String),
}

/// A member's view of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// Whether this member leads.
    pub is_leading: bool,
    /// Whether it leads nobody, as no majority has answered it lately; or has not heard of a leader lately.
    pub is_alone: bool,
    /// The vote that is on disk here.
    pub ballot: Ballot,
    /// The last entry this member knows to be committed and holds.
    pub committed: Option<EntryId>,
    /// The last entry applied.
    pub applied: Option<EntryId>,
    /// Who votes.
    pub voters: Vec<NodeId>,
}

impl GroupStatus {
    /// Who leads and can decide, as far as this member knows.
    #[must_use]
    pub fn deciding(&self) -> Option<NodeId> {
        self.leader.filter(|_| !self.is_alone)
    }
}

/// A candidacy. Ballots are ordered, and two nodes never have the same one; one term may see several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// The candidate's number in the group.
    pub candidate: u64,
}

/// An entry of the log. The later of two logs is the one whose last entry is the greater: the ballot comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EntryId {
    /// The ballot that made its author the leader.
    pub ballot: Ballot,
    /// Its place.
    pub index: u64,
}

/// This node's member of the layout group; clones are handles on the same one.
#[derive(Clone)]
pub struct LayoutGroup {
    pub(crate) raft: Raft<Group, Document>,
    pub(crate) lines: Lines,
    layouts: watch::Receiver<Option<Arc<Layout>>>,
    known_at_start: Option<LogId>,
    pub(crate) seed: u64,
    /// Whose turn it is to append: what only newer releases can read is appended alone.
    pub(crate) turns: Arc<RwLock<()>>,
    /// When a leader has told this member anything last.
    told: Arc<Mutex<Option<Instant>>>,
}

impl LayoutGroup {
    /// Whether a layout has been agreed on in this database.
    ///
    /// # Errors
    /// What is stored cannot be read.
    pub fn has_state(database: &Arc<Database>) -> Result<bool, Error> {
        Document::is_agreed(&Log(Arc::clone(database))).map_err(|error| Error(error.to_string()))
    }

    /// Founds the group with this node as its only voter and `layout` as the first document. May be repeated
    /// when it broke off.
    ///
    /// # Errors
    /// The database cannot be used.
    pub async fn found(
        database: Arc<Database>,
        settings: Settings,
        me: (NodeId, u64),
        layout: Layout,
        courier: Arc<dyn Courier>,
    ) -> Result<Self, Error> {
        let group = Self::resume(database, settings, me, courier).await?;
        let failed =
            |error: &dyn std::fmt::Display| Error(format!("the group could not be founded: {error}"));
        let founding = async {
            let is_begun = group.raft.is_initialized().await.map_err(|error| failed(&error))?;
            if !is_begun {
                let members = BTreeMap::from([(me.1, me.0)]);
                group.raft.initialize(members).await.map_err(|error| failed(&error))?;
            }
            while !group.is_leader() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let found = Proposal::Found(Box::new(layout));
            group.raft.client_write(found).await.map_err(|error| failed(&error)).map(drop)
        };
        let founded =
            timeout(FOUNDING_TIMEOUT, DeterministicRng::<TokioRuntime>::scope(settings.seed, founding));
        founded.await.unwrap_or_else(|_| Err(Error("the group could not be founded in time".to_owned())))?;
        Ok(group)
    }

    /// Goes on from what the database holds; a node that was just admitted waits to hear from the leader.
    ///
    /// # Errors
    /// What is stored cannot be read.
    pub async fn resume(
        database: Arc<Database>,
        settings: Settings,
        me: (NodeId, u64),
        courier: Arc<dyn Courier>,
    ) -> Result<Self, Error> {
        let failed = |error: &dyn std::fmt::Display| Error(error.to_string());
        let log = Log(database);
        let (sender, layouts) = watch::channel(None);
        let document = Document::open(log.clone(), Arc::new(sender)).map_err(|error| failed(&error))?;
        let config = settings.config().map_err(|error| failed(&error))?;
        let known_at_start = document.applied().max(log.committed().map_err(|error| failed(&error))?);
        let ancestry = Ancestry::open(log.clone()).map_err(|error| failed(&error))?;
        let lines = Lines { courier, ancestry };
        let starting = Raft::new(me.1, Arc::new(config), lines.clone(), log, document);
        let raft = DeterministicRng::<TokioRuntime>::scope(settings.seed, starting);
        let raft = raft.await.map_err(|error| failed(&error))?;
        let (turns, told) = Default::default();
        let group = Self { raft, lines, layouts, known_at_start, seed: settings.seed, turns, told };
        tokio::spawn(DeterministicRng::<TokioRuntime>::scope(
            settings.seed ^ 1,
            reconcile::run(group.clone()),
        ));
        Ok(group)
    }

    /// The layout as far as this member has applied it; `None` until it has heard of one.
    #[must_use]
    pub fn layout(&self) -> watch::Receiver<Option<Arc<Layout>>> {
        self.layouts.clone()
    }

    /// Answers one request of another member.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub async fn answer(&self, request: Bytes) -> Result<Bytes, AnswerError> {
        let Parcel { lineage, call } = parcel(&request)?;
        let leads = matches!(call, Call::Append(_) | Call::Snapshot { .. });
        self.meet(&lineage, leads)?;
        if leads {
            *self.told.lock() = Some(Instant::now());
        }
        Ok(encode(&DeterministicRng::<TokioRuntime>::scope(self.seed ^ 2, self.answer_call(call)).await))
    }

    /// Judges a request of a node that is no member, and does nothing about it.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn judge(&self, request: &[u8]) -> Result<(), AnswerError> {
        self.meet(&parcel(request)?.lineage, false)
    }

    fn meet(&self, lineage: &Lineage, leads: bool) -> Result<(), AnswerError> {
        let failed = |what: String| AnswerError::Failed(Error(what));
        let known = self.known();
        let ancestry = &self.lines.ancestry;
        match ancestry.meet(lineage, known, leads).map_err(|error| failed(error.to_string()))? {
            Verdict::Known => Ok(()),
            Verdict::LeftBehind if ancestry.current().is_followed(known) => Err(AnswerError::LeftBehind),
            Verdict::KnewLess => Err(AnswerError::KnewLess),
            Verdict::Apart { goes_on } => Err(AnswerError::Apart { goes_on }),
            Verdict::NotYet => Err(AnswerError::NotYet),
            Verdict::LeftBehind => {
                Err(failed("the layout group was recovered, and not all have heard of it yet".to_owned()))
            }
        }
    }

    /// The last entry that is agreed on, as far as this member has ever known.
    fn known(&self) -> Option<LogId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        self.known_at_start.max(metrics.local_committed).max(metrics.last_applied)
    }

    async fn answer_call(&self, call: Call) -> Answer {
        let failed = |error: &dyn std::fmt::Display| Answer::Failed(error.to_string());
        match call {
            Call::Append(rpc) => {
                self.raft.append_entries(rpc).await.map_or_else(|error| failed(&error), Answer::Append)
            }
            Call::Vote(rpc) => self.raft.vote(rpc).await.map_or_else(|error| failed(&error), Answer::Vote),
            Call::PreVote(rpc) => {
                self.raft.pre_vote(rpc).await.map_or_else(|error| failed(&error), Answer::Vote)
            }
            Call::Snapshot { vote, meta, document } => {
                let installed =
                    self.raft.install_full_snapshot(vote, Snapshot { meta, snapshot: document }).await;
                installed.map_or_else(|error| failed(&error), Answer::Snapshot)
            }
            Call::Transfer(rpc) => self
                .raft
                .handle_transfer_leader(rpc)
                .await
                .map_or_else(|error| failed(&error), Answer::Transfer),
            Call::Propose { command, deadline_ms } => {
                self.propose_here(command, Instant::now() + Duration::from_millis(deadline_ms)).await
            }
        }
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.get_node(&metrics.current_leader?).copied()
    }

    /// Whether this member leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// What this member knows of its group.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let leader = self.leader();
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let ballot = |id: &LeaderIdOf<Group>| Ballot { term: id.term, candidate: id.node_id };
        let entry = |id: LogId| EntryId { index: id.index, ballot: ballot(&id.leader_id) };
        GroupStatus {
            leader,
            is_leading: metrics.state.is_leader(),
            is_alone: self.is_alone(&metrics),
            ballot: ballot(&metrics.vote.leader_id),
            committed: metrics.local_committed.map(entry),
            applied: metrics.last_applied.map(entry),
            voters: membership.voter_ids().filter_map(|id| membership.get_node(&id).copied()).collect(),
        }
    }

    /// Whether a leader among several voters has not been answered by a majority of them for long, or another member
    /// has not been told anything by a leader.
    fn is_alone(&self, metrics: &RaftMetrics<Group>) -> bool {
        if !metrics.state.is_leader() {
            return self.told.lock().is_none_or(|told| told.elapsed() >= ANSWERED_WITHIN);
        }
        let is_answered =
            metrics.last_quorum_acked.is_some_and(|acked| acked.into_inner().elapsed() < ANSWERED_WITHIN);
        metrics.membership_config.voter_ids().count() > 1 && !is_answered
    }

    /// Why this member cannot go on, if so: its log or its document could not be stored.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match &metrics.running_state {
            Err(Fatal::Stopped) | Ok(()) => None,
            Err(fatal) => Some(fatal.to_string()),
        }
    }

    /// Stops this member.
    pub async fn shutdown(&self) {
        if self.raft.shutdown().await.is_err() {
            tracing::warn!("the layout group's task had ended before it was stopped");
        }
    }
}

fn parcel(request: &[u8]) -> Result<Parcel, AnswerError> {
    let malformed = |error| AnswerError::Failed(Error(format!("a group request is malformed: {error}")));
    decode(request).map_err(malformed)
}

impl Settings {
    fn config(&self) -> Result<Config, openraft::ConfigError> {
        Config {
            cluster_name: "layout".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_ms.0,
            election_timeout_max: self.election_ms.1,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: ENTRIES_KEPT,
            enable_pre_vote: Some(true),
            ..Config::default()
        }
        .validate()
    }
}
