//! Exchanges: two replicas of a partition find what the other lacks.
//!
//! Each side sums a hash of every key and digest into a root. Where roots differ one side sends pages of
//! keys and digests, and the other answers which keys it wants and which the asker lacks. Cells merge, so
//! an exchange may run at any time, twice, or break off.
//!
//! Invariant: equal sets of cells have equal roots, in whatever order they came.

use std::cmp::Ordering;

use slipring_model::Position;

/// A key of a page and the digest of its cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEntry<K> {
    /// Where the key lies; pages are ordered by position, then key.
    pub position: Position,
    /// The key.
    pub key: K,
    /// The digest of its cell.
    pub digest: u64,
}

/// How two pages over the same range differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison<K> {
    /// Keys of theirs that are absent or different here.
    pub wanted: Vec<K>,
    /// Keys of ours that are absent or different there.
    pub unknown_there: Vec<K>,
}

/// What one cell adds to the root of its partition; roots are wrapping sums.
#[must_use]
pub fn root_of(key: &[u8], digest: u64) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(key, digest)
}

/// Compares a page of theirs with ours; both ordered by position, then key.
#[must_use]
pub fn compare<K: AsRef<[u8]> + Clone>(theirs: &[PageEntry<K>], ours: &[PageEntry<K>]) -> Comparison<K> {
    let mut found = Comparison { wanted: Vec::new(), unknown_there: Vec::new() };
    let (mut theirs, mut ours) = (theirs.iter().peekable(), ours.iter().peekable());
    loop {
        let order = match (theirs.peek(), ours.peek()) {
            (None, None) => return found,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => {
                (left.position, left.key.as_ref()).cmp(&(right.position, right.key.as_ref()))
            }
        };
        let left = if order.is_le() { theirs.next() } else { None };
        let right = if order.is_ge() { ours.next() } else { None };
        if left.map(|entry| entry.digest) != right.map(|entry| entry.digest) {
            found.wanted.extend(left.map(|entry| entry.key.clone()));
            found.unknown_there.extend(right.map(|entry| entry.key.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn page(cells: &BTreeMap<u8, u64>) -> Vec<PageEntry<Vec<u8>>> {
        let entry = |(key, digest): (&u8, &u64)| PageEntry {
            position: Position(u64::from(*key / 3)),
            key: vec![*key],
            digest: *digest,
        };
        cells.iter().map(entry).collect()
    }

    proptest! {
        #[test]
        fn finds_exactly_what_differs(
            theirs in proptest::collection::btree_map(0..12_u8, 0..3_u64, 0..12),
            ours in proptest::collection::btree_map(0..12_u8, 0..3_u64, 0..12),
        ) {
            let found = compare(&page(&theirs), &page(&ours));
            let differs = |mine: &BTreeMap<u8, u64>, other: &BTreeMap<u8, u64>| -> Vec<Vec<u8>> {
                mine.iter().filter(|(key, digest)| other.get(*key) != Some(*digest)).map(|(key, _)| vec![*key]).collect()
            };
            prop_assert_eq!(found.wanted, differs(&theirs, &ours));
            prop_assert_eq!(found.unknown_there, differs(&ours, &theirs));
            let root = |cells: &BTreeMap<u8, u64>| cells.iter().fold(0, |sum: u128, (key, digest)| sum.wrapping_add(root_of(&[*key], *digest)));
            prop_assert_eq!(root(&theirs) == root(&ours), theirs == ours);
        }
    }
}
