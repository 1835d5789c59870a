//! The nouns of Slipring: ids, positions, time, dots, policies, limits.
//!
//! Pure: no sockets, files, threads, clocks or randomness. Every other crate speaks in these words.

pub mod bucket;
mod causality;
mod cursor;
mod identity;
pub mod limits;
mod mutant;
mod outcome;
mod position;
mod quorum;
mod room;
mod time;
mod versions;

pub use bucket::{BucketId, BucketName, BucketPolicy};
pub use causality::{Actor, Dot, VersionVector};
pub use cursor::Cursor;
pub use identity::{ClusterId, InvalidId, NodeId, Signature, StorageId};
pub use mutant::Mutant;
pub use outcome::{Error, ErrorKind};
pub use position::{PartitionId, Position, SLOT_COUNT, Slot};
pub use quorum::{InvalidQuorum, Quorum};
pub use room::{Room, Space};
pub use time::{Moment, Timestamp};
pub use versions::Versions;
