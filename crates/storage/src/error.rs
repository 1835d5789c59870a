//! What can go wrong with a disk, and what to do about it.

use std::io;
use std::path::Path;

use thiserror::Error;

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
    /// An earlier write failed, so later ones cannot be trusted to the same files.
    #[error("writing has stopped: {0}; restart the node once the cause is gone")]
    Stopped(String),
    /// Another process works with the directory.
    #[error("{place} is in use by another process; stop that one, or give this node a directory of its own")]
    InUse {
        /// The directory.
        place: String,
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
    /// An error of the operating system about `place`.
    pub(crate) fn io(place: &Path, error: &io::Error) -> Self {
        let place = place.display().to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { place },
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Damaged { place, detail: error.to_string() }
            }
            _ => Self::Io { place, detail: error.to_string() },
        }
    }
}
