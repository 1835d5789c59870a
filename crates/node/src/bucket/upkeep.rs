//! What is done to whole partitions beside clients' requests: sums for exchanges, scrub, and dropping what has
//! expired. All of it goes page by page, each a piece of the background budget.

use slipring_model::{Error, Mutant, PartitionId, Position};
use slipring_replication::root_of;

use super::batch::Batch;
use super::live::Worth;
use super::{Bucket, Partition};
use crate::budget::{Backlog, Budget, Class, PIECE_RECORDS};
use crate::failure::{stored, unavailable};

/// Partitions that one piece looks at for values that have expired.
const PIECE_PARTITIONS: usize = 256;
/// Values of one partition that are counted as waiting to be dropped.
const BACKLOG_COUNTED: usize = 1024;

/// The times by which values are dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropTimes {
    /// The agreed time, in Unix milliseconds.
    pub(crate) now_ms: u64,
    /// What had ended by then is dropped.
    pub(crate) drop_ms: u64,
}

/// What one piece of dropping came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// Records whose values were dropped.
    pub(crate) count: usize,
    /// The partition to go on with, if there may be more.
    pub(crate) next: Option<PartitionId>,
}

impl Bucket {
    /// The sum over all cells of a partition; equal on replicas that hold the same.
    pub(crate) async fn root(
        &self,
        partition: PartitionId,
        (budget, class): (&Budget, Class),
    ) -> Result<u128, Error> {
        let version = {
            let guard = self.partition(partition.start(self.bits));
            if guard.is_over {
                return Err(unavailable("the partition was just split; try again"));
            }
            match guard.root {
                Some((version, root)) if version == guard.version => return Ok(root),
                _ => guard.version,
            }
        };
        let (mut root, mut from) = (0_u128, Some(partition.start(self.bits)));
        while let Some(start) = from {
            let range = start..=partition.end(self.bits);
            let (page, next) = budget.run(class, || self.page(range, PIECE_RECORDS)).await?;
            root = page.iter().fold(root, |sum, entry| sum.wrapping_add(root_of(&entry.key, entry.digest)));
            from = next;
        }
        let mut guard = self.partition(partition.start(self.bits));
        if guard.version == version {
            guard.root = Some((version, root));
        }
        Ok(root)
    }

    /// Reads every record of a partition; damage is noted for healing.
    pub(crate) async fn scrub(&self, partition: PartitionId, budget: &Budget) -> Result<(), Error> {
        let (mut next, end) = (Some(partition.start(self.bits)), partition.end(self.bits));
        while let Some(from) = next {
            next = budget.run(Class::Upkeep, || self.page(from..=end, PIECE_RECORDS)).await?.1;
        }
        Ok(())
    }

    /// Drops some of the values that have expired, from a partition on: their bytes, or the whole record where this is
    /// the only copy. `is_alone` says so of a partition; nothing of one that is not held here.
    pub(crate) fn drop_some(
        &self,
        from: PartitionId,
        times: DropTimes,
        is_alone: impl Fn(PartitionId) -> Option<bool>,
    ) -> Result<Dropped, Error> {
        let mut piece = Dropped { count: 0, next: None };
        for (looked, part) in self.partitions.iter().enumerate().skip(from.index()) {
            let partition = PartitionId(looked as u16);
            if piece.count >= PIECE_RECORDS || looked >= from.index() + PIECE_PARTITIONS {
                piece.next = Some(partition);
                break;
            }
            let mut guard = part.lock();
            if guard.is_over || !guard.ends.is_due(times.now_ms) {
                continue;
            }
            let Some(is_alone) = is_alone(partition) else { continue };
            let limit = PIECE_RECORDS - piece.count;
            let taken = guard.ends.take_passed(limit, times.drop_ms);
            let done = self.drop_at(&mut guard, &taken, times.drop_ms, is_alone);
            let is_reading = self.read_ends(&mut guard, partition, times.now_ms);
            // What was taken out is learned of again.
            piece.count += done.inspect_err(|_| guard.ends.doubt())?;
            if is_reading? || taken.len() == limit {
                piece.next = Some(partition);
                break;
            }
        }
        Ok(piece)
    }

    /// How many values of the partitions that are held here are to be dropped, and how many keys there are.
    pub(crate) fn backlog(&self, drop_ms: u64, is_mine: impl Fn(PartitionId) -> bool) -> Backlog {
        let mut backlog = Backlog::default();
        for (index, part) in self.partitions.iter().enumerate() {
            let partition = PartitionId(index as u16);
            if is_mine(partition) {
                backlog.due += part.lock().ends.passed_up_to(BACKLOG_COUNTED, drop_ms) as u64;
                backlog.kept += self.live.keys(partition, self.bits);
            }
        }
        backlog
    }

