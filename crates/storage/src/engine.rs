//! What every engine can do.

use std::ops::RangeInclusive;

use slipring_model::{BucketId, Position, Room, Space};

use crate::Error;

/// Where a record lies. Records are ordered by these three, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordKey<'a> {
    /// Its bucket.
    pub bucket: BucketId,
    /// Its position.
    pub position: Position,
    /// Its key.
    pub key: &'a [u8],
}

/// One change to one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// Which record.
    pub at: RecordKey<'a>,
    /// Its new bytes; `None` removes it.
    pub record: Option<&'a [u8]>,
}

/// Keeps records in order. Shared by all tasks of a node; calls are short and may come from any thread.
pub trait Engine: Send + Sync + 'static {
    /// Calls `with` once with the record, or with `None`. It must not call the engine.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the bytes are not what was written; `with` was not called then.
    fn read(&self, at: RecordKey<'_>, with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error>;

    /// Applies all writes or none. A disk engine has handed them to the operating system when it returns, so
    /// that they survive the death of the process.
    ///
    /// # Errors
    /// Whatever the disk said; after a failure no more writes are taken.
    fn apply(&self, writes: &[Write<'_>]) -> Result<(), Error>;

    /// Visits a bucket's records of a range of positions in order, strictly after `after`, until `with`
    /// returns `false`. `with` must not call the engine; it gets `None` for a record whose bytes are not what
    /// was written.
    ///
    /// # Errors
    /// Whatever the disk said; [`Error::Damaged`] when it cannot even tell which keys are in the range.
    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], Option<&[u8]>) -> bool,
    ) -> Result<(), Error>;

    /// Forces everything applied before the call to the disk. Does nothing in memory.
    ///
    /// # Errors
    /// Whatever the disk said; what was applied since the last sync may be lost with the power then.
    fn sync(&self) -> Result<(), Error>;

    /// What is taken of a write that leaves `growth` more bytes than there were. Cheap: every write asks.
    fn room(&self, _growth: u64) -> Room {
        Room::Ample
    }

    /// The same of a copy that another replica has already: a little more, so that replicas of about the same size
    /// refuse a write before it begins, and not halfway.
    fn room_for_copy(&self, growth: u64) -> Room {
        self.room(growth)
    }

    /// A number that each change raises and that a clean end keeps; 0 where nothing is kept. Nothing after a change
    /// has failed: it may be there all the same.
    fn batches(&self) -> Option<u64> {
        Some(0)
    }

    /// How much is in use and left.
    fn space(&self) -> Space {
        Space::default()
    }

    /// Measures the room. Where a full disk had stopped all writing and there is room again, takes writes again;
    /// `true` then: a write that failed may be there after all. May wait for the disk.
    ///
    /// # Errors
    /// Whatever the disk said; writing stays stopped.
    fn look(&self) -> Result<bool, Error> {
        Ok(false)
    }
}
