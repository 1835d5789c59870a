//! The disk engine: records in an embedded log-structured merge tree, with checks of our own around it.
//!
//! Keys are `bucket, position, key`, big-endian, so the store's order is ours. Every record carries a checksum.
//! A number written through the store and to a mark beside it shows when the store has lost its end.
//!
//! Invariant: after a failed write or sync nothing more is acknowledged.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::Mutex;
use slipring_model::{BucketId, Position};

use crate::mark::Mark;
use crate::{Engine, Error, RecordKey, Write};

/// Journals larger than this are flushed, so that a start never replays more.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Block cache.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// The mark is raised at least once in so many batches: the most that damage to the very end can hide.
const BATCHES_PER_MARK: u32 = 1000;
/// The key under which the store holds the mark's number: no bucket of records has this prefix.
const MARK_KEY: &[u8] = b"mark";

/// Records on disk.
pub struct DiskEngine {
    dir: PathBuf,
    database: Database,
    records: Keyspace,
    control: Keyspace,
    mark: Mutex<Mark>,
    batches: AtomicU32,
    is_stopped: AtomicBool,
}

impl DiskEngine {
    /// Opens the store in `dir`, making it when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it has lost what it held, [`Error::Io`] and [`Error::Full`] from the system.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, &error))?;
        let failed = |error: fjall::Error| failure(dir, error);
        let database = Database::builder(dir.join("records"))
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .cache_size(CACHE_BYTES)
            .open()
            .map_err(failed)?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default).map_err(failed)?;
        let control = database.keyspace("control", KeyspaceCreateOptions::default).map_err(failed)?;
        let mark = Mark::open(&dir.join("mark"))?;
        let stored = control.get(MARK_KEY).map_err(failed)?;
        let stored =
            stored.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))).unwrap_or(0);
        if stored < mark.number() {
            let detail = format!(
                "it ends at mark {stored} but mark {} had been reached, so writes in between are missing",
                mark.number()
            );
            return Err(Error::Damaged { place: dir.display().to_string(), detail });
        }
        Ok(Self {
            dir: dir.to_owned(),
            database,
            records,
            control,
            mark: Mutex::new(mark),
            batches: AtomicU32::new(0),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// Writes the next number through the store, then to the mark beside it.
    fn raise_mark(&self) -> Result<(), Error> {
        let mut mark = self.mark.lock();
        let number = mark.number() + 1;
        self.control.insert(MARK_KEY, number.to_be_bytes()).map_err(|error| self.stop(error))?;
        mark.raise(number)
    }

    /// No more writes from here on.
    fn stop(&self, error: fjall::Error) -> Error {
        self.is_stopped.store(true, Ordering::Release);
        failure(&self.dir, error)
    }

    fn check_running(&self) -> Result<(), Error> {
        if self.is_stopped.load(Ordering::Acquire) {
            return Err(Error::Stopped(format!("an earlier write to {} failed", self.dir.display())));
        }
        Ok(())
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
        let stored = self.records.get(store_key(at)).map_err(|error| failure(&self.dir, error))?;
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
        self.check_running()?;
        match writes {
            [Write { at, record: Some(record) }] => {
                self.records.insert(store_key(*at), seal(record)).map_err(|error| self.stop(error))?;
            }
            _ => {
                let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
                for write in writes {
                    match write.record {
                        Some(record) => batch.insert(&self.records, store_key(write.at), seal(record)),
                        None => batch.remove(&self.records, store_key(write.at)),
                    }
                }
                batch.commit().map_err(|error| self.stop(error))?;
            }
        }
        if self.batches.fetch_add(1, Ordering::Relaxed) % BATCHES_PER_MARK == BATCHES_PER_MARK - 1 {
            self.raise_mark()?;
        }
        Ok(())
    }

    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], &[u8]) -> bool,
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
            if !with(position, key, self.unseal(&bytes, place)?) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.check_running()?;
        self.raise_mark()?;
        self.database.persist(PersistMode::SyncData).map_err(|error| self.stop(error))
    }
}

impl Drop for DiskEngine {
    fn drop(&mut self) {
        if !self.is_stopped.load(Ordering::Acquire) {
            // What was applied is with the operating system already; only the mark would be a little older.
            let _ = self.raise_mark();
        }
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
        fjall::Error::Poisoned => Error::Stopped(format!("an earlier write to {place} failed")),
        other => Error::Damaged { place, detail: other.to_string() },
    }
}
