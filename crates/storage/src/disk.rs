//! The disk engine: records in an embedded log-structured merge tree, with checks of our own around it.
//!
//! Keys are `bucket, position, key`, big-endian, so the store's order is ours. Every record carries a checksum.
//! A count of batches, passed through the store and kept in a mark beside it, shows when the store has lost
//! its end, or everything. Damage to the journal that takes only what was written after the last mark, together
//! with the death of the process, looks like that death alone.
//!
//! Invariant: after a failed write or sync nothing more is acknowledged, until the store has been opened again; that
//! happens in the running process only when a full disk, or a lack of files, was the cause and is over
//! (`disk/reopen.rs`).

mod reopen;
mod store;

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use fjall::PersistMode;
use parking_lot::Mutex;
use slipring_model::{BucketId, Position, Room, Space};

use crate::ballast::Ballast;
use crate::data_dir::make_directory;
use crate::disk_space::DiskSpace;
use crate::mark::Mark;
use crate::open_files::{are_files_short, patiently};
use crate::{Engine, Error, RecordKey, Write, journal};
use reopen::Retry;
use store::Store;

/// Batches between marks when nothing is synced: the most that damage to the very end can hide.
const BATCHES_PER_MARK: u64 = 1000;
const RECORDS: &str = "records";
/// What a disk must take to count as one that is not full.
const PROBE_BYTES: usize = 64 * 1024;
/// The key under which the store holds the count of batches: shorter than a record's, so before all of them.
const COUNT_KEY: &[u8] = &[0];

/// What the store writes beside key and record, about.
const JOURNAL_BYTES_PER_WRITE: usize = 64;

/// Records on disk.
pub struct DiskEngine {
    dir: PathBuf,
    /// Absent only while it is opened again.
    store: ArcSwapOption<Store>,
    mark: Mutex<Mark>,
    /// Batches applied so far; those that a sudden death left uncounted are missing.
    batches: AtomicU64,
    /// Why no more writes are taken.
    stopped: ArcSwapOption<Error>,
    space: DiskSpace,
    ballast: Option<Ballast>,
    retry: Mutex<Retry>,
}

impl DiskEngine {
    /// Whether there is a store in `dir`.
    pub(crate) fn is_in(dir: &Path) -> Result<bool, Error> {
        let store = dir.join(RECORDS);
        store.try_exists().map_err(|error| Error::io(&store, &error))
    }

