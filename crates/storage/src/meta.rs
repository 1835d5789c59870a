//! The meta store: identity, votes, the layout and its log. Every change is on disk before it returns.
//!
//! A transactional, checksummed copy-on-write tree: a torn or lost write leaves the state before it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, StorageBackend, TableDefinition, TableError};

use crate::Error;
use crate::meta_file::MetaFile;

const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names");

/// A small store of named values; the layout group keeps tables of its own in the same database.
#[derive(Clone)]
pub struct MetaStore {
    place: String,
    database: Arc<Database>,
}

impl MetaStore {
    /// Opens the store in the file at `path`, making it when there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it cannot be read, [`Error::InUse`] when another process has it open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let place = path.display().to_string();
        if !path.try_exists().map_err(|error| Error::io(path, &error))? {
            make(path)?;
        }
        let database = Database::builder()
            .create_with_backend(MetaFile::open(path)?)
            .map_err(|error| failure(&place, error.into()))?;
        Ok(Self { place, database: Arc::new(database) })
    }

    /// Opens the store on a backend of the caller's.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it cannot be read.
    pub fn with_backend(backend: impl StorageBackend) -> Result<Self, Error> {
        let place = "the meta store".to_owned();
        let database = Database::builder()
            .create_with_backend(backend)
            .map_err(|error| failure(&place, error.into()))?;
        Ok(Self { place, database: Arc::new(database) })
    }

    /// The database, for tables that are not names.
    #[must_use]
    pub fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database)
    }

    /// Whether it holds nothing: no name, and no table of the layout group.
    ///
    /// # Errors
    /// [`Error::Damaged`] and [`Error::Io`].
    pub fn is_empty(&self) -> Result<bool, Error> {
        let read =
            || -> Result<_, redb::Error> { Ok(self.database.begin_read()?.list_tables()?.next().is_none()) };
        read().map_err(|error| failure(&self.place, error))
    }

    /// The value of a name.
    ///
    /// # Errors
    /// [`Error::Damaged`] and [`Error::Io`].
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = match transaction.open_table(NAMES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table?,
            };
            Ok(table.get(name)?.map(|value| value.value().to_vec()))
        };
        read().map_err(|error| failure(&self.place, error))
    }

    /// Sets several names at once; they are on disk when this returns.
    ///
    /// # Errors
    /// None of them is set then.
    pub fn put(&self, values: &[(&str, &[u8])]) -> Result<(), Error> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(NAMES)?;
                for (name, value) in values {
                    table.insert(*name, *value)?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| failure(&self.place, error))
    }
}

/// Makes an empty store. It gets its name when it is whole, so that a start that is cut short leaves none.
fn make(path: &Path) -> Result<(), Error> {
    let unfinished = path.with_extension("unfinished");
    let failed = |error: io::Error| Error::io(&unfinished, &error);
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let made = Database::builder().create_with_backend(MetaFile::open(&unfinished)?);
    drop(made.map_err(|error| failure(&unfinished.display().to_string(), error.into()))?);
    File::open(&unfinished).and_then(|file| file.sync_all()).map_err(failed)?;
    std::fs::rename(&unfinished, path).map_err(failed)
}

fn failure(place: &str, error: redb::Error) -> Error {
    match error {
        redb::Error::DatabaseAlreadyOpen => Error::InUse { place: place.to_owned() },
        redb::Error::Io(error) => Error::io(Path::new(place), &error),
        redb::Error::PreviousIo => Error::Stopped(format!("an earlier write to {place} failed")),
        other => Error::Damaged { place: place.to_owned(), detail: other.to_string() },
    }
}
