//! A named key space and what its copies promise.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{InvalidQuorum, Quorum, limits};

/// A bucket's number, given once and never used again. `SELECT n` on the Redis port means bucket `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketId(pub u32);

/// A bucket's name: 1 to 64 characters out of `a-z`, `0-9`, `-` and `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BucketName(String);

/// A text that cannot name a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidName;

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket name has 1 to 64 characters out of a-z, 0-9, '-' and '_'")
    }
}

impl std::error::Error for InvalidName {}

impl FromStr for BucketName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let fits = (1..=limits::BUCKET_NAME_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(allowed) { Ok(Self(text.to_owned())) } else { Err(InvalidName) }
    }
}

impl TryFrom<String> for BucketName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<BucketName> for String {
    fn from(name: BucketName) -> Self {
        name.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a bucket's records lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// On disk; survives restarts.
    #[default]
    Disk,
    /// In memory; a node that restarts comes back empty and is filled by its peers.
    Memory,
}

/// What an acknowledgement of one replica means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In memory only.
    None,
    /// Handed to the operating system: survives the death of the process, not the loss of power.
    #[default]
    Buffered,
    /// Forced to the disk: survives the loss of power.
    Fsync,
}

/// How concurrent writes to one key are settled on reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// The latest by hybrid logical clock wins among truly concurrent values.
    #[default]
    Latest,
    /// The client receives all of them and resolves.
    Siblings,
}

/// What a bucket promises. `consistency` never changes for a living bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketPolicy {
    /// The service that runs on this bucket.
    pub service: String,
    /// Copies of each key, `1..=7`; a smaller cluster holds as many as it has nodes.
    pub replicas: u8,
    /// Answers a read waits for; a majority when absent.
    pub read_acks: Option<u8>,
    /// Acknowledgements a write waits for; a majority when absent.
    pub write_acks: Option<u8>,
    /// How concurrent writes are settled.
    pub on_conflict: OnConflict,
    /// Where records lie.
    pub engine: EngineKind,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Milliseconds until a value expires when its write names no time.
    pub ttl_ms: Option<NonZeroU64>,
}

impl BucketPolicy {
    /// The default: three copies on disk, majorities.
    #[must_use]
    pub fn durable() -> Self {
        Self {
            service: "kv".to_owned(),
            replicas: 3,
            read_acks: None,
            write_acks: None,
            on_conflict: OnConflict::Latest,
            engine: EngineKind::Disk,
            durability: Durability::Buffered,
            ttl_ms: None,
        }
    }

    /// Two copies in memory, one acknowledgement: fast, and may forget.
    #[must_use]
    pub fn cache() -> Self {
        Self {
            replicas: 2,
            read_acks: Some(1),
            write_acks: Some(1),
            engine: EngineKind::Memory,
            durability: Durability::None,
            ..Self::durable()
        }
    }

    /// The preset with this name: `durable` or `cache`.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "durable" => Some(Self::durable()),
            "cache" => Some(Self::cache()),
            _ => None,
        }
    }

    /// The quorum in a replica set of `n` nodes, which may be smaller than `replicas`.
    ///
    /// Acknowledgement counts are clamped to the set as it is.
    #[must_use]
    pub fn quorum(&self, n: u8) -> Quorum {
        let acks = |asked: Option<u8>| asked.unwrap_or(Quorum::majority(n)).clamp(1, n.max(1));
        Quorum { n, r: acks(self.read_acks), w: acks(self.write_acks) }
    }

    /// Checks every field against its range and against the others.
    ///
    /// # Errors
    /// A sentence that names the field and its range.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=limits::REPLICAS_MAX).contains(&self.replicas) {
            return Err(format!("replicas must lie in 1..={}", limits::REPLICAS_MAX));
        }
        let acks = |asked: Option<u8>| asked.unwrap_or(Quorum::majority(self.replicas));
        Quorum::new(self.replicas, acks(self.read_acks), acks(self.write_acks))
            .map_err(|InvalidQuorum| "read_acks and write_acks must lie in 1..=replicas".to_owned())?;
        match (self.engine, self.durability) {
            (EngineKind::Memory, Durability::Buffered | Durability::Fsync) => {
                Err("a memory bucket cannot promise durability: use durability = none".to_owned())
            }
            (EngineKind::Disk, Durability::None) => {
                Err("a disk bucket is at least buffered: use durability = buffered or fsync".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid() {
        for name in ["durable", "cache"] {
            assert_eq!(BucketPolicy::preset(name).map(|policy| policy.validate()), Some(Ok(())));
        }
    }

    #[test]
    fn a_small_cluster_has_majorities_of_the_set_as_it_is() {
        let policy = BucketPolicy::durable();
        assert_eq!(policy.quorum(1), Quorum { n: 1, r: 1, w: 1 });
        assert_eq!(policy.quorum(2), Quorum { n: 2, r: 2, w: 2 });
        assert_eq!(policy.quorum(3), Quorum { n: 3, r: 2, w: 2 });
    }

    #[test]
    fn names_are_checked() {
        assert!("users-2_x".parse::<BucketName>().is_ok());
        for bad in ["", "Users", "a/b", &"x".repeat(65)] {
            assert_eq!(bad.parse::<BucketName>(), Err(InvalidName));
        }
        let name: BucketName = "users".parse().expect("a name");
        assert_eq!((name.to_string(), String::from(name)), ("users".to_owned(), "users".to_owned()));
        assert!(InvalidName.to_string().contains("64"), "the error says what would do");
    }

    #[test]
    fn an_impossible_promise_is_refused() {
        let durable = BucketPolicy::durable;
        let impossible = [
            BucketPolicy { replicas: 0, ..durable() },
            BucketPolicy { replicas: limits::REPLICAS_MAX + 1, ..durable() },
            BucketPolicy { read_acks: Some(4), ..durable() },
            BucketPolicy { write_acks: Some(0), ..durable() },
            BucketPolicy { engine: EngineKind::Memory, ..durable() },
            BucketPolicy { durability: Durability::None, ..durable() },
        ];
        for policy in impossible {
            assert!(policy.validate().is_err(), "{policy:?}");
        }
        let most =
            BucketPolicy { replicas: limits::REPLICAS_MAX, durability: Durability::Fsync, ..durable() };
        assert_eq!(most.validate(), Ok(()));
    }

    #[test]
    fn a_cache_asks_one_of_two() {
        let cache = BucketPolicy::cache();
        assert_eq!((cache.replicas, cache.quorum(2)), (2, Quorum { n: 2, r: 1, w: 1 }));
    }
}
