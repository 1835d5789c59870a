//! Convergence: after healing, all replicas of a partition hold the same bytes. A value whose time is up may
//! have dropped its bytes on one replica and not yet on another.
//!
//! Source: Shapiro et al., "Conflict-free Replicated Data Types" (SSS 2011): strong eventual consistency.

use std::collections::BTreeMap;

use slipring_model::PartitionId;
use slipring_service::Cell;

use crate::run::Violation;

/// What one host holds of one partition.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The host.
    pub host: usize,
    /// The bucket's name.
    pub bucket: &'static str,
    /// The partition.
    pub partition: PartitionId,
    /// Encoded cells by key.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Compares the copies of each partition; `now_ms` is Unix time.
///
/// # Errors
/// The first key on which two replicas differ.
pub fn converged(copies: &[Copy], now_ms: u64) -> Result<(), Violation> {
    let mut first: BTreeMap<(&str, PartitionId), &Copy> = BTreeMap::new();
    for copy in copies {
        let known = first.entry((copy.bucket, copy.partition)).or_insert(copy);
        let keys = known.records.keys().chain(copy.records.keys());
        let value = |copy: &Copy, key: &Vec<u8>| copy.records.get(key).map(|record| settled(record, now_ms));
        if let Some(key) = keys.into_iter().find(|key| value(known, key) != value(copy, key)) {
            let side = |copy: &Copy| match copy.records.get(key).map(|record| Cell::decode(record)) {
                Some(cell) => format!("host {} holds {cell:?}", copy.host),
                None => format!("host {} does not have it", copy.host),
            };
            let (key, bucket) = (String::from_utf8_lossy(key), copy.bucket);
            let story = format!("{bucket}/{key} differs: {}, {}", side(known), side(copy));
            return Err(Violation::new("convergence", story));
        }
    }
    Ok(())
}

/// A record without the bytes of values whose time is up.
fn settled(record: &[u8], now_ms: u64) -> Vec<u8> {
    let expired = Cell::decode(record).ok().and_then(|cell| cell.expired(now_ms));
    let mut bytes = Vec::new();
    match expired {
        Some(cell) => cell.encode(&mut bytes),
        None => bytes.extend_from_slice(record),
    }
    bytes
}

#[cfg(test)]
mod tests {
    use slipring_model::{Actor, Dot, Timestamp};
    use slipring_service::Change;

    use super::*;

    fn record(value: &'static str, expires_at: Option<u64>) -> Vec<u8> {
        let change = Change::Put { value: value.into(), expires_at, seen: None };
        let dot = Dot { actor: Actor { assignment: 1, incarnation: 1 }, counter: 1 };
        let mut bytes = Vec::new();
        Cell::default().changed(&change, dot, Timestamp(1)).encode(&mut bytes);
        bytes
    }

    fn copy(host: usize, partition: u16, records: &[Vec<u8>]) -> Copy {
        let records = records.iter().map(|record| (b"k".to_vec(), record.clone())).collect();
        Copy { host, bucket: "fsync", partition: PartitionId(partition), records }
    }

    #[test]
    fn another_value_and_a_missing_one_are_found() {
        let (a, b) = (record("a", None), record("b", None));
        let with =
            |records: &[Vec<u8>]| converged(&[copy(0, 1, std::slice::from_ref(&a)), copy(1, 1, records)], 0);
        assert_eq!(with(std::slice::from_ref(&a)), Ok(()));
        assert!(with(&[b]).is_err());
        assert!(with(&[]).is_err());
    }

    #[test]
    fn other_partitions_are_not_compared() {
        assert_eq!(converged(&[copy(0, 1, &[record("a", None)]), copy(1, 2, &[])], 0), Ok(()));
    }

    #[test]
    fn bytes_of_an_expired_value_may_be_gone_but_not_before_its_time() {
        let whole = record("a", Some(100));
        let mut bare = Vec::new();
        let cell = Cell::decode(&whole).expect("a cell");
        cell.clone().expired(100).expect("expired").encode(&mut bare);
        let copies = [copy(0, 1, &[whole]), copy(1, 1, &[bare])];
        assert_eq!(converged(&copies, 100), Ok(()));
        assert!(converged(&copies, 99).is_err());
    }
}
