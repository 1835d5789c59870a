//! A node's data directory: one process at a time, readable by its owner only.
//!
//! A directory that is empty when it is claimed gets a mark, which stays until the node has an identity. Only under
//! that mark may a store be made; without it a store that is missing or empty was lost, and the directory is refused.
//!
//! Invariant: the mark is gone before the first record is written.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::ballast::Ballast;
use crate::{DiskEngine, Error, MetaStore};

const META: &str = "meta.redb";
const DATA: &str = "data";
/// Is there while the directory has no identity yet.
const FIRST_START: &str = "first-start";
/// Names the identity that the records belong to, beside them.
const OWNER: &str = "data/owner";
/// Entries that say nothing of a node: the lock, a mark that was cut short, and the folder that some file systems make.
const NO_TRACE: [&str; 3] = ["lock", "first-start.unfinished", "lost+found"];

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
            Ok(()) => {
                let directory = Self { path: path.to_owned(), _lock: lock };
                if directory.trace()?.is_none() {
                    write(&path.join(FIRST_START), b"")?;
                }
                Ok(directory)
            }
            Err(TryLockError::WouldBlock) => Err(Error::InUse { place: path.display().to_string() }),
            Err(TryLockError::Error(error)) => Err(Error::io(&lock_path, &error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a node has been here: it has a meta store that is not empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn has_meta(&self) -> Result<bool, Error> {
        let path = self.path.join(META);
        match path.metadata() {
            Ok(found) => Ok(found.is_file() && found.len() > 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(&path, &error)),
        }
    }

    /// Opens the meta store in it, making it in a new directory: after the disk engine, whose records belong to it.
    ///
    /// # Errors
    /// Those of [`MetaStore::open`], and [`Error::NoIdentity`] when the store is gone or knows nothing.
    pub fn meta(&self) -> Result<MetaStore, Error> {
        self.check_identity()?;
        let store = MetaStore::open(&self.path.join(META))?;
        sync_entries(&self.path)?;
        if !self.is_new()? && store.is_empty()? {
            return Err(self.without_identity(META));
        }
        Ok(store)
    }

    /// Ends the first start, once the meta store holds an identity; later holds the records against it.
    ///
    /// # Errors
    /// [`Error::ForeignRecords`] when the records belong to another identity; [`Error::Io`].
    pub fn settle(&self, identity: &[u8]) -> Result<(), Error> {
        let (mark, owner) = (self.path.join(FIRST_START), self.path.join(OWNER));
        if !self.is_new()? {
            return match std::fs::read(&owner) {
                Ok(known) if known == identity => Ok(()),
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&owner, &error)),
                _ => Err(Error::ForeignRecords { place: self.path.display().to_string() }),
            };
        }
        write(&owner, identity)?;
        std::fs::remove_file(&mark).map_err(|error| Error::io(&mark, &error))?;
        sync_entries(&self.path)
    }

    /// Opens the disk engine in it, making it in a new directory.
    ///
    /// # Errors
    /// Those of [`DiskEngine::open`]; [`Error::Damaged`] when a node has been here and its records are gone,
    /// [`Error::NoIdentity`] when something was here and its identity is gone.
    pub fn disk(&self) -> Result<DiskEngine, Error> {
        self.check_identity()?;
        let data = self.path.join(DATA);
        let has_records = DiskEngine::is_in(&data)?;
        if !has_records && !self.is_new()? {
            let detail = "its records are gone, and other nodes count on them".to_owned();
            return Err(Error::Damaged { place: data.display().to_string(), detail });
        }
        DiskEngine::open_beside(&data, Some(Ballast::of(&self.path)))
    }

    /// Whether nothing was here when it was claimed first, and it has no identity yet.
    fn is_new(&self) -> Result<bool, Error> {
        let mark = self.path.join(FIRST_START);
        mark.try_exists().map_err(|error| Error::io(&mark, &error))
    }

    fn check_identity(&self) -> Result<(), Error> {
        if self.is_new()? || self.has_meta()? {
            return Ok(());
        }
        Err(self.without_identity(&self.trace()?.unwrap_or_default()))
    }

    fn without_identity(&self, found: &str) -> Error {
        Error::NoIdentity { place: self.path.display().to_string(), found: found.to_owned() }
    }

    /// The name of something in it, first of the store if there is one; nothing in an empty directory.
    fn trace(&self) -> Result<Option<String>, Error> {
        let failed = |error: io::Error| Error::io(&self.path, &error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.retain(|name| !NO_TRACE.contains(&name.as_str()));
        names.sort_by_key(|name| (name != DATA, name != META, name.clone()));
        Ok(names.into_iter().next())
    }
}

/// Writes a small file; it is whole and on disk when this returns, or not there.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let partial = path.with_extension("unfinished");
    let failed = |error: io::Error| Error::io(&partial, &error);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial);
    let written = file.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| std::fs::rename(&partial, path)).map_err(failed)?;
    sync_entries(path.parent().unwrap_or(Path::new(".")))
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
