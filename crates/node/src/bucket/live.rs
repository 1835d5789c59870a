//! How many live keys there are, and how many of them end, slot by slot: a slot is never cut, so the numbers stay true
//! when partitions are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use slipring_model::{PartitionId, Position, SLOT_COUNT};
use slipring_service::Cell;

/// What a record counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Worth {
    /// Whether it has a value, an expired one that is still kept among them.
    pub(super) is_live: bool,
    /// Unix milliseconds at which the first of its values ends.
    pub(super) end: Option<u64>,
}

impl Worth {
    pub(super) fn of(cell: &Cell<'_>) -> Self {
        Self { is_live: cell.has_value(), end: cell.first_end() }
    }

    /// What a record counts for that fails its check: other replicas know its value.
    pub(super) fn of_damaged() -> Self {
        Self { is_live: true, end: None }
    }
}

/// Two numbers per slot; clones share them. Each changes under the lock of its partition only.
#[derive(Clone)]
pub(super) struct Live {
    keys: Arc<[AtomicU32]>,
    /// How many of them end.
    ending: Arc<[AtomicU32]>,
}

impl Live {
    pub(super) fn new() -> Self {
        let zeros = || (0..SLOT_COUNT).map(|_| AtomicU32::new(0)).collect();
        Self { keys: zeros(), ending: zeros() }
    }

    /// A record has changed.
    pub(super) fn note(&self, at: Position, was: Worth, is: Worth) {
        let slot = usize::from(at.slot().0);
        change(self.keys.get(slot), was.is_live, is.is_live);
        change(self.ending.get(slot), was.end.is_some(), is.end.is_some());
    }

    /// All keys of a partition, one of `1 << bits`, are gone.
    pub(super) fn clear(&self, partition: PartitionId, bits: u8) {
        for counts in [&self.keys, &self.ending] {
            of(counts, partition, bits).for_each(|count| count.store(0, Ordering::Relaxed));
        }
    }

    /// Live keys of a partition, one of `1 << bits`.
    pub(super) fn keys(&self, partition: PartitionId, bits: u8) -> u64 {
        sum(&self.keys, partition, bits)
    }

    /// Keys of a partition, one of `1 << bits`, with a value that ends.
    pub(super) fn ending(&self, partition: PartitionId, bits: u8) -> u64 {
        sum(&self.ending, partition, bits)
    }

    /// All numbers.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().chain(self.ending.iter()).map(|count| count.load(Ordering::Relaxed))
    }

    /// How many numbers there are.
    pub(super) const fn len() -> usize {
        2 * SLOT_COUNT as usize
    }

    /// Sets all numbers.
    pub(super) fn set(&self, numbers: impl Iterator<Item = u32>) {
        let counts = self.keys.iter().chain(self.ending.iter());
        counts.zip(numbers).for_each(|(count, number)| count.store(number, Ordering::Relaxed));
    }
}

fn change(count: Option<&AtomicU32>, was: bool, is: bool) {
    let Some(count) = count else { return };
    let now = count.load(Ordering::Relaxed);
    match (was, is) {
        (false, true) => count.store(now.saturating_add(1), Ordering::Relaxed),
        (true, false) => count.store(now.saturating_sub(1), Ordering::Relaxed),
        _ => {}
    }
}

fn sum(counts: &[AtomicU32], partition: PartitionId, bits: u8) -> u64 {
    of(counts, partition, bits).map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
}

fn of(counts: &[AtomicU32], partition: PartitionId, bits: u8) -> impl Iterator<Item = &AtomicU32> {
    let [first, last] = [partition.start(bits), partition.end(bits)].map(|at| usize::from(at.slot().0));
    counts.get(first..=last).unwrap_or_default().iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Worth = Worth { is_live: false, end: None };
    const LIVE: Worth = Worth { is_live: true, end: None };
    const ENDING: Worth = Worth { is_live: true, end: Some(7) };

    #[test]
    fn a_partition_and_its_halves_agree_on_their_keys() {
        let live = Live::new();
        for slot in [0, 8_191, 8_192, 8_192, 16_383] {
            live.note(slipring_model::Slot(slot).start(), GONE, LIVE);
        }
        let sums =
            |bits: u8| (0..1_u16 << bits).map(|at| live.keys(PartitionId(at), bits)).collect::<Vec<_>>();
        assert_eq!((sums(1), sums(2)), (vec![2, 3], vec![1, 1, 2, 1]));
        assert_eq!(sums(14).iter().sum::<u64>(), 5);
        live.clear(PartitionId(2), 2);
        assert_eq!(sums(1), [2, 1]);
        live.note(Position(0), LIVE, LIVE);
        live.note(Position(u64::MAX), LIVE, GONE);
        live.note(Position(u64::MAX), LIVE, GONE);
        assert_eq!(sums(2), [1, 1, 0, 0], "never below nothing");
    }

    #[test]
    fn keys_that_end_are_counted_beside_the_others() {
        let live = Live::new();
        let counts = || (live.keys(PartitionId(0), 1), live.ending(PartitionId(0), 1));
        live.note(Position(0), GONE, ENDING);
        live.note(Position(1), GONE, LIVE);
        assert_eq!(counts(), (2, 1));
        live.note(Position(0), ENDING, Worth { end: Some(9), ..ENDING });
        assert_eq!(counts(), (2, 1), "another end is one end");
        let copy = Live::new();
        copy.set(live.numbers());
        assert_eq!((live.numbers().count(), copy.ending(PartitionId(0), 1)), (Live::len(), 1));
        live.note(Position(0), ENDING, LIVE);
        live.note(Position(1), LIVE, ENDING);
        live.note(Position(1), ENDING, GONE);
        assert_eq!(counts(), (1, 0));
        copy.clear(PartitionId(0), 1);
        assert_eq!(copy.ending(PartitionId(0), 1), 0);
    }
}
