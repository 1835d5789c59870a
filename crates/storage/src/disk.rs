//! The disk engine: records in an embedded log-structured merge tree, with checks of our own around it.
//!
//! Keys are `bucket, position, key`, big-endian, so the store's order is ours. Every record carries a checksum.
//! A count of batches, passed through the store and kept in a mark beside it, shows when the store has lost
//! its end, or everything. Damage to the journal that takes only what was written after the last mark, together
//! with the death of the process, looks like that death alone.
//!
//! Invariant: after a failed write or sync nothing more is acknowledged.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use slipring_model::{BucketId, Position};

use crate::data_dir::{make_directory, sync_folders};
use crate::mark::Mark;
use crate::open_files::{patiently, tables_of_process};
use crate::{Engine, Error, RecordKey, Write, journal, manifest};

/// Journals larger than this are flushed, so that a start never replays more.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Block cache.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// Batches between marks when nothing is synced: the most that damage to the very end can hide.
const BATCHES_PER_MARK: u64 = 1000;
const RECORDS: &str = "records";
/// What a disk must take to count as one that is not full.
const PROBE_BYTES: usize = 64 * 1024;
/// The key under which the store holds the count of batches: shorter than a record's, so before all of them.
const COUNT_KEY: &[u8] = &[0];

/// Records on disk.
pub struct DiskEngine {
    dir: PathBuf,
    database: Database,
    records: Keyspace,
    mark: Mutex<Mark>,
    /// Batches applied so far; those that a sudden death left uncounted are missing.
    batches: AtomicU64,
    /// Why no more writes are taken.
    stopped: OnceLock<Error>,
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
        make_directory(dir)?;
        let (store_path, mark_path) = (dir.join(RECORDS), dir.join("mark"));
        let has_store = Self::is_in(dir)?;
        let mut mark = match Mark::open(&mark_path) {
            // The mark is on disk before there is a store, so one that is missing beside a store was lost.
            Err(Error::Damaged { .. }) if !has_store => Mark::create(&mark_path)?,
            mark => mark?,
        };
        if has_store {
            // What the store finds it takes for safe, and removes what that replaces. A process that died may have
            // left names that are not on disk yet.
            sync_folders(dir)?;
            inspect(&store_path, &mark)?;
        }
        let failed = |error: fjall::Error| failure(dir, error);
        let database = Database::builder(&store_path)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .cache_size(CACHE_BYTES)
            .max_cached_files(Some(tables_of_process()))
            .open()
            .map_err(failed)?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default).map_err(failed)?;
        // The store leaves the names of its own folders to the system.
        sync_folders(dir)?;
        let stored = records.get(COUNT_KEY).map_err(failed)?;
        let stored = stored.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let batches = stored.unwrap_or(0);
        if batches < mark.floor() {
            let missing = mark.floor() - batches;
            let detail = format!("it has lost its last writes, {missing} batches or more");
            return Err(Error::Damaged { place: dir.display().to_string(), detail });
        }
        mark.resume(batches);
        Ok(Self {
            dir: dir.to_owned(),
            database,
            records,
            mark: Mutex::new(mark),
            batches: AtomicU64::new(batches),
            stopped: OnceLock::new(),
        })
    }

    /// Passes the count through the store, behind all the batches that it counts.
    ///
    /// The mark stays locked meanwhile: a lower count must not come after a higher one.
    fn pass_count(&self, _mark: &mut Mark) -> Result<u64, Error> {
        let batches = self.batches.load(Ordering::Acquire);
        self.records.insert(COUNT_KEY, batches.to_be_bytes()).map_err(|error| failure(&self.dir, error))?;
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

    fn write(&self, writes: &[Write<'_>]) -> Result<(), fjall::Error> {
        if let [Write { at, record: Some(record) }] = writes {
            return self.records.insert(store_key(*at), seal(record));
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for write in writes {
            match write.record {
                Some(record) => batch.insert(&self.records, store_key(write.at), seal(record)),
                None => batch.remove(&self.records, store_key(write.at)),
            }
        }
        batch.commit()
    }

    fn force(&self) -> Result<(), Error> {
        let batches = self.pass_count(&mut self.mark.lock())?;
        self.database.persist(PersistMode::SyncData).map_err(|error| failure(&self.dir, error))?;
        self.mark.lock().synced(batches)
    }

    /// Runs a change unless an earlier one failed, and none after this one if it does.
    fn change(&self, change: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        match self.stopped.get() {
            None => change().inspect_err(|error| drop(self.stopped.set(error.clone()))),
            Some(stopped @ Error::Stopped(_)) => Err(stopped.clone()),
            Some(cause) => Err(Error::Stopped(cause.to_string())),
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
        let stored =
            patiently(|| self.records.get(store_key(at))).map_err(|error| failure(&self.dir, error))?;
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
            self.write(writes).map_err(|error| failure(&self.dir, error))?;
            // The batch is applied: whoever is told of this error must not think that nothing was.
            self.count_batch().map_err(|error| Error::Io {
                place: self.dir.display().to_string(),
                detail: error.to_string(),
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
        for guard in self.records.range(start..end) {
            let (stored_key, bytes) = guard.into_inner().map_err(|error| failure(&self.dir, error))?;
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
}

impl Drop for DiskEngine {
    fn drop(&mut self) {
        // Nobody is left to be told of a failure, and nothing was promised that relies on this sync.
        let _ = self.sync();
    }
}

/// Looks through the store's files before the store does.
fn inspect(store: &Path, mark: &Mark) -> Result<(), Error> {
    let failed = |error: io::Error| Error::io(store, &error);
    // The last file that the making of a store writes; the store never syncs it again.
    let version = store.join("version");
    if version.try_exists().map_err(failed)? {
        File::open(&version).and_then(|file| file.sync_all()).map_err(failed)?;
        manifest::inspect(store)?;
        return journal::inspect(store, !mark.is_of_this_boot());
    }
    if mark.floor() > 0 {
        let detail = "its version file is gone".to_owned();
        return Err(Error::Damaged { place: store.display().to_string(), detail });
    }
    // The process died while it made the store, so nothing was ever written to it.
    std::fs::remove_dir_all(store).map_err(failed)
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

fn failure(dir: &Path, error: fjall::Error) -> Error {
    let place = dir.display().to_string();
    match error {
        fjall::Error::Io(error) => Error::io(dir, &error),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => Error::io(dir, &error),
        fjall::Error::Locked => Error::InUse { place },
        // One of the store's own threads failed, and it does not tell why.
        fjall::Error::Poisoned => match probe(dir) {
            Err(error) => Error::io(dir, &error),
            Ok(()) => Error::Stopped(format!("an earlier write to {place} failed")),
        },
        other => Error::Damaged { place, detail: other.to_string() },
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
