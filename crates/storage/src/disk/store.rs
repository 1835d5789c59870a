//! The embedded store as it was opened last, and what is looked at before each opening.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{COUNT_KEY, RECORDS, seal, store_key};
use crate::data_dir::sync_folders;
use crate::mark::Mark;
use crate::open_files::tables_of_process;
use crate::{Error, Write, journal, manifest};

/// Journals larger than this are flushed, so that a start never replays more.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Block cache.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// Buffers that may wait to be written. With one more, the store itself holds writers up, and does so until shutdown
/// when the threads that write have failed.
const BUFFERS_WAITING_MAX: usize = 3;
const BUFFER_INTERVAL: Duration = Duration::from_millis(5);

/// The store's handles. It is closed when the last clone of either is gone.
pub(super) struct Store {
    pub(super) database: Database,
    pub(super) records: Keyspace,
}

impl Store {
    /// Opens the store in `dir`, making it when there is none; and how many batches it holds.
    pub(super) fn open(dir: &Path, mark: &mut Mark) -> Result<(Self, u64), Error> {
        let path = dir.join(RECORDS);
        if path.try_exists().map_err(|error| Error::io(&path, &error))? {
            // What the store finds it takes for safe, and removes what that replaces. A process that died may have
            // left names that are not on disk yet.
            sync_folders(dir)?;
            inspect(&path, mark)?;
        }
        let failed = |error: fjall::Error| failure(dir, error);
        let database = Database::builder(&path)
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
        Ok((Self { database, records }, batches))
    }

    /// Waits while too many buffers wait to be written; fails when none will be any more.
    pub(super) fn wait_for_buffers(&self) -> Result<(), fjall::Error> {
        while self.records.sealed_memtable_count() >= BUFFERS_WAITING_MAX {
            self.database.persist(PersistMode::Buffer)?;
            std::thread::sleep(BUFFER_INTERVAL);
        }
        Ok(())
    }

    pub(super) fn write(&self, writes: &[Write<'_>]) -> Result<(), fjall::Error> {
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
}

/// Looks through the store's files before the store does.
fn inspect(store: &Path, mark: &Mark) -> Result<(), Error> {
    let failed = |error: io::Error| Error::io(store, &error);
    // The last file that the making of a store writes; the store never syncs it again.
    let version = store.join("version");
    if version.try_exists().map_err(failed)? {
        File::open(&version).and_then(|file| file.sync_all()).map_err(failed)?;
        // It holds nothing, and the store does not open without it.
        File::options().create(true).append(true).open(store.join("lock")).map_err(failed)?;
        manifest::inspect(store, mark.floor() > 0)?;
        return journal::inspect(store, !mark.is_of_this_boot());
    }
    if mark.floor() > 0 {
        return Err(Error::Damaged { place: version.display().to_string(), detail: "it is gone".to_owned() });
    }
    // The process died while it made the store, so nothing was ever written to it.
    std::fs::remove_dir_all(store).map_err(failed)
}

/// The store's error as ours.
pub(super) fn failure(dir: &Path, error: fjall::Error) -> Error {
    let place = dir.display().to_string();
    match error {
        fjall::Error::Io(error) => Error::io(dir, &error),
        fjall::Error::Storage(fjall::LsmError::Io(error)) => Error::io(dir, &error),
        fjall::Error::Locked => Error::InUse { place },
        fjall::Error::Poisoned => Error::Stopped(format!("an earlier write to {place} failed")),
        other => Error::Damaged { place, detail: other.to_string() },
    }
}
