//! A node's data directory: one process at a time, readable by its owner only.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::ballast::Ballast;
use crate::{DiskEngine, Error, MetaStore};

const META: &str = "meta.redb";
const DATA: &str = "data";

/// A directory this process has to itself for as long as the value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock; the system gives it up when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory when there is none, and claims it.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it; [`Error::Io`] when it cannot be made or written to.
    pub fn claim(path: &Path) -> Result<Self, Error> {
        make_directory(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = lock.map_err(|error| Error::io(&lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse { place: path.display().to_string() }),
            Err(TryLockError::Error(error)) => Err(Error::io(&lock_path, &error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a node has been here: it has a meta store.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_meta(&self) -> Result<bool, Error> {
        let path = self.path.join(META);
        match path.metadata() {
            Ok(found) => Ok(found.is_file()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(&path, &error)),
        }
    }

    /// Opens the meta store in it, making it when there is none: after the disk engine, whose records belong to it.
    ///
    /// # Errors
    /// Those of [`MetaStore::open`].
    pub fn meta(&self) -> Result<MetaStore, Error> {
        let store = MetaStore::open(&self.path.join(META))?;
        sync_entries(&self.path)?;
        Ok(store)
    }

    /// Opens the disk engine in it, making it in a new directory.
    ///
    /// # Errors
    /// Those of [`DiskEngine::open`], and [`Error::Damaged`] when a node has been here and its records are gone.
    pub fn disk(&self) -> Result<DiskEngine, Error> {
        let data = self.path.join(DATA);
        let has_records = DiskEngine::is_in(&data)?;
        if !has_records && self.has_meta()? {
            let detail = "its records are gone, and other nodes count on them".to_owned();
            return Err(Error::Damaged { place: data.display().to_string(), detail });
        }
        DiskEngine::open_beside(&data, Some(Ballast::of(&self.path)))
    }
}

/// Makes a directory that only its owner may enter, and those above it; they survive a loss of power.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if parent != path {
        make_directory(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result.map_err(|error| Error::io(path, &error))?,
    }
    sync_entries(parent)
}

/// Forces the names in a directory to disk: a synced file is lost with the power if its name is.
pub(crate) fn sync_entries(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io(directory, &error))
}

/// Forces the names in a directory, and in those below it, to disk.
pub(crate) fn sync_folders(directory: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| Error::io(directory, &error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    sync_entries(directory)
}
