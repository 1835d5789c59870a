//! What must be true of every run, one rule a file.

pub mod convergence;
pub mod counters;
pub mod expiry;
pub mod layout;
pub mod linearizable;
pub mod no_broken_answer;
pub mod no_lost_sibling;
pub mod no_lost_write;
pub mod no_phantom;
pub mod no_resurrection;
pub mod observation;
pub mod raft;
pub mod sessions;
mod versions;

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{BucketKind, Operation};
use crate::run::Violation;

pub use observation::{Observation, Observations};

/// What the rules must know of a run beside its history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The furthest two wall clocks were ever apart, in milliseconds.
    pub skew_ms: u64,
    /// How much longer than that a value may last: clocks that jumped back are outvoted only while enough others answer.
    pub late_ms: u64,
    /// How many hosts lost what they had not synced.
    pub hosts_that_lost_power: usize,
    /// Whether buckets of majorities had fewer than three copies at some time.
    pub is_thin: bool,
    /// Buckets of which acknowledged writes may have lain with nodes alone that were lost with their majority.
    pub bereft: BTreeSet<BucketKind>,
}

/// Which reads of a bucket must see the writes acknowledged before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Each one.
    Always,
    /// Those after the replicas have repaired each other.
    AtLast,
    /// None.
    Never,
}

impl Terms {
    /// What a bucket promises its readers in this run.
    #[must_use]
    pub fn fresh(&self, bucket: BucketKind) -> Fresh {
        if self.bereft.contains(&bucket) {
            return Fresh::Never;
        }
        match (bucket, self.hosts_that_lost_power) {
            (BucketKind::Cache, _) => Fresh::Never,
            (BucketKind::Fsync, _) | (_, 0) => Fresh::Always,
            (BucketKind::Buffered | BucketKind::Siblings, 1) if !self.is_thin => Fresh::AtLast,
            (BucketKind::Buffered | BucketKind::Siblings | BucketKind::Single, _) => Fresh::Never,
        }
    }

    pub(crate) fn must_be_fresh(&self, read: &Operation) -> bool {
        match self.fresh(read.bucket) {
            Fresh::Always => true,
            Fresh::AtLast => read.is_final,
            Fresh::Never => false,
        }
    }
}

/// How much the rules had to look at, by what it was.
pub type Coverage = Vec<(&'static str, u64)>;

/// Applies every rule about histories.
///
/// # Errors
/// The first broken one.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<Coverage, Violation> {
    no_broken_answer::check(operations)?;
    no_phantom::check(operations)?;
    no_lost_write::check(operations, terms)?;
    counters::check(operations, terms)?;
    no_lost_sibling::check(operations, terms)?;
    no_resurrection::check(operations, terms)?;
    expiry::check(operations, terms)?;
    sessions::check(operations, terms)?;
    let decided = linearizable::check(operations, terms)?;
    Ok(vec![("keys linearizable", decided.keys), ("keys undecided", decided.undecided)])
}

/// Applies every rule about what hosts showed of the layout and its group.
///
/// # Errors
/// The first broken one.
pub fn check_layouts(observations: &Observations) -> Result<(), Violation> {
    layout::check(observations.all())?;
    raft::check(observations.all())
}

/// The operations of each key.
fn by_key<'h>(
    operations: impl IntoIterator<Item = &'h Operation>,
) -> BTreeMap<(BucketKind, &'h str), Vec<&'h Operation>> {
    let mut keys: BTreeMap<_, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        keys.entry((operation.bucket, operation.key.as_str())).or_default().push(operation);
    }
    keys
}

#[cfg(test)]
pub(crate) mod samples {
    use crate::history::{Action, BucketKind, Operation, Outcome};

    /// An operation on one key of the fsync bucket, begun and ended at these times.
    pub(crate) fn operation(action: Action, start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
        let (bucket, key, client) = (BucketKind::Fsync, "k".to_owned(), "c".to_owned());
        Operation { bucket, key, client, action, start_ms, end, is_final: false }
    }

    pub(crate) fn by(client: &str, operation: Operation) -> Operation {
        Operation { client: client.to_owned(), ..operation }
    }

    pub(crate) fn set(value: &str, start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
        operation(Action::Set { value: value.to_owned(), expires_at: None }, start_ms, end)
    }

    pub(crate) fn get(value: Option<&str>, start_ms: u64, end_ms: u64) -> Operation {
        operation(Action::Get, start_ms, Some((end_ms, Outcome::Found(value.map(str::to_owned)))))
    }

    pub(crate) fn acked(at: u64) -> Option<(u64, Outcome)> {
        Some((at, Outcome::Written))
    }

    pub(crate) fn unknown(at: u64) -> Option<(u64, Outcome)> {
        Some((at, Outcome::Unknown(String::new())))
    }

    pub(crate) fn refused(at: u64) -> Option<(u64, Outcome)> {
        Some((at, Outcome::Refused(String::new())))
    }
}
