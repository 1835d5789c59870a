//! Stores whose disks fail on demand: for simulations and for tests of what a loss of power leaves.

use std::collections::BTreeSet;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;
use slipring_model::{BucketId, Mutant, Position, Room, Space};

use crate::{Engine, Error, MemoryEngine, RecordKey, Write};

/// The key of a record, owned.
type OwnedKey = (BucketId, Position, Vec<u8>);
/// A write, owned.
type OwnedWrite = (OwnedKey, Option<Vec<u8>>);

/// Shorter records are not cells of data, whose loss would show.
const RECORD_BYTES_WORTH_FLIPPING: usize = 16;

/// An engine that keeps in memory what a disk would, and forgets what was not synced when the power fails.
///
/// A batch is on disk whole or not at all, as behind a journal with checksums, and none before those ahead of it.
#[derive(Clone, Default)]
pub struct FaultyEngine(Arc<FaultyState>);

#[derive(Default)]
struct FaultyState {
    now: MemoryEngine,
    /// Batches since the last sync, oldest first.
    unsynced: Mutex<Vec<Vec<Before>>>,
    failure: Mutex<Option<Error>>,
    /// What it takes.
    room: Mutex<Room>,
    /// The write that found it full: none is taken until the disk was looked at and has room, and then it is there.
    cut_short: Mutex<Option<Vec<OwnedWrite>>>,
    /// Records of which a bit has flipped.
    damaged: Mutex<BTreeSet<OwnedKey>>,
}

/// A record as it was before a batch changed it.
struct Before {
    at: OwnedKey,
    record: Option<Vec<u8>>,
    was_damaged: bool,
}

impl FaultyEngine {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many batches the last sync has not covered.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.0.unsynced.lock().len()
    }

    /// The power fails: of the batches since the last sync only the first `kept` are on disk. How many are gone.
    pub fn lose_power(&self, kept: usize) -> usize {
        let mut unsynced = std::mem::take(&mut *self.0.unsynced.lock());
        let lost = unsynced.split_off(kept.min(unsynced.len()));
        for Before { at, record, was_damaged } in lost.iter().rev().flat_map(|batch| batch.iter().rev()) {
            let (bucket, position, key) = (at.0, at.1, &at.2);
            let write = Write { at: RecordKey { bucket, position, key }, record: record.as_deref() };
            self.0.now.apply(&[write]).expect("memory takes every write");
            if *was_damaged {
                self.0.damaged.lock().insert(at.clone());
            }
        }
        lost.len()
    }

    /// A disk that holds the same.
    #[must_use]
    pub fn copy(&self) -> Self {
        let copy = Self::new();
        for (bucket, position, key, record) in self.records() {
            let at = RecordKey { bucket, position, key: &key };
            copy.0.now.apply(&[Write { at, record: Some(&record) }]).expect("memory takes every write");
        }
        *copy.0.damaged.lock() = self.0.damaged.lock().clone();
        copy
    }

    /// Flips one bit of one record, both chosen by `draw`; `false` when there is no record of some length.
    pub fn flip_bit(&self, draw: u64) -> bool {
        let mut records = self.records();
        records.retain(|(.., record)| record.len() > RECORD_BYTES_WORTH_FLIPPING);
        let Some(chosen) = (draw as usize).checked_rem(records.len()) else { return false };
        let (bucket, position, key, mut record) = records.swap_remove(chosen);
        let bit = (draw >> 32) as usize % (record.len() * 8);
        if let Some(byte) = record.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        let at = RecordKey { bucket, position, key: &key };
        self.0.now.apply(&[Write { at, record: Some(&record) }]).expect("memory takes every write");
        self.0.damaged.lock().insert((bucket, position, key));
        true
    }

    /// Every write and sync fails with `error` from now on, until it is `None` again.
    pub fn fail_with(&self, error: Option<Error>) {
        *self.0.failure.lock() = error;
    }

    /// It has so much room from now on.
    pub fn set_room(&self, room: Room) {
        *self.0.room.lock() = room;
    }

    /// Another process works with it: a write that was cut short is gone.
    pub fn restart(&self) {
        *self.0.cut_short.lock() = None;
    }

    /// Whether a full disk takes nothing, or has taken nothing since a write that was cut short.
    fn check_full(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        let mut cut_short = self.0.cut_short.lock();
        if cut_short.is_some() {
            return Err(Error::NoRoom { place: "the simulated disk".to_owned() });
        }
        let failure = self.0.failure.lock().clone();
        if matches!(failure, Some(Error::Full { .. })) && !writes.is_empty() {
            let own = |write: &Write<'_>| {
                let at = (write.at.bucket, write.at.position, write.at.key.to_vec());
                (at, write.record.map(<[u8]>::to_vec))
            };
            *cut_short = Some(writes.iter().map(own).collect());
        }
        failure.map_or(Ok(()), Err)
    }

    fn check(&self) -> Result<(), Error> {
        self.0.failure.lock().clone().map_or(Ok(()), Err)
    }

    fn records(&self) -> Vec<(BucketId, Position, Vec<u8>, Vec<u8>)> {
        let mut records = Vec::new();
        for bucket in self.0.now.buckets() {
            let all = Position(0)..=Position(u64::MAX);
            let scanned = self.0.now.scan(bucket, all, None, &mut |position, key, record| {
                records.push((bucket, position, key.to_vec(), record.unwrap_or_default().to_vec()));
                true
            });
            scanned.expect("memory can be scanned");
        }
        records
    }

    /// What a checksum would tell of a record.
    fn verify(&self, bucket: BucketId, position: Position, key: &[u8]) -> Result<(), Error> {
        let damaged = self.0.damaged.lock();
        let is_damaged = !damaged.is_empty() && damaged.contains(&(bucket, position, key.to_vec()));
        if is_damaged && !Mutant::ServeDamaged.is_planted() {
            let place = format!("the record of a key of bucket {} at position {}", bucket.0, position.0);
            return Err(Error::Damaged { place, detail: "its checksum does not match".to_owned() });
        }
        Ok(())
    }
}

