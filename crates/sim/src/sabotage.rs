//! Breaking a promise on purpose: a simulator is only worth what it would catch.

use std::ops::RangeInclusive;

use slipring_model::{BucketId, Position};
use slipring_storage::faults::FaultyEngine;
use slipring_storage::{Engine, Error, RecordKey, Write};

/// A flaw put into every node of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Replicas acknowledge cells that they do not store.
    AckWithoutStoring,
    /// Disks say that they have synced and have not.
    SyncNothing,
}

/// A disk that lies about syncs.
pub(crate) struct LyingDisk(pub(crate) FaultyEngine);

impl Engine for LyingDisk {
    fn read(&self, at: RecordKey<'_>, with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error> {
        self.0.read(at, with)
    }

    fn apply(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        self.0.apply(writes)
    }

    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.0.scan(bucket, range, after, with)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}
