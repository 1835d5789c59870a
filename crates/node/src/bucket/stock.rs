//! Counting the keys that were there when the bucket was opened, a piece at a time while it is in use.
//!
//! Reading all records takes long, so a start does not wait for it. Each partition counts from its beginning on, under
//! its lock; a change counts only where the partition has been counted already. A clean end leaves the count to the
//! next start, which then reads nothing.

use std::sync::atomic::Ordering;

use slipring_model::{Error, PartitionId, Position};

use super::live::{Live, Worth};
use super::{Bucket, Partition};
use crate::budget::PIECE_RECORDS;
use crate::failure::stored;

/// Bytes of records that are counted under one lock.
const PIECE_BYTES: usize = 256 * 1024;

impl Bucket {
    /// Whether all keys that were there are counted.
    pub(crate) fn is_counted(&self) -> bool {
        self.is_counted.load(Ordering::Acquire)
    }

    /// Whether a partition, one of `1 << bits`, is counted.
    pub(crate) fn counts(&self, partition: PartitionId, bits: u8) -> bool {
        let (start, end) = (partition.start(bits), partition.end(bits));
        let parts = start.partition(self.bits).index()..=end.partition(self.bits).index();
        let parts = self.partitions.get(parts).unwrap_or_default();
        self.is_counted() || parts.iter().all(|part| part.lock().uncounted.is_none_or(|from| from > end))
    }

    /// Counts some keys of a partition; `true` while any are left.
    pub(crate) fn count_some(&self, partition: PartitionId) -> Result<bool, Error> {
        let end = partition.end(self.bits);
        let mut guard = self.partition(end);
        let Some(from) = guard.uncounted.filter(|_| !guard.is_over) else { return Ok(false) };
        let (mut next, mut last, mut visited, mut bytes) = (None, None, 0, 0);
        self.engine
            .scan(self.id, from..=end, None, &mut |position, key, record| {
                if (visited >= PIECE_RECORDS || bytes >= PIECE_BYTES) && last != Some(position) {
                    next = Some(position);
                    return false;
                }
                (visited, last) = (visited + 1, Some(position));
                bytes += record.map_or(0, <[u8]>::len);
                let cell = self.decode(position, key, record);
                // A damaged record counts until it is healed.
                let worth = cell.as_ref().map_or_else(Worth::of_damaged, Worth::of);
                self.live.note(position, Worth::default(), worth);
                guard.ends.note(position, None, worth.end);
                true
            })
            .map_err(stored)?;
        guard.uncounted = next;
        Ok(next.is_some())
    }

    /// The count, for the next start; nothing while it, or what the engine holds, is not known.
    pub(crate) fn stock(&self) -> Option<Vec<u8>> {
        let batches = self.engine.batches().filter(|_| self.is_counted())?;
        let mut bytes = [batches.to_le_bytes().as_slice(), &[self.bits]].concat();
        bytes.extend(self.live.numbers().flat_map(u32::to_le_bytes));
        Some(bytes)
    }

    /// Takes the count that the last end has left, if it is of what the engine holds; whether it does.
    pub(crate) fn take_stock(&self, bytes: &[u8]) -> bool {
        let Some((batches, rest)) = bytes.split_first_chunk::<8>() else { return false };
        let Some(([bits], rest)) = rest.split_first_chunk::<1>() else { return false };
        let (numbers, odd) = rest.as_chunks::<4>();
        let is_of_this = Some(u64::from_le_bytes(*batches)) == self.engine.batches() && *bits == self.bits;
        if !is_of_this || numbers.len() != Live::len() || !odd.is_empty() {
            return false;
        }
        self.live.set(numbers.iter().map(|number| u32::from_le_bytes(*number)));
        for (index, part) in self.partitions.iter().enumerate() {
            let mut guard = part.lock();
            guard.uncounted = None;
            // Only their number is left of what ends: which keys do is read when there is time.
            if self.live.ending(PartitionId(index as u16), self.bits) > 0 {
                guard.ends.doubt();
            }
        }
        self.is_counted.store(true, Ordering::Release);
        true
    }

    /// Says that all that is here now is counted, when every partition is.
    pub(crate) fn finish_counting(&self) -> bool {
        let is_counted = self.partitions.iter().all(|part| part.lock().uncounted.is_none());
        self.is_counted.store(is_counted, Ordering::Release);
        is_counted
    }

    /// Forgets the count and counts from the beginning.
    pub(super) fn count_anew(&self) {
        self.is_counted.store(false, Ordering::Release);
        for (index, part) in self.partitions.iter().enumerate() {
            let partition = PartitionId(index as u16);
            let mut guard = part.lock();
            self.live.clear(partition, self.bits);
            guard.uncounted = Some(partition.start(self.bits));
            guard.ends.clear();
        }
    }

    /// Whether the engine holds anything of this bucket.
    pub(super) fn holds_any(&self) -> Result<bool, Error> {
        let mut holds_any = false;
        let all = Position(0)..=Position(u64::MAX);
        let scanned = self.engine.scan(self.id, all, None, &mut |_, _, _| {
            holds_any = true;
            false
        });
        scanned.map_err(stored).map(|()| holds_any)
    }
}

impl Partition {
    /// A record has changed.
    pub(super) fn note(&mut self, live: &Live, at: Position, was: Worth, is: Worth) {
        if self.uncounted.is_none_or(|from| at < from) {
            live.note(at, was, is);
        }
        self.ends.note(at, was.end, is.end);
    }

