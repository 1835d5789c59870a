//! Stores whose disks fail on demand: for simulations and for tests of what a loss of power leaves.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;
use slipring_model::{BucketId, Mutant, Position};

use crate::{Engine, Error, MemoryEngine, RecordKey, Write};

/// The key of a record, owned.
type OwnedKey = (BucketId, Position, Vec<u8>);

/// An engine that keeps in memory what a disk would, and forgets what was not synced when the power fails.
#[derive(Clone, Default)]
pub struct FaultyEngine(Arc<FaultyState>);

#[derive(Default)]
struct FaultyState {
    now: MemoryEngine,
    /// What each record was at the last sync, for those that changed since.
    unsynced: Mutex<BTreeMap<OwnedKey, Option<Vec<u8>>>>,
    failure: Mutex<Option<Error>>,
}

impl FaultyEngine {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails: every record is as it was at the last sync. How many changes are gone.
    #[must_use]
    pub fn lose_power(&self) -> usize {
        let lost = std::mem::take(&mut *self.0.unsynced.lock());
        for ((bucket, position, key), before) in &lost {
            let at = RecordKey { bucket: *bucket, position: *position, key };
            self.0.now.apply(&[Write { at, record: before.as_deref() }]).expect("memory takes every write");
        }
        lost.len()
    }

    /// Every write and sync fails with `error` from now on, until it is `None` again.
    pub fn fail_with(&self, error: Option<Error>) {
        *self.0.failure.lock() = error;
    }

    fn check(&self) -> Result<(), Error> {
        self.0.failure.lock().clone().map_or(Ok(()), Err)
    }
}

impl Engine for FaultyEngine {
    fn read(&self, at: RecordKey<'_>, with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error> {
        self.0.now.read(at, with)
    }

    fn apply(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        self.check()?;
        let mut unsynced = self.0.unsynced.lock();
        for write in writes {
            let key = (write.at.bucket, write.at.position, write.at.key.to_vec());
            if let std::collections::btree_map::Entry::Vacant(slot) = unsynced.entry(key) {
                let mut before = None;
                self.0.now.read(write.at, &mut |record| before = record.map(<[u8]>::to_vec))?;
                slot.insert(before);
            }
        }
        self.0.now.apply(writes)
    }

    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.0.now.scan(bucket, range, after, with)
    }

    fn sync(&self) -> Result<(), Error> {
        self.check()?;
        if !Mutant::SyncNothing.is_planted() {
            self.0.unsynced.lock().clear();
        }
        Ok(())
    }
}

/// A file that knows which of its bytes were synced.
#[derive(Clone, Debug, Default)]
pub struct FaultyFile(Arc<Mutex<FileState>>);

#[derive(Debug, Default)]
struct FileState {
    written: Vec<u8>,
    synced: Vec<u8>,
    /// What was done to the file since the last sync, in order.
    unsynced: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Resize(usize),
    Write(usize, Vec<u8>),
}

impl FaultyFile {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The file as it is after the process died: all that was written.
    #[must_use]
    pub fn after_death(&self) -> Self {
        Self::of(self.0.lock().written.clone())
    }

    /// The file as it is after the power failed: only what was synced.
    #[must_use]
    pub fn after_power_loss(&self) -> Self {
        self.after_power_loss_keeping(|_, _| 0)
    }

    /// The file as it is after the power failed, when some of what was not synced reached the disk: `keep`
    /// is told the number and the bytes of each unsynced write and says how many of them did.
    #[must_use]
    pub fn after_power_loss_keeping(&self, mut keep: impl FnMut(usize, usize) -> usize) -> Self {
        let state = self.0.lock();
        let mut bytes = state.synced.clone();
        // A larger file reads as zeros where nothing arrived, as on disk when only the length did.
        bytes.resize(bytes.len().max(state.written.len()), 0);
        let mut kept_any = false;
        let writes = state.unsynced.iter().filter_map(|change| match change {
            Change::Write(start, data) => Some((*start, data)),
            Change::Resize(_) => None,
        });
        for (number, (start, data)) in writes.enumerate() {
            let kept = data.get(..keep(number, data.len()).min(data.len())).unwrap_or_default();
            kept_any |= !kept.is_empty();
            if let Some(target) = bytes.get_mut(start..start + kept.len()) {
                target.copy_from_slice(kept);
            }
        }
        if !kept_any {
            bytes.clone_from(&state.synced);
        }
        Self::of(bytes)
    }

    /// How many writes the last sync has not covered.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.0.lock().unsynced.iter().filter(|change| matches!(change, Change::Write(..))).count()
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(FileState { written: bytes.clone(), synced: bytes, unsynced: Vec::new() })))
    }
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().written.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start.checked_add(out.len()).and_then(|end| state.written.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let length = usize::try_from(len).map_err(io::Error::other)?;
        let mut state = self.0.lock();
        state.written.resize(length, 0);
        state.unsynced.push(Change::Resize(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        for change in std::mem::take(&mut state.unsynced) {
            match change {
                Change::Resize(length) => state.synced.resize(length, 0),
                Change::Write(start, data) => {
                    let target = state.synced.get_mut(start..start + data.len());
                    target.expect("writes lie inside the file").copy_from_slice(&data);
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let target = start.checked_add(data.len()).and_then(|end| state.written.get_mut(start..end));
        target.ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        state.unsynced.push(Change::Write(start, data.to_vec()));
        Ok(())
    }
}
