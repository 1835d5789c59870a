//! The meta store's file: what finds the disk full is tried again on the room of the ballast.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::Error;
use crate::ballast::Ballast;

/// How often a lock is asked for, and the rest between.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_REST: Duration = Duration::from_millis(10);

/// A file of this process alone.
#[derive(Debug)]
pub(crate) struct MetaFile {
    file: FileBackend,
    ballast: Ballast,
}

impl MetaFile {
    /// Opens the file, making it where there is none.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|error| Error::io(path, &error))?;
        lock(&file).map_err(|error| match error {
            TryLockError::WouldBlock => Error::InUse { place: path.display().to_string() },
            TryLockError::Error(error) => Error::io(path, &error),
        })?;
        let file = FileBackend::new(file)
            .map_err(|error| Error::Io { place: path.display().to_string(), detail: error.to_string() })?;
        Ok(Self { file, ballast: Ballast::of(path.parent().unwrap_or(Path::new("."))) })
    }

    fn on_ballast(&self, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.ballast.release() => write(),
            written => written,
        }
    }
}

/// Locks a file. A process that this one is just starting holds its locks for a moment, so one refusal is not the last.
fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_REST),
            locked => return locked,
        }
    }
    file.try_lock()
}

impl StorageBackend for MetaFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.on_ballast(|| self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.on_ballast(|| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.on_ballast(|| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
