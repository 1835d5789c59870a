//! Partitions that come and go: which requests they take, and how they are emptied.

use std::ops::Bound;

use bytes::Bytes;
use slipring_model::{Error, Mutant, PartitionId, Position};
use slipring_storage::Write;

use crate::budget::PIECE_RECORDS;
use crate::failure::{stored, unavailable};

use super::{Bucket, Partition};

/// Records that are removed under one lock.
const WIPED_AT_ONCE: usize = PIECE_RECORDS;

/// Why a partition did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The request was made under an older layout of this partition; nothing happened.
    Stale,
    /// It failed.
    Failed(Error),
}

/// What an attempt to empty a partition came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wiped {
    /// Some is gone; there may be more from this position on.
    Until(Position),
    /// Nothing is left.
    All,
    /// Nothing was removed: the partition is not to be emptied any more.
    Nothing,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Stale => unavailable("the partition is moving; nothing was done, try again"),
            Refusal::Failed(error) => error,
        }
    }
}

impl Bucket {
    /// Refuses requests on a partition that were made under an older layout than `since`, or all of them;
    /// whatever was admitted before is done when this returns.
    pub(crate) fn fence(&self, partition: PartitionId, since: Option<u64>) {
        self.partition(partition.start(self.bits)).fence = since.unwrap_or(u64::MAX);
    }

    /// Refuses every request on a partition, or does so no longer.
    pub(crate) fn close(&self, partition: PartitionId, is_closed: bool) {
        self.partition(partition.start(self.bits)).is_closed = is_closed;
    }

    /// Whether requests on a partition are refused because it is being emptied.
    pub(crate) fn is_closed(&self, partition: PartitionId) -> bool {
        self.partition(partition.start(self.bits)).is_closed
    }

    /// Removes some records of a partition, from a position on, if it `is_left` under its lock.
    pub(crate) fn wipe_some(
        &self,
        partition: PartitionId,
        from: Position,
        is_left: impl Fn() -> bool,
    ) -> Result<Wiped, Error> {
        let mut guard = self.partition(partition.start(self.bits));
        if guard.is_over || !is_left() {
            return Ok(Wiped::Nothing);
        }
        let mut found: Vec<(Position, Bytes)> = Vec::new();
        // What was removed before still costs time to pass over.
        let range = from..=partition.end(self.bits);
        self.engine
            .scan(self.id, range, None, &mut |position, key, _| {
                found.push((position, Bytes::copy_from_slice(key)));
                found.len() < WIPED_AT_ONCE
            })
            .map_err(stored)?;
        let gone: Vec<Write<'_>> =
            found.iter().map(|(position, key)| Write { at: self.at(*position, key), record: None }).collect();
        self.engine.apply(&gone).map_err(stored)?;
        guard.commit();
        let next = found.last().filter(|_| found.len() >= WIPED_AT_ONCE).map(|(position, _)| *position);
        if next.is_none() {
            (guard.root, guard.uncounted) = (None, None);
            guard.ends.clear();
            self.live.clear(partition, self.bits);
            let mut damaged = self.damaged.lock();
            damaged.retain(|(position, _)| position.partition(self.bits) != partition);
        }
        Ok(next.map_or(Wiped::All, Wiped::Until))
    }

    /// Whether a record between two positions was found damaged and is not healed yet.
    pub(crate) fn is_damaged_within(&self, from: Position, to: Position) -> bool {
        let range = (Bound::Included((from, Bytes::new())), Bound::Unbounded);
        self.damaged.lock().range(range).next().is_some_and(|(position, _)| *position <= to)
    }
}