    /// Opens the store in `dir`, making it when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it has lost what it held, [`Error::Io`] and [`Error::Full`] from the system.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_beside(dir, None)
    }

    /// The same, with ballast for the node's own decisions.
    pub(crate) fn open_beside(dir: &Path, ballast: Option<Ballast>) -> Result<Self, Error> {
        make_directory(dir)?;
        let space = DiskSpace::of(dir);
        let has_store = Self::is_in(dir)?;
        let mark_path = dir.join("mark");
        let mut mark = match Mark::open(&mark_path) {
            // The mark is on disk before there is a store, so one that is missing beside a store was lost.
            Err(Error::Damaged { .. }) if !has_store => Mark::create(&mark_path)?,
            mark => mark?,
        };
        let (store, batches) = Store::open(dir, &mut mark)?;
        let engine = Self {
            dir: dir.to_owned(),
            store: ArcSwapOption::from_pointee(store),
            mark: Mutex::new(mark),
            batches: AtomicU64::new(batches),
            stopped: ArcSwapOption::empty(),
            space,
            ballast,
            retry: Mutex::default(),
        };
        engine.tend_ballast();
        Ok(engine)
    }

    /// Keeps so many bytes of the disk free; 0 for a twentieth of it, 16 MiB to 2 GiB.
    pub fn set_reserve(&self, bytes: u64) {
        self.space.set_reserve(bytes);
    }

    fn tend_ballast(&self) {
        if let Some(ballast) = self.ballast.as_ref().filter(|_| self.space.room(0) == Room::Ample) {
            ballast.keep();
        }
    }

    /// The store, to read from.
    fn readable(&self) -> Result<Arc<Store>, Error> {
        let absent = || Error::Stopped(format!("the store in {} is being opened again", self.dir.display()));
        self.store.load_full().ok_or_else(absent)
    }

    /// The store, to write to.
    fn writable(&self) -> Result<Arc<Store>, Error> {
        self.store.load_full().ok_or_else(|| Error::NoRoom { place: self.dir.display().to_string() })
    }

    /// Passes the count through the store, behind all the batches that it counts.
    ///
    /// The mark stays locked meanwhile: a lower count must not come after a higher one.
    fn pass_count(&self, _mark: &mut Mark) -> Result<u64, Error> {
        let batches = self.batches.load(Ordering::Acquire);
        let store = self.writable()?;
        let written = store.records.insert(COUNT_KEY, batches.to_be_bytes());
        written.map_err(|error| self.failure(error))?;
        Ok(batches)
    }

    /// Counts one batch, and marks every thousandth.
    fn count_batch(&self) -> Result<(), Error> {
        if !(self.batches.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(BATCHES_PER_MARK) {
            return Ok(());
        }
        let mut mark = self.mark.lock();
        let batches = self.pass_count(&mut mark)?;
        mark.reached(batches)
    }

    fn write(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        let store = self.writable()?;
        store.wait_for_buffers().map_err(|error| self.failure(error))?;
        let bytes: usize =
            writes.iter().map(|write| write.at.key.len() + write.record.map_or(0, <[u8]>::len)).sum();
        self.space.wrote((bytes + writes.len() * JOURNAL_BYTES_PER_WRITE) as u64);
        store.write(writes).map_err(|error| self.failure(error))
    }

    fn force(&self) -> Result<(), Error> {
        let batches = self.pass_count(&mut self.mark.lock())?;
        self.writable()?.database.persist(PersistMode::SyncData).map_err(|error| self.failure(error))?;
        self.mark.lock().synced(batches)
    }

    /// Runs a change unless an earlier one failed, and none after this one if it does.
    fn change(&self, change: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        match self.stopped.load().as_deref() {
            None => change().map_err(unsure).inspect_err(|error| self.stop(error)),
            Some(Error::Full { place }) => Err(Error::NoRoom { place: place.clone() }),
            Some(Error::NoFiles { place }) => {
                let detail = "an earlier write found no file free, so this one was not tried".to_owned();
                Err(Error::Busy { place: place.clone(), detail })
            }
            Some(stopped @ Error::Stopped(_)) => Err(stopped.clone()),
            Some(cause) => Err(Error::Stopped(cause.to_string())),
        }
    }

    /// Takes no more writes. A cause that does not pass outlasts one that does.
    fn stop(&self, cause: &Error) {
        if matches!(cause, Error::NoRoom { .. }) {
            return;
        }
        self.space.measure();
        self.stopped.rcu(|before| match before {
            Some(before) if !before.passes() || cause.passes() => Some(Arc::clone(before)),
            _ => Some(Arc::new(cause.clone())),
        });
    }

    /// The store's error as ours. Where one of its own threads has failed, it does not tell why.
    fn failure(&self, error: fjall::Error) -> Error {
        if !matches!(error, fjall::Error::Poisoned) {
            return store::failure(&self.dir, error);
        }
        let place = self.dir.display().to_string();
        self.space.measure();
        match probe(&self.dir) {
            Err(error) => Error::io(&self.dir, &error),
            Ok(()) if self.space.take_was_scarce() => Error::Full { place },
            Ok(()) if are_files_short() => Error::NoFiles { place },
            Ok(()) => Error::Stopped(format!("an earlier write to {place} failed")),
        }
    }

    fn unseal<'r>(&self, bytes: &'r [u8], place: impl FnOnce() -> String) -> Result<&'r [u8], Error> {
        let whole = bytes.split_first_chunk::<4>().filter(|(sum, record)| checksum(record) == **sum);
        whole.map(|(_, record)| record).ok_or_else(|| Error::Damaged {
            place: format!("{} in {}", place(), self.dir.display()),
            detail: "its checksum is wrong".to_owned(),
        })
    }
}

impl Engine for DiskEngine {
    fn read(&self, at: RecordKey<'_>, with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error> {
        let store = self.readable()?;
        let stored = patiently(|| store.records.get(store_key(at))).map_err(|error| self.failure(error))?;
        match stored {
            None => with(None),
            Some(bytes) => {
                let place =
                    || format!("a record of bucket {} at position {:016x}", at.bucket.0, at.position.0);
                with(Some(self.unseal(&bytes, place)?));
            }
        }
        Ok(())
    }

