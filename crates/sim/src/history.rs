//! What clients asked and what they were told: all that the rules about histories look at.
//!
//! Invariant: an operation without an end has an unknown outcome, whatever became of its client.

use parking_lot::Mutex;
use slipring_model::bucket::{Durability, OnConflict};
use slipring_model::{BucketId, BucketPolicy};

/// The buckets of a run, by what they promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BucketKind {
    /// Majorities; acknowledged writes survive the death of any process.
    Buffered,
    /// Majorities; acknowledged writes survive the loss of power everywhere.
    Fsync,
    /// Two copies in memory, one acknowledgement: may forget.
    Cache,
    /// One copy of each key: linearizable as long as its host loses no power.
    Single,
    /// Majorities; clients see and resolve concurrent values.
    Siblings,
}

impl BucketKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Buffered, Self::Fsync, Self::Cache, Self::Single, Self::Siblings];

    /// Its number in every cluster of a run.
    #[must_use]
    pub fn id(self) -> BucketId {
        match self {
            Self::Buffered => BucketId(0),
            Self::Cache => BucketId(1),
            Self::Fsync => BucketId(2),
            Self::Single => BucketId(3),
            Self::Siblings => BucketId(4),
        }
    }

    /// Its name in every cluster of a run.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Buffered => "default",
            Self::Cache => "cache",
            Self::Fsync => "fsync",
            Self::Single => "single",
            Self::Siblings => "siblings",
        }
    }

    /// What it promises, for those that a new cluster does not have yet; in the order of their numbers.
    #[must_use]
    pub fn created() -> [(Self, BucketPolicy); 3] {
        let durable = BucketPolicy::durable;
        [
            (Self::Fsync, BucketPolicy { durability: Durability::Fsync, ..durable() }),
            (Self::Single, BucketPolicy { replicas: 1, ..durable() }),
            (Self::Siblings, BucketPolicy { on_conflict: OnConflict::Siblings, ..durable() }),
        ]
    }

    /// The read that shows all there is to see of a key.
    #[must_use]
    pub fn look(self, key: &str) -> Action {
        match self {
            _ if key.starts_with("counter") => Action::Total,
            Self::Siblings => Action::GetAll,
            Self::Buffered | Self::Fsync | Self::Cache | Self::Single => Action::Get,
        }
    }
}

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote a value that no other operation writes.
    Set {
        /// The value.
        value: String,
        /// When it expires, in milliseconds since the run began.
        expires_at: Option<u64>,
    },
    /// Wrote a value that no other operation writes, if the key held another one.
    CompareAndSet {
        /// The value to be replaced; none when the key must be absent.
        expected: Option<String>,
        /// The value.
        value: String,
    },
    /// Wrote a value that no other operation writes, or deleted, in place of concurrent values.
    Replace {
        /// The value; none for a deletion.
        value: Option<String>,
        /// The values that the writer had seen.
        seen: Vec<String>,
    },
    /// Deleted the key.
    Delete,
    /// Read a value.
    Get,
    /// Read all concurrent values.
    GetAll,
    /// Added to a counter; never a negative number.
    Add(i64),
    /// Read a counter.
    Total,
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The write is acknowledged.
    Written,
    /// The increment is acknowledged, and this was the sum after it.
    Added(i64),
    /// There was nothing to delete.
    NothingThere,
    /// The value was not the expected one; nothing was written.
    Unequal,
    /// The value, if there was one.
    Found(Option<String>),
    /// All concurrent values.
    FoundAll(Vec<String>),
    /// The counter's value.
    Counted(i64),
    /// It did not happen.
    Refused(String),
    /// It may have happened.
    Unknown(String),
    /// What no fault excuses: damaged bytes, a right call refused as wrong, an answer of another kind.
    Broken(String),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The bucket.
    pub bucket: BucketKind,
    /// The key.
    pub key: String,
    /// Who asked, and where.
    pub client: String,
    /// What was asked.
    pub action: Action,
    /// When, in milliseconds since the run began.
    pub start_ms: u64,
    /// When it was answered and how; never, when the client died first.
    pub end: Option<(u64, Outcome)>,
    /// Whether the faults were over and the replicas had had time to converge.
    pub is_final: bool,
}

impl Action {
    /// The value it writes, if it writes one that can be recognised.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Set { value, .. }
            | Self::CompareAndSet { value, .. }
            | Self::Replace { value: Some(value), .. } => Some(value),
            Self::Replace { value: None, .. }
            | Self::Delete
            | Self::Get
            | Self::GetAll
            | Self::Add(_)
            | Self::Total => None,
        }
    }
}

impl Outcome {
    /// Whether it answers a read.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::Found(_) | Self::FoundAll(_) | Self::Counted(_))
    }
}

impl Operation {
    /// Whether it may have changed something: not refused, and not found to have nothing to do.
    #[must_use]
    pub fn may_have_written(&self) -> bool {
        let is_read = matches!(self.action, Action::Get | Action::GetAll | Action::Total);
        let is_void =
            matches!(self.end, Some((_, Outcome::Refused(_) | Outcome::NothingThere | Outcome::Unequal)));
        !is_read && !is_void
    }

    /// When it was acknowledged, if it was a write and was.
    #[must_use]
    pub fn acked_at(&self) -> Option<u64> {
        match &self.end {
            Some((at, Outcome::Written | Outcome::Added(_))) => Some(*at),
            _ => None,
        }
    }

    /// The last moment at which it can have taken effect; `u64::MAX` when nobody knows.
    #[must_use]
    pub fn latest_effect_ms(&self) -> u64 {
        self.acked_at().unwrap_or(u64::MAX)
    }

    /// What it saw of a register, and when it had seen it: the value, or that there was none.
    #[must_use]
    pub fn seen(&self) -> Option<(Option<&str>, u64)> {
        match &self.end {
            Some((at, Outcome::Found(value))) => Some((value.as_deref(), *at)),
            Some((at, Outcome::NothingThere)) => Some((None, *at)),
            _ => None,
        }
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let end = match &self.end {
            Some((at, outcome)) => format!("answered at {at}: {outcome:?}"),
            None => "never answered".to_owned(),
        };
        let Self { client, action, bucket, key, start_ms, .. } = self;
        format!("{client} asked at {start_ms} for {action:?} of {bucket:?}/{key}, {end}")
    }
}

/// All operations, in the order in which they were begun.
#[derive(Debug, Default)]
pub struct History(Mutex<Vec<Operation>>);

impl History {
    /// Notes that an operation begins; its number.
    #[must_use]
    pub fn begin(&self, operation: Operation) -> usize {
        let mut operations = self.0.lock();
        operations.push(operation);
        operations.len() - 1
    }

    /// Notes how an operation ended.
    ///
    /// # Panics
    /// On a number that [`History::begin`] did not give.
    pub fn end(&self, number: usize, at_ms: u64, outcome: Outcome) {
        let mut operations = self.0.lock();
        operations.get_mut(number).expect("its number came from here").end = Some((at_ms, outcome));
    }

    /// A copy of everything so far.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.0.lock().clone()
    }
}
