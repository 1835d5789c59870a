//! The meta store's file: what finds the disk full is tried again on the room of the ballast.

use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::Error;
use crate::ballast::Ballast;

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
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { place: path.display().to_string() }),
            Err(TryLockError::Error(error)) => return Err(Error::io(path, &error)),
        }
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