    fn apply(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        self.change(|| {
            self.write(writes)?;
            // The batch is applied: whoever is told of this error must not think that nothing was.
            self.count_batch().map_err(|error| match error {
                passing if passing.passes() => passing,
                error => Error::Io { place: self.dir.display().to_string(), detail: error.to_string() },
            })
        })
    }

    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], Option<&[u8]>) -> bool,
    ) -> Result<(), Error> {
        let start = match after {
            Some((position, key)) if position >= *range.start() => {
                // The least key after this one has one more zero byte.
                let mut start = store_key(RecordKey { bucket, position, key });
                start.push(0);
                start
            }
            _ => store_key(RecordKey { bucket, position: *range.start(), key: &[] }),
        };
        let end = end_key(bucket, *range.end());
        if start >= end {
            return Ok(());
        }
        for guard in self.readable()?.records.range(start..end) {
            let (stored_key, bytes) = guard.into_inner().map_err(|error| self.failure(error))?;
            let Some((position, key)) = split_key(&stored_key) else {
                let place = self.dir.display().to_string();
                return Err(Error::Damaged { place, detail: "it holds a key that nobody wrote".to_owned() });
            };
            let place = || format!("a record of bucket {} at position {:016x}", bucket.0, position.0);
            if !with(position, key, self.unseal(&bytes, place).ok()) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.change(|| self.force())
    }

    fn batches(&self) -> Option<u64> {
        self.stopped.load().is_none().then(|| self.batches.load(Ordering::Acquire))
    }

    fn room(&self, growth: u64) -> Room {
        match self.stopped.load().as_deref() {
            None => self.space.room(growth),
            Some(Error::Full { .. }) => Room::Spent,
            // The write itself is told why.
            Some(_) => Room::Ample,
        }
    }

    fn room_for_copy(&self, growth: u64) -> Room {
        match self.stopped.load().as_deref() {
            None => self.space.room_for_copy(growth),
            Some(_) => self.room(growth),
        }
    }

    fn space(&self) -> Space {
        Space { room: self.room(0), ..self.space.space() }
    }

    fn look(&self) -> Result<bool, Error> {
        self.space.measure();
        self.tend_ballast();
        self.reopen_where_stopped()
    }
}

impl Drop for DiskEngine {
    fn drop(&mut self) {
        // Nobody is left to be told of a failure, and nothing was promised that relies on this sync.
        let _ = self.sync();
    }
}

fn store_key(at: RecordKey<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(12 + at.key.len());
    key.extend_from_slice(&at.bucket.0.to_be_bytes());
    key.extend_from_slice(&at.position.0.to_be_bytes());
    key.extend_from_slice(at.key);
    key
}

/// The least key after every record of `bucket` up to and including position `last`.
fn end_key(bucket: BucketId, last: Position) -> Vec<u8> {
    match (last.0.checked_add(1), bucket.0.checked_add(1)) {
        (Some(next), _) => store_key(RecordKey { bucket, position: Position(next), key: &[] }),
        (None, Some(next)) => next.to_be_bytes().to_vec(),
        (None, None) => vec![0xff; 13 + slipring_model::limits::KEY_BYTES_MAX],
    }
}

fn split_key(stored: &[u8]) -> Option<(Position, &[u8])> {
    let (_, rest) = stored.split_first_chunk::<4>()?;
    let (position, key) = rest.split_first_chunk::<8>()?;
    Some((Position(u64::from_be_bytes(*position)), key))
}

fn seal(record: &[u8]) -> Vec<u8> {
    assert!(
        (record.len() as u64) < journal::RECORD_BYTES_MAX - 4,
        "a record this long could not be read back"
    );
    let mut sealed = Vec::with_capacity(4 + record.len());
    sealed.extend_from_slice(&checksum(record));
    sealed.extend_from_slice(record);
    sealed
}

fn checksum(record: &[u8]) -> [u8; 4] {
    (xxhash_rust::xxh3::xxh3_64(record) as u32).to_le_bytes()
}

/// The error of a change that was begun: whether it happened is not known where no file was free.
fn unsure(error: Error) -> Error {
    match error {
        Error::Busy { place, .. } => Error::NoFiles { place },
        error => error,
    }
}

/// Writes a little beside the store, to learn whether the disk takes it.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("probe");
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    });
    // What is left of it does no harm, and the next one replaces it.
    let _ = std::fs::remove_file(&path);
    written
}