impl Engine for FaultyEngine {
    fn read(&self, at: RecordKey<'_>, with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error> {
        self.verify(at.bucket, at.position, at.key)?;
        self.0.now.read(at, with)
    }

    fn apply(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        self.check_full(writes)?;
        let mut batch = Vec::with_capacity(writes.len());
        for write in writes {
            let at = (write.at.bucket, write.at.position, write.at.key.to_vec());
            let mut before = None;
            self.0.now.read(write.at, &mut |record| before = record.map(<[u8]>::to_vec))?;
            let was_damaged = self.0.damaged.lock().remove(&at);
            batch.push(Before { at, record: before, was_damaged });
        }
        self.0.unsynced.lock().push(batch);
        self.0.now.apply(writes)
    }

    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], Option<&[u8]>) -> bool,
    ) -> Result<(), Error> {
        self.0.now.scan(bucket, range, after, &mut |position, key, record| {
            with(position, key, record.filter(|_| self.verify(bucket, position, key).is_ok()))
        })
    }

    fn sync(&self) -> Result<(), Error> {
        self.check()?;
        self.check_full(&[])?;
        if !Mutant::SyncNothing.is_planted() {
            self.0.unsynced.lock().clear();
        }
        Ok(())
    }

    fn batches(&self) -> Option<u64> {
        self.0.cut_short.lock().is_none().then_some(0)
    }

    fn room(&self, _growth: u64) -> Room {
        if self.0.cut_short.lock().is_some() {
            return Room::Spent;
        }
        match self.0.failure.lock().as_ref() {
            Some(Error::Full { .. }) => Room::Spent,
            _ => *self.0.room.lock(),
        }
    }

    fn space(&self) -> Space {
        Space { room: self.room(0), ..Space::default() }
    }

    fn look(&self) -> Result<bool, Error> {
        if self.check().is_err() {
            return Ok(false);
        }
        let Some(writes) = self.0.cut_short.lock().take() else { return Ok(false) };
        let whole: Vec<Write<'_>> = writes
            .iter()
            .map(|((bucket, position, key), record)| Write {
                at: RecordKey { bucket: *bucket, position: *position, key },
                record: record.as_deref(),
            })
            .collect();
        self.apply(&whole)?;
        Ok(true)
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
