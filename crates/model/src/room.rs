//! Room: how much more a store may take.

use serde::{Deserialize, Serialize};

/// What a store still takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Room {
    /// Every write.
    #[default]
    Ample,
    /// Only writes that leave fewer bytes than there were: deletions above all.
    Scarce,
    /// Nothing. Reads go on.
    Spent,
}

/// How much of a disk or of memory is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Space {
    /// What is still taken.
    pub room: Room,
    /// Bytes in use: of the whole disk, or of the buckets in memory.
    pub used: u64,
    /// Bytes left; `u64::MAX` where nothing bounds them.
    pub free: u64,
    /// The most bytes there may be; 0 where nothing bounds them.
    pub limit: u64,
    /// With fewer bytes left than this, only deletions are taken.
    pub reserve: u64,
}

impl Default for Space {
    fn default() -> Self {
        Self { room: Room::Ample, used: 0, free: u64::MAX, limit: 0, reserve: 0 }
    }
}