    /// Where a part that ends at `end` is to be counted from.
    pub(super) fn uncounted_within(&self, start: Position, end: Position) -> Option<Position> {
        self.uncounted.map(|from| from.max(start)).filter(|from| *from <= end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slipring_model::{Actor, BucketId, BucketPolicy, Room};
    use slipring_service::{Cells, Context};
    use slipring_storage::faults::FaultyEngine;
    use slipring_storage::{Engine, Error, MemoryEngine, Write};

    use super::super::Locus;
    use super::*;

    const KEYS: u64 = 3 * PIECE_RECORDS as u64;
    const BITS: u8 = 2;

    fn open(engine: &Arc<dyn Engine>) -> Bucket {
        let name = "default".parse().expect("a name");
        Bucket::open(BucketId(0), name, BucketPolicy::durable(), Arc::clone(engine), BITS).expect("a bucket")
    }

    fn run(bucket: &Bucket, number: u64, change: impl FnOnce(&mut Cells<'_>)) {
        let actor = Actor { assignment: 1, incarnation: 1 };
        let position = Position(number << 54);
        let locus = Locus { position, key: b"k", actor, is_alone: false, others: Room::Ample, wall_ms: 5 };
        let context = Context { now_ms: 5, random: 0, default_ttl_ms: None, keeps_siblings: false };
        bucket.execute(&locus, context, 1, |_, cells| change(cells)).expect("there is room");
    }

    fn put(bucket: &Bucket, number: u64) {
        run(bucket, number, |cells| cells.put("v", None));
    }

    fn filled() -> Arc<dyn Engine> {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let bucket = open(&engine);
        assert!(bucket.is_counted(), "there is nothing to count");
        (0..KEYS).for_each(|number| put(&bucket, number));
        engine
    }

    fn live(bucket: &Bucket) -> u64 {
        (0..1 << BITS).map(|partition| bucket.live(PartitionId(partition), BITS, 0)).sum()
    }

    fn count_all(bucket: &Bucket) {
        for partition in (0..1 << bucket.bits()).map(PartitionId) {
            while bucket.count_some(partition).expect("read") {}
        }
        assert!(bucket.finish_counting());
    }

    #[test]
    fn keys_that_come_and_go_during_the_count_are_counted_once() {
        let engine = filled();
        let bucket = open(&engine);
        assert!(!bucket.is_counted() && !bucket.counts(PartitionId(0), BITS));
        // Each writes and deletes behind and before the place that the count has reached.
        put(&bucket, 0);
        run(&bucket, 1, |cells| cells.remove());
        assert!(bucket.count_some(PartitionId(0)).expect("read"));
        put(&bucket, 1);
        run(&bucket, 2, |cells| cells.remove());
        run(&bucket, KEYS - 1, |cells| cells.remove());
        put(&bucket, KEYS);
        count_all(&bucket);
        assert!(bucket.is_counted() && bucket.counts(PartitionId(0), BITS));
        assert_eq!(live(&bucket), KEYS - 1);
        put(&bucket, KEYS - 1);
        assert_eq!(live(&bucket), KEYS);
    }

    #[test]
    fn parts_of_a_split_bucket_are_counted_on_from_where_the_whole_was() {
        let bucket = open(&filled());
        assert!(bucket.count_some(PartitionId(0)).expect("read"));
        let cut = bucket.cut_anew(BITS + 2);
        assert!(cut.counts(PartitionId(0), 5) && !cut.counts(PartitionId(0), BITS), "32 of 96 are counted");
        count_all(&cut);
        assert_eq!(live(&cut), KEYS);
    }

    #[test]
    fn count_of_a_clean_end_is_taken_and_any_other_is_not() {
        let engine = filled();
        let bucket = open(&engine);
        assert_eq!(bucket.stock(), None, "it is not known yet");
        count_all(&bucket);
        let stock = bucket.stock().expect("it is known");
        let next = open(&engine);
        let mut other = stock.clone();
        if let Some(first) = other.first_mut() {
            *first ^= 1;
        }
        let cut = |bytes: usize| stock.get(..bytes).expect("shorter");
        for wrong in [&other, cut(0), cut(8), cut(9), cut(stock.len() - 1), cut(stock.len() - 4)] {
            assert!(!next.take_stock(wrong) && !next.is_counted());
        }
        assert!(!next.take_stock(&[stock.as_slice(), &[0; 4]].concat()));
        assert!(next.take_stock(&stock) && next.is_counted());
        assert_eq!(live(&next), KEYS);
        run(&next, 7, |cells| cells.remove());
        assert_eq!(live(&next), KEYS - 1);
    }

    #[test]
    fn no_count_is_left_after_a_write_that_failed() {
        let engine = FaultyEngine::new();
        let bucket = open(&(Arc::new(engine.clone()) as Arc<dyn Engine>));
        put(&bucket, 0);
        assert!(bucket.stock().is_some());
        engine.fail_with(Some(Error::Full { place: "here".to_owned() }));
        let at = bucket.at(Position(1 << 54), b"k");
        assert!(engine.apply(&[Write { at, record: Some(b"cut short") }]).is_err());
        assert_eq!(bucket.stock(), None, "the write may be there");
        engine.fail_with(None);
        assert!(engine.look().expect("it has room") && bucket.stock().is_some());
    }

    #[test]
    fn a_count_that_is_in_doubt_begins_anew() {
        let bucket = open(&filled());
        count_all(&bucket);
        bucket.doubt();
        assert!(!bucket.is_counted());
        run(&bucket, 7, |cells| cells.remove());
        count_all(&bucket);
        assert_eq!(live(&bucket), KEYS - 1);
    }
}