    /// Drops what has expired at some positions.
    fn drop_at(
        &self,
        partition: &mut Partition,
        positions: &[Position],
        drop_ms: u64,
        is_alone: bool,
    ) -> Result<usize, Error> {
        if positions.is_empty() {
            return Ok(0);
        }
        let is_last = is_alone || Mutant::DropExpired.is_planted();
        let (mut batch, mut lasting) = (Batch::default(), Vec::new());
        for at in positions {
            let visit = &mut |position, key: &[u8], record: Option<&[u8]>| {
                let Some(cell) = self.decode(position, key, record) else { return true };
                let was = Worth::of(&cell);
                match cell.expired(drop_ms) {
                    Some(expired) => {
                        let is_kept = !(is_last && expired.is_spent());
                        batch.add(position, key, was, is_kept.then_some(&expired));
                    }
                    // It was written again, or shares the position of another that ended.
                    None => lasting.extend(was.end.map(|end| (end, position))),
                }
                true
            };
            self.engine.scan(self.id, *at..=*at, None, visit).map_err(stored)?;
        }
        if !batch.is_empty() {
            self.apply(partition, &batch)?;
        }
        lasting.into_iter().for_each(|(end, position)| partition.ends.add(end, position));
        if is_last && !batch.is_empty() {
            partition.commit();
        }
        Ok(batch.len())
    }

