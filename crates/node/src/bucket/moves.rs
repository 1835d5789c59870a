//! Partitions that come and go: which requests they take, and how they are emptied.

use std::ops::Bound;

use bytes::Bytes;
use slipring_model::{Error, Mutant, PartitionId, Position};
use slipring_storage::Write;

use crate::failure::{stored, unavailable};

use super::{Bucket, Partition};

/// Records that are removed under one lock.
const WIPED_AT_ONCE: usize = 1_000;

/// Why a partition did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request was made under an older layout of this partition; nothing happened.
    Stale,
    /// It failed.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stale => unavailable("the partition is moving; nothing was done, try again"),
            Refusal::Failed(error) => error,
        }
    }
}

impl Bucket {
    /// Refuses requests on a partition that were made under an older layout than `since`, or all of them;
    /// whatever was admitted before is done when this returns.
    pub(crate) fn fence(&self, partition: PartitionId, since: Option<u64>) {
        self.partition(partition.start(self.bits)).fence = since.unwrap_or(u64::MAX);
    }

    /// Refuses every request on a partition, or does so no longer.
    pub(crate) fn close(&self, partition: PartitionId, is_closed: bool) {
        self.partition(partition.start(self.bits)).is_closed = is_closed;
    }

    /// Whether requests on a partition are refused because it is being emptied.
    pub(crate) fn is_closed(&self, partition: PartitionId) -> bool {
        self.partition(partition.start(self.bits)).is_closed
    }

    /// Removes some records of a partition while `is_wanted` under its lock; whether any may be left.
    pub(crate) fn wipe_some(
        &self,
        partition: PartitionId,
        is_wanted: impl Fn() -> bool,
    ) -> Result<bool, Error> {
        let mut guard = self.partition(partition.start(self.bits));
        if !is_wanted() {
            return Ok(false);
        }
        let mut found: Vec<(Position, Bytes)> = Vec::new();
        let range = partition.start(self.bits)..=partition.end(self.bits);
        self.engine
            .scan(self.id, range, None, &mut |position, key, _| {
                found.push((position, Bytes::copy_from_slice(key)));
                found.len() < WIPED_AT_ONCE
            })
            .map_err(stored)?;
        let gone: Vec<Write<'_>> =
            found.iter().map(|(position, key)| Write { at: self.at(*position, key), record: None }).collect();
        self.engine.apply(&gone).map_err(stored)?;
        guard.commit();
        if found.len() < WIPED_AT_ONCE {
            (guard.live, guard.is_mortal, guard.root) = (0, false, None);
            let mut damaged = self.damaged.lock();
            damaged.retain(|(position, _)| position.partition(self.bits) != partition);
        }
        Ok(found.len() >= WIPED_AT_ONCE)
    }

    /// Whether a record between two positions was found damaged and is not healed yet.
    pub(crate) fn is_damaged_within(&self, from: Position, to: Position) -> bool {
        let range = (Bound::Included((from, Bytes::new())), Bound::Unbounded);
        self.damaged.lock().range(range).next().is_some_and(|(position, _)| *position <= to)
    }
}

impl Partition {
    pub(super) fn admit(&self, epoch: u64) -> Result<(), Refusal> {
        if epoch < self.fence && !Mutant::IgnoreFence.is_planted() {
            return Err(Refusal::Stale);
        }
        if self.is_closed {
            return Err(unavailable("the partition is being emptied of an earlier copy; try again").into());
        }
        Ok(())
    }
}
