//! How many live keys there are, slot by slot: a slot is never cut, so the numbers stay true when partitions are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use slipring_model::{PartitionId, Position, SLOT_COUNT};

/// One number per slot; clones share them. Each changes under the lock of its partition only.
#[derive(Clone)]
pub(super) struct Live(Arc<[AtomicU32]>);

impl Live {
    pub(super) fn new() -> Self {
        Self((0..SLOT_COUNT).map(|_| AtomicU32::new(0)).collect())
    }

    /// A key came to life, or died.
    pub(super) fn note(&self, at: Position, was_live: bool, is_live: bool) {
        let Some(count) = self.0.get(usize::from(at.slot().0)) else { return };
        let now = count.load(Ordering::Relaxed);
        match (was_live, is_live) {
            (false, true) => count.store(now.saturating_add(1), Ordering::Relaxed),
            (true, false) => count.store(now.saturating_sub(1), Ordering::Relaxed),
            _ => {}
        }
    }

    /// All keys of a partition, one of `1 << bits`, are gone.
    pub(super) fn clear(&self, partition: PartitionId, bits: u8) {
        self.of(partition, bits).for_each(|count| count.store(0, Ordering::Relaxed));
    }

    /// Live keys of a partition, one of `1 << bits`.
    pub(super) fn sum(&self, partition: PartitionId, bits: u8) -> u64 {
        self.of(partition, bits).map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// The number of each slot.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed))
    }

    /// Sets the number of each slot.
    pub(super) fn set(&self, numbers: impl Iterator<Item = u32>) {
        self.0.iter().zip(numbers).for_each(|(count, number)| count.store(number, Ordering::Relaxed));
    }

    fn of(&self, partition: PartitionId, bits: u8) -> impl Iterator<Item = &AtomicU32> {
        let [first, last] = [partition.start(bits), partition.end(bits)].map(|at| usize::from(at.slot().0));
        self.0.get(first..=last).unwrap_or_default().iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_and_its_halves_agree_on_their_keys() {
        let live = Live::new();
        for slot in [0, 8_191, 8_192, 8_192, 16_383] {
            live.note(slipring_model::Slot(slot).start(), false, true);
        }
        let sums =
            |bits: u8| (0..1_u16 << bits).map(|at| live.sum(PartitionId(at), bits)).collect::<Vec<_>>();
        assert_eq!((sums(1), sums(2)), (vec![2, 3], vec![1, 1, 2, 1]));
        assert_eq!(sums(14).iter().sum::<u64>(), 5);
        live.clear(PartitionId(2), 2);
        assert_eq!(sums(1), [2, 1]);
        live.note(Position(0), true, true);
        live.note(Position(u64::MAX), true, false);
        live.note(Position(u64::MAX), true, false);
        assert_eq!(sums(2), [1, 1, 0, 0], "never below nothing");
    }
}