impl Partition {
    pub(super) fn admit(&self, epoch: u64) -> Result<(), Refusal> {
        if self.is_over || epoch < self.fence && !Mutant::IgnoreFence.is_planted() {
            return Err(Refusal::Stale);
        }
        if self.is_closed {
            return Err(unavailable("the partition is being emptied of an earlier copy; try again").into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slipring_model::{Actor, BucketId, BucketPolicy, Dot, ErrorKind, Timestamp};
    use slipring_service::{Cell, Change};
    use slipring_storage::{Engine, MemoryEngine};

    use super::*;

    const LOWEST: Position = Position(0);
    const LOW: Position = Position(7);
    const HIGH: Position = Position(u64::MAX);

    fn open(engine: &Arc<dyn Engine>) -> Bucket {
        let name = "default".parse().expect("a name");
        Bucket::open(BucketId(0), name, BucketPolicy::durable(), Arc::clone(engine), 1).expect("a bucket")
    }

    fn bucket() -> Bucket {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        open(&engine)
    }

    fn cell() -> Vec<u8> {
        let change = Change::Put { value: "v".into(), expires_at: None, seen: None };
        let dot = Dot { actor: Actor { assignment: 1, incarnation: 1 }, counter: 1 };
        let mut bytes = Vec::new();
        Cell::default().changed(&change, dot, Timestamp(1)).encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_an_older_layout_asks_for_is_refused() {
        let bucket = bucket();
        let merge = |position, epoch| bucket.merge(position, b"k", &cell(), epoch);
        bucket.fence(PartitionId(0), Some(5));
        assert!(matches!(merge(LOW, 4), Err(Refusal::Stale)));
        assert!(merge(LOW, 5).is_ok() && merge(LOW, 6).is_ok());
        assert!(merge(HIGH, 0).is_ok(), "the other partition has no fence");
        bucket.fence(PartitionId(0), None);
        assert!(matches!(merge(LOW, 6), Err(Refusal::Stale)), "where nothing is held, nothing is taken");
    }

    #[test]
    fn a_partition_takes_nothing_while_it_is_emptied() {
        let bucket = bucket();
        let merge = |position| bucket.merge(position, b"k", &cell(), 1);
        bucket.close(PartitionId(0), true);
        assert!(bucket.is_closed(PartitionId(0)) && !bucket.is_closed(PartitionId(1)));
        let Err(Refusal::Failed(error)) = merge(LOW) else { panic!("it took a cell") };
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(merge(HIGH).is_ok());
        bucket.close(PartitionId(0), false);
        assert!(merge(LOW).is_ok());
    }

    #[test]
    fn a_partition_is_emptied_bit_by_bit_and_its_neighbour_keeps_everything() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let cell = cell();
        let positions = (0..=WIPED_AT_ONCE as u64).map(Position).chain([HIGH]);
        let at = |position| slipring_storage::RecordKey { bucket: BucketId(0), position, key: b"k" };
        let writes: Vec<Write<'_>> =
            positions.map(|position| Write { at: at(position), record: Some(&cell) }).collect();
        engine.apply(&writes).expect("stored");
        let bucket = open(&engine);
        let [low, high] = [PartitionId(0), PartitionId(1)];
        [low, high].iter().for_each(|part| while bucket.count_some(*part).expect("read") {});
        bucket.note_damage(LOW, b"k");
        bucket.note_damage(HIGH, b"k");
        let rest = || bucket.keys(LOW..=HIGH, 10, 0).expect("read").0.len();
        assert_eq!(bucket.wipe_some(low, LOWEST, || false).expect("nothing fails"), Wiped::Nothing);
        assert_eq!(bucket.live(low, 1, 0), WIPED_AT_ONCE as u64 + 1, "nobody wanted it");
        let Wiped::Until(next) = bucket.wipe_some(low, LOWEST, || true).expect("wiped") else {
            panic!("one is left")
        };
        assert_eq!(next, Position(WIPED_AT_ONCE as u64 - 1));
        assert_eq!((rest(), bucket.live(low, 1, 0)), (2, WIPED_AT_ONCE as u64 + 1), "one is left");
        assert_eq!(bucket.wipe_some(low, next, || true).expect("wiped"), Wiped::All);
        assert_eq!((rest(), bucket.live(low, 1, 0), bucket.live(high, 1, 0)), (1, 0, 1));
        assert!(!bucket.is_damaged_within(Position(0), LOW) && bucket.is_damaged_within(HIGH, HIGH));
    }

    #[test]
    fn damage_counts_within_a_range_to_its_very_end() {
        let bucket = bucket();
        bucket.note_damage(LOW, b"k");
        let within = |from, to| bucket.is_damaged_within(Position(from), Position(to));
        assert!(within(0, 7) && within(7, 9));
        assert!(!within(0, 6) && !within(8, 9));
    }
}
