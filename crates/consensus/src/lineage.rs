//! Which recoveries a group has been through: what keeps those that were given up from leading the others.
//!
//! A member that was recovered goes on without the old majority. Should that majority come back, it would elect
//! a leader of its own, and Raft would let it overwrite what was agreed on since. So every message names the
//! sender's lineage; members take a later one over, as far as nothing is lost by it, and refuse an earlier one.

use std::cmp::Ordering;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use slipring_model::NodeId;

use crate::log::Log;
use crate::protocol::LogId;

const LINEAGE: &str = "lineage";

/// The last recovery; the default is a group that has seen none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    /// How many there were.
    pub(crate) recoveries: u64,
    /// Who was recovered last.
    pub(crate) by: NodeId,
    /// The last entry it held then.
    pub(crate) from: Option<LogId>,
}

/// What to make of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its sender is of this member's group.
    Known,
    /// Its sender was left behind by a recovery.
    LeftBehind,
    /// Its sender's group was recovered by somebody who knew less than this member.
    KnewLess,
}

/// A member's own lineage, on disk and at hand.
#[derive(Clone)]
pub(crate) struct Ancestry {
    log: Log,
    current: Arc<Mutex<Lineage>>,
}

impl Lineage {
    pub(crate) fn read(log: &Log) -> io::Result<Self> {
        Ok(log.get(LINEAGE)?.unwrap_or_default())
    }

    /// The lineage of a group that `by` recovers, which holds entries up to `from`.
    pub(crate) fn next(&self, by: NodeId, from: Option<LogId>) -> Self {
        Self { recoveries: self.recoveries + 1, by, from }
    }

    /// Its name and bytes among what is kept beside the log.
    pub(crate) fn record(&self) -> (&'static str, bytes::Bytes) {
        (LINEAGE, crate::protocol::encode(self))
    }
}

impl Ancestry {
    pub(crate) fn open(log: Log) -> io::Result<Self> {
        let current = Arc::new(Mutex::new(Lineage::read(&log)?));
        Ok(Self { log, current })
    }

    pub(crate) fn current(&self) -> Lineage {
        self.current.lock().clone()
    }

    /// Judges a message of this lineage; a later one is taken over when its founder had all that is `applied`
    /// here.
    ///
    /// # Errors
    /// A later lineage could not be kept.
    pub(crate) fn meet(&self, theirs: &Lineage, applied: Option<LogId>) -> io::Result<Verdict> {
        let mut mine = self.current.lock();
        if theirs == &*mine {
            return Ok(Verdict::Known);
        }
        match (theirs.recoveries, theirs.by).cmp(&(mine.recoveries, mine.by)) {
            Ordering::Less => Ok(Verdict::LeftBehind),
            _ if applied > theirs.from => Ok(Verdict::KnewLess),
            _ => {
                let (name, _) = theirs.record();
                self.log.put(name, theirs)?;
                *mine = theirs.clone();
                Ok(Verdict::Known)
            }
        }
    }
}
