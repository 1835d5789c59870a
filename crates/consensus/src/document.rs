//! The agreed document: the layout as far as the log is applied.
//!
//! Invariant: document, applied index and membership are stored in one transaction.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use serde::{Deserialize, Serialize};
use slipring_ring::{Applied, Layout, Refused};
use tokio::sync::watch;

use crate::aside::aside;
use crate::log::{Log, damaged};
use crate::protocol::{
    Entry, Group, LogId, Outcome, Proposal, Snapshot, SnapshotMeta, StoredMembership, encode,
};

const DOCUMENT: &str = "document";

#[derive(Clone, Default, Serialize, Deserialize)]
struct Stored {
    applied: Option<LogId>,
    membership: StoredMembership,
    layout: Option<Layout>,
}

/// The state machine.
#[derive(Clone)]
pub(crate) struct Document {
    log: Log,
    stored: Stored,
    layouts: Arc<watch::Sender<Option<Arc<Layout>>>>,
}

impl Document {
    /// What was stored, or nothing yet; `layouts` is told of every new version.
    pub(crate) fn open(log: Log, layouts: Arc<watch::Sender<Option<Arc<Layout>>>>) -> io::Result<Self> {
        let stored: Stored = log.get(DOCUMENT)?.unwrap_or_default();
        let document = Self { log, stored, layouts };
        document.publish();
        Ok(document)
    }

    /// Whether a document has been agreed on in this database.
    pub(crate) fn is_agreed(log: &Log) -> io::Result<bool> {
        Ok(log.get::<Stored>(DOCUMENT)?.is_some_and(|stored| stored.layout.is_some()))
    }

    pub(crate) fn layout(&self) -> Option<&Layout> {
        self.stored.layout.as_ref()
    }

    pub(crate) fn applied(&self) -> Option<LogId> {
        self.stored.applied
    }

    /// Who takes part in the group, as far as entries are applied.
    pub(crate) fn membership(&self) -> &StoredMembership {
        &self.stored.membership
    }

    /// Leaves so many epochs out.
    pub(crate) fn skip(&mut self, epochs: u64) {
        if let Some(layout) = &mut self.stored.layout {
            layout.skip(epochs);
        }
    }

    /// Its name and bytes among what is kept beside the log.
    pub(crate) fn record(&self) -> (&'static str, Bytes) {
        (DOCUMENT, encode(&self.stored))
    }

    /// Applies one entry in memory.
    pub(crate) fn apply_entry(&mut self, entry: Entry) -> Outcome {
        let log_id = entry.log_id();
        self.stored.applied = Some(log_id);
        match entry.payload {
            EntryPayload::Blank => Outcome::Applied(Applied::Done),
            EntryPayload::Membership(membership) => {
                self.stored.membership = StoredMembership::new(Some(log_id), membership);
                Outcome::Applied(Applied::Done)
            }
            EntryPayload::Normal(Proposal::Found(layout)) => {
                self.stored.layout.get_or_insert(*layout);
                Outcome::Applied(Applied::Done)
            }
            EntryPayload::Normal(Proposal::Change(command)) => match &mut self.stored.layout {
                None => Outcome::Refused(Refused::Impossible("the cluster has no layout yet".to_owned())),
                Some(layout) => {
                    layout.apply(log_id.index, &command).map_or_else(Outcome::Refused, Outcome::Applied)
                }
            },
        }
    }

    fn publish(&self) {
        let layout = self.stored.layout.as_ref();
        self.layouts.send_if_modified(|current| {
            let is_newer = current.as_ref().map(|layout| layout.epoch()) != layout.map(Layout::epoch);
            if is_newer {
                *current = layout.cloned().map(Arc::new);
            }
            is_newer
        });
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            meta: SnapshotMeta {
                last_log_id: self.stored.applied,
                last_membership: self.stored.membership.clone(),
            },
            snapshot: aside(|| serde_json::to_string(&self.stored.layout)).expect("a layout is plain data"),
        }
    }
}

impl RaftStateMachine<Group> for Document {
    type SnapshotData = String;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.stored.applied, self.stored.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Group>>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            // A layout of many partitions takes long to work out.
            let outcome = aside(|| self.apply_entry(entry));
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        aside(|| self.log.put(DOCUMENT, &self.stored))?;
        aside(|| self.publish());
        answers.into_iter().for_each(|(responder, outcome)| responder.send(outcome));
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: String) -> io::Result<()> {
        let layout =
            serde_json::from_str(&snapshot).map_err(|error| damaged("snapshot", &error.to_string()))?;
        self.stored = Stored { applied: meta.last_log_id, membership: meta.last_membership.clone(), layout };
        self.log.put(DOCUMENT, &self.stored)?;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.stored.applied.is_some().then(|| self.snapshot()))
    }
}

impl RaftSnapshotBuilder<Group> for Document {
    type SnapshotData = String;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        Ok(self.snapshot())
    }
}
