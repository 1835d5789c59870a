//! Storage engines: disk, memory, and the small store for what nothing can repair.
//!
//! Records are ordered by bucket, position and key, so a partition is one contiguous range. Replicas repair
//! each other's records; what no replica can repair (identity, the layout group's log) lies in [`MetaStore`].

mod ballast;
mod data_dir;
mod disk;
mod disk_space;
mod engine;
mod error;
pub mod faults;
mod journal;
mod manifest;
mod mark;
mod memory;
mod meta;
mod meta_file;
mod open_files;

pub use data_dir::DataDir;
pub use disk::DiskEngine;
pub use engine::{Engine, RecordKey, Write};
pub use error::Error;
pub use memory::MemoryEngine;
pub use meta::MetaStore;
pub use open_files::store_files_max;
