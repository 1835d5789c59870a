//! Hints: which replica lacks which key.
//!
//! A hint holds no value: delivering it means sending the cell as it is by then, with its original dots. So
//! many missed writes of one key are one hint, and a late delivery can bring nothing old back. Hints lie in
//! the store as records of a bucket of their own, ordered by target.
//!
//! Source: Dynamo (SOSP 2007), 4.6, with keys in place of values.

use slipring_model::{BucketId, NodeId, Position};

/// The bucket hints lie in; no client bucket has this number.
pub const HINTS: BucketId = BucketId(u32::MAX);

/// One replica that lacks the newest cell of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The replica.
    pub target: NodeId,
    /// The key's bucket.
    pub bucket: BucketId,
    /// The key.
    pub key: Vec<u8>,
}

impl Hint {
    /// Where all hints for `target` lie.
    #[must_use]
    pub fn position(target: NodeId) -> Position {
        let head = target.0.first_chunk::<8>().copied().unwrap_or_default();
        Position(u64::from_be_bytes(head))
    }

    /// The key of the record that stands for this hint.
    #[must_use]
    pub fn record_key(target: NodeId, bucket: BucketId, key: &[u8]) -> Vec<u8> {
        [&target.0[..], &bucket.0.to_be_bytes(), key].concat()
    }

    /// Reads a hint back from the key of its record; `None` when it is not one.
    #[must_use]
    pub fn from_record_key(bytes: &[u8]) -> Option<Self> {
        let (target, rest) = bytes.split_first_chunk::<32>()?;
        let (bucket, key) = rest.split_first_chunk::<4>()?;
        let bucket = BucketId(u32::from_be_bytes(*bucket));
        Some(Self { target: NodeId(*target), bucket, key: key.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_survives_its_record_key() {
        let hint = Hint { target: NodeId([7; 32]), bucket: BucketId(3), key: b"k".to_vec() };
        let key = Hint::record_key(hint.target, hint.bucket, &hint.key);
        assert_eq!(Hint::from_record_key(&key), Some(hint));
        assert_eq!(Hint::from_record_key(&key[..35]), None);
    }

    #[test]
    fn hints_lie_by_their_target() {
        assert_eq!(Hint::position(NodeId([7; 32])), Position(0x0707_0707_0707_0707));
    }
}