    /// Reads on where ends were forgotten whose time may have come; whether there is more to read.
    fn read_ends(&self, partition: &mut Partition, id: PartitionId, now_ms: u64) -> Result<bool, Error> {
        let (start, end) = (id.start(self.bits), id.end(self.bits));
        let Some(from) = partition.ends.read_on(now_ms, start) else { return Ok(false) };
        let (mut visited, mut last, mut next) = (0, None, None);
        let read = self.engine.scan(self.id, from..=end, None, &mut |position, key, record| {
            if visited >= PIECE_RECORDS && last != Some(position) {
                next = Some(position);
                return false;
            }
            (visited, last) = (visited + 1, Some(position));
            let ends = self.decode(position, key, record).and_then(|cell| cell.first_end());
            ends.into_iter().for_each(|end| partition.ends.add(end, position));
            true
        });
        read.map_err(stored).inspect_err(|_| partition.ends.doubt())?;
        partition.ends.read_until(next);
        Ok(next.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slipring_model::{Actor, BucketId, BucketPolicy, Room};
    use slipring_service::{Cells, Context};
    use slipring_storage::{Engine, MemoryEngine};

    use super::super::Locus;
    use super::*;

    const BITS: u8 = 1;
    const ENDS_MS: u64 = 100;
    const KEYS: u64 = 3 * PIECE_RECORDS as u64;

    fn open(engine: &Arc<dyn Engine>) -> Bucket {
        let name = "default".parse().expect("a name");
        Bucket::open(BucketId(0), name, BucketPolicy::durable(), Arc::clone(engine), BITS).expect("a bucket")
    }

    fn run(bucket: &Bucket, (at, key): (u64, &[u8]), change: impl FnOnce(&mut Cells<'_>)) {
        let actor = Actor { assignment: 1, incarnation: 1 };
        let locus =
            Locus { position: Position(at), key, actor, is_alone: false, others: Room::Ample, wall_ms: 5 };
        let context = Context { now_ms: 5, random: 0, default_ttl_ms: None, keeps_siblings: false };
        bucket.execute(&locus, context, 1, |_, cells| change(cells)).expect("there is room");
    }

    /// Writes a key with an end, or without one.
    fn put(bucket: &Bucket, at: u64, end: Option<u64>) {
        run(bucket, (at, b"k"), |cells| cells.put("v", end));
    }

    /// Keys of both halves at this time, and those among them that end.
    fn count(bucket: &Bucket, now_ms: u64) -> (u64, u64) {
        let both = [PartitionId(0), PartitionId(1)];
        let sum = |count: &dyn Fn(PartitionId) -> u64| both.map(count).iter().sum();
        (sum(&|at| bucket.live(at, BITS, now_ms)), sum(&|at| bucket.ending(at, BITS, now_ms)))
    }

    /// Drops all there is to drop in the first half; how many pieces it takes, and how many values go.
    fn drop_all(bucket: &Bucket, drop_ms: u64, is_alone: bool) -> (usize, usize) {
        let (mut next, mut pieces, mut count) = (Some(PartitionId(0)), 0, 0);
        while let Some(from) = next {
            let times = DropTimes { now_ms: drop_ms.max(ENDS_MS), drop_ms };
            let is_held = |at: PartitionId| (at.0 == 0).then_some(is_alone);
            let piece = bucket.drop_some(from, times, is_held).expect("nothing fails");
            assert!(piece.count <= PIECE_RECORDS);
            (next, pieces, count) = (piece.next, pieces + 1, count + piece.count);
        }
        (pieces, count)
    }

    fn count_all(bucket: &Bucket) {
        for partition in [PartitionId(0), PartitionId(1)] {
            while bucket.count_some(partition).expect("read") {}
        }
        assert!(bucket.finish_counting());
    }

    #[test]
    fn counts_leave_out_what_has_expired_and_is_still_kept() {
        let bucket = open(&(Arc::new(MemoryEngine::new()) as Arc<dyn Engine>));
        put(&bucket, 0, Some(ENDS_MS));
        put(&bucket, 1, Some(ENDS_MS + 1));
        put(&bucket, u64::MAX, None);
        let counts = [ENDS_MS - 1, ENDS_MS, ENDS_MS + 1].map(|now_ms| count(&bucket, now_ms));
        assert_eq!(counts, [(3, 2), (2, 1), (1, 0)]);
        put(&bucket, 0, None);
        assert_eq!(count(&bucket, ENDS_MS), (3, 1), "it lasts now");
        run(&bucket, (1, b"k"), |cells| cells.remove());
        assert_eq!(count(&bucket, ENDS_MS), (2, 0));
    }

    #[test]
    fn expired_values_go_in_pieces_and_all_others_stay() {
        for is_alone in [false, true] {
            let bucket = open(&(Arc::new(MemoryEngine::new()) as Arc<dyn Engine>));
            (0..KEYS).for_each(|at| put(&bucket, at, Some(ENDS_MS)));
            put(&bucket, KEYS, Some(ENDS_MS + 1));
            put(&bucket, KEYS + 1, None);
            put(&bucket, u64::MAX, Some(ENDS_MS));
            assert_eq!(drop_all(&bucket, ENDS_MS - 1, is_alone).1, 0);
            assert_eq!(bucket.backlog(ENDS_MS, |at| at.0 == 0), Backlog { due: KEYS, kept: KEYS + 2 });
            let (pieces, count_dropped) = drop_all(&bucket, ENDS_MS, is_alone);
            assert_eq!((pieces > 3, count_dropped), (true, 3 * PIECE_RECORDS));
            assert_eq!(count(&bucket, 0), (3, 2), "nothing else was dropped");
            let record = bucket.cell(Position(7), b"k").expect("read");
            assert_eq!(record.is_none(), is_alone, "a copy that is not the only one keeps a trace");
            assert_eq!(bucket.backlog(ENDS_MS, |at| at.0 == 0).due, 0);
        }
    }

    #[test]
    fn keys_that_share_a_position_expire_each_at_its_time() {
        let bucket = open(&(Arc::new(MemoryEngine::new()) as Arc<dyn Engine>));
        for (key, end) in [(b"a", ENDS_MS), (b"b", ENDS_MS), (b"c", ENDS_MS + 1)] {
            run(&bucket, (7, key), |cells| cells.put("v", Some(end)));
        }
        assert_eq!(drop_all(&bucket, ENDS_MS, true).1, 2);
        assert_eq!(drop_all(&bucket, ENDS_MS + 1, true).1, 1);
        assert_eq!(count(&bucket, 0), (0, 0));
    }

    #[test]
    fn what_was_added_to_a_value_goes_with_it_when_alone() {
        let bucket = open(&(Arc::new(MemoryEngine::new()) as Arc<dyn Engine>));
        run(&bucket, (0, b"k"), |cells| cells.put("5", Some(ENDS_MS)));
        run(&bucket, (0, b"k"), |cells| cells.add(1));
        assert_eq!((count(&bucket, ENDS_MS - 1), count(&bucket, ENDS_MS)), ((1, 1), (0, 0)));
        assert_eq!(drop_all(&bucket, ENDS_MS, true).1, 1);
        assert_eq!((count(&bucket, 0), bucket.cell(Position(0), b"k").expect("read")), ((0, 0), None));
    }

    #[test]
    fn ends_are_known_again_after_a_restart_however_it_ended() {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let first = open(&engine);
        (0..KEYS).for_each(|at| put(&first, at, Some(ENDS_MS)));
        let counted = open(&engine);
        count_all(&counted);
        assert_eq!((count(&counted, 0), count(&counted, ENDS_MS)), ((KEYS, KEYS), (0, 0)));
        let stocked = open(&engine);
        assert!(stocked.take_stock(&first.stock().expect("it is known")));
        assert_eq!(count(&stocked, 0), (KEYS, KEYS));
        assert_eq!(drop_all(&stocked, ENDS_MS - 1, false).1, 0);
        assert_eq!(count(&stocked, ENDS_MS), (0, 0), "they are read before they are dropped");
        assert_eq!(drop_all(&stocked, ENDS_MS, false).1, KEYS as usize);
    }
}
