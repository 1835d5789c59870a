//! What can go wrong with a disk, and what to do about it.

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::open_files::is_passing;

/// Why a store did not do as asked.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// Stored bytes are not what was written. Nothing of them is served.
    #[error(
        "{place} is damaged: {detail}; take the node's directory away and let it join as a new node; only a node that is alone may go on from a backup"
    )]
    Damaged {
        /// The file, directory or record.
        place: String,
        /// How it shows.
        detail: String,
    },
    /// Something is in the data directory, and no identity of a node: it was lost, or no node was ever here.
    #[error(
        "{place}/{found} is there and no identity of a node (meta.redb is missing or empty), so this node cannot tell which \
         cluster its data belongs to; if a node was here, move the directory away, start with an empty one and --join \
         MEMBER --spare, then `slipring replace OLD_ID --by NEW_ID`; only a node that is alone may restore it from a \
         backup; if none was, name an empty directory with --data"
    )]
    NoIdentity {
        /// The data directory.
        place: String,
        /// The name of something in it.
        found: String,
    },
    /// The records are not those of the node whose identity is beside them.
    #[error(
        "the records in {place} belong to another node than its meta.redb; put the right two together again, or move the \
         directory away and join as a new node with an empty one"
    )]
    ForeignRecords {
        /// The data directory.
        place: String,
    },
    /// The disk has no room. Whether the write happened shows when there is room again: some of its bytes may have
    /// fitted, or be written then. No more are taken until then.
    #[error("the disk that holds {place} is full; reads go on, and writes do once there is room")]
    Full {
        /// The directory.
        place: String,
    },
    /// An earlier write found the disk full, so this one was not tried.
    #[error(
        "the disk that holds {place} is full; nothing was done; reads go on, and writes do once there is room"
    )]
    NoRoom {
        /// The directory.
        place: String,
    },
    /// The system had no file left for the store in the midst of a write. Whether it happened shows when there are
    /// files again. No more are taken until then.
    #[error(
        "no file is free for {place}; reads go on, and writes do once there is one: raise the limit of open files"
    )]
    NoFiles {
        /// The directory.
        place: String,
    },
    /// An earlier write failed, so later ones cannot be trusted to the same files.
    #[error("writing has stopped: {0}; restart the node once the cause is gone")]
    Stopped(String),
    /// Another process works with the directory.
    #[error("{place} is in use by another process; stop that one, or give this node a directory of its own")]
    InUse {
        /// The directory.
        place: String,
    },
    /// The system gives nothing now, files for instance. Nothing was done.
    #[error(
        "{place}: {detail}; try again, and raise the limit of open files of the process or of the machine"
    )]
    Busy {
        /// The file or directory.
        place: String,
        /// What the system said.
        detail: String,
    },
    /// The system refused. Whether a write happened is not known.
    #[error("{place}: {detail}")]
    Io {
        /// The file or directory.
        place: String,
        /// What the system said.
        detail: String,
    },
}

impl Error {
    /// Whether the store takes writes again by itself, once the system gives it what it lacked.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoRoom { .. } | Self::NoFiles { .. } | Self::Busy { .. })
    }

    /// An error of the operating system about `place`.
    pub(crate) fn io(place: &Path, error: &io::Error) -> Self {
        let place = place.display().to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { place },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Damaged { place, detail: error.to_string() }
            }
            _ if is_passing(error) => Self::Busy { place, detail: error.to_string() },
            _ => Self::Io { place, detail: error.to_string() },
        }
    }
}
