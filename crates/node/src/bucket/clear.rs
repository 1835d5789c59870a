//! Deleting all keys of a range: tombstones on the replica that clears, and their merging on the others.
//!
//! Each page goes under one lock and in one batch. A replica that merges a page also tells which keys of its range have
//! a value still, so that the one that clears learns of every key that it lacks.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use bytes::Bytes;
use slipring_model::{Actor, Dot, Error, ErrorKind, Position, Room, Timestamp, limits};
use slipring_service::{Cell, Change};

use super::batch::Batch;
use super::live::Worth;
use super::moves::Refusal;
use super::room::Difference;
use super::{Bucket, Partition, decode, not_a_cell};
use crate::failure::{stored, unavailable};

/// Keys that one page deletes; those on one position stay together.
const PAGE_KEYS: usize = 128;
/// Records that a page looks at on a replica that has more of them than the one that clears.
const PAGE_RECORDS: usize = 2 * limits::SCAN_PIECE_RECORDS;

const DELETION: Change = Change::Remove { seen: None };

/// In whose name a range is cleared, and under which layout.
#[derive(Clone, Copy)]
pub(crate) struct Clearing {
    pub(crate) actor: Actor,
    /// Whether this node holds the only copy, so that a deletion needs no tombstone.
    pub(crate) is_alone: bool,
    /// What so many other replicas as a write needs have room for.
    pub(crate) others: Room,
    pub(crate) wall_ms: u64,
    pub(crate) epoch: u64,
}

/// A part of a range after its keys were looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The keys and their cells: tombstones, or what a replica still has.
    pub(crate) cells: Vec<(Bytes, Bytes)>,
    /// How many keys were deleted.
    pub(crate) count: u64,
    /// Where to go on, if not all of the range was looked at.
    pub(crate) next: Option<Position>,
}

impl Bucket {
    /// Deletes keys of a range within one partition, as many as one page takes.
    pub(crate) fn clear_some(
        &self,
        range: RangeInclusive<Position>,
        clearing: &Clearing,
    ) -> Result<Page, Refusal> {
        let mut guard = self.partition(*range.start());
        let partition = &mut *guard;
        partition.admit(clearing.epoch)?;
        let (mut batch, mut page, mut walk) = (Batch::default(), Page::default(), Walk::default());
        let mut damaged: Vec<(Position, Bytes)> = Vec::new();
        self.engine
            .scan(self.id, range, None, &mut |position, key, record| {
                let is_full = batch.len() >= PAGE_KEYS || walk.records >= limits::SCAN_PIECE_RECORDS;
                if !walk.goes_on(position, key.len() + record.map_or(0, <[u8]>::len), is_full) {
                    page.next = Some(position);
                    return false;
                }
                match self.decode(position, key, record) {
                    Some(cell) if cell.is_bare() => {}
                    Some(cell) => partition.bury(&mut batch, (position, key), cell, clearing),
                    None => {
                        damaged.push((position, Bytes::copy_from_slice(key)));
                        batch.add(position, key, Worth::of_damaged(), None);
                    }
                }
                true
            })
            .map_err(stored)?;
        // Where there are other copies, one of them heals it: until then nobody knows what it has seen.
        if !damaged.is_empty() && !clearing.is_alone {
            return Err(being_healed().into());
        }
        page.count = batch.len() as u64;
        page.cells = self.store_page(partition, &batch, clearing)?;
        let mut noted = self.damaged.lock();
        for at in &damaged {
            noted.remove(at);
        }
        Ok(page)
    }

    /// Deletes keys that other replicas have told of, as far as they have a value there or here.
    pub(crate) fn clear_told(
        &self,
        at: Position,
        told: &BTreeMap<(Position, Bytes), Vec<Bytes>>,
        clearing: &Clearing,
    ) -> Result<Page, Refusal> {
        let mut guard = self.partition(at);
        let partition = &mut *guard;
        partition.admit(clearing.epoch)?;
        let mut batch = Batch::default();
        for ((position, key), theirs) in told {
            let mut own = None;
            self.read(*position, key, &mut |record| own = record.map(Bytes::copy_from_slice))?;
            let mut cell = self.noting(*position, key, decode(own.as_deref()))?;
            let was = Worth::of(&cell);
            for other in theirs {
                cell = cell.merge(Cell::decode(other).map_err(|_| not_a_cell())?);
            }
            partition.bury_as(&mut batch, (*position, key), (was, cell), clearing);
        }
        let cells = self.store_page(partition, &batch, clearing)?;
        Ok(Page { cells, count: batch.len() as u64, next: None })
    }

    /// Merges the cells of a range that another replica has cleared, and tells which keys of the range have a value
    /// all the same: their cells without the values.
    pub(crate) fn merge_cleared(
        &self,
        range: RangeInclusive<Position>,
        cells: &[(Bytes, Bytes)],
        epoch: u64,
    ) -> Result<Page, Refusal> {
        let mut guard = self.partition(*range.start());
        let partition = &mut *guard;
        partition.admit(epoch)?;
        let mut batch = Batch::default();
        let mut before: Option<(Position, &Bytes)> = None;
        for (key, cell) in cells {
            let position = Position::of(key);
            if !range.contains(&position)
                || key.len() > limits::KEY_BYTES_MAX
                || before >= Some((position, key))
            {
                return Err(out_of_order().into());
            }
            before = Some((position, key));
            let mut outcome = Err(not_a_cell());
            self.read(position, key, &mut |record| outcome = partition.merge(record, cell))?;
            let Some(difference) = self.noting(position, key, outcome)?.difference else { continue };
            self.check_room(key, partition.scratch.len(), &difference, None)?;
            batch.add_record(position, key, (difference.was, difference.is), &partition.scratch);
        }
        if !batch.is_empty() {
            partition.commit();
            self.apply(partition, &batch)?;
        }
        partition.tidy();
        self.still_there(range)
    }

    /// The keys of a range that have a value, and their cells without it.
    fn still_there(&self, range: RangeInclusive<Position>) -> Result<Page, Refusal> {
        let (mut page, mut walk, mut is_damaged) = (Page::default(), Walk::default(), false);
        self.engine
            .scan(self.id, range, None, &mut |position, key, record| {
                let is_full = walk.records >= PAGE_RECORDS;
                if !walk.goes_on(position, key.len() + record.map_or(0, <[u8]>::len), is_full) {
                    page.next = Some(position);
                    return false;
                }
                match self.decode(position, key, record) {
                    Some(cell) if cell.is_bare() => {}
                    Some(cell) => {
                        let mut shape = Vec::new();
                        cell.without_values().encode(&mut shape);
                        page.cells.push((Bytes::copy_from_slice(key), shape.into()));
                    }
                    None => is_damaged = true,
                }
                true
            })
            .map_err(stored)?;
        if is_damaged { Err(being_healed().into()) } else { Ok(page) }
    }

    /// Stores what a page has changed; what other replicas need of it.
    fn store_page(
        &self,
        partition: &mut Partition,
        batch: &Batch,
        clearing: &Clearing,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let deletion =
            Difference { before: 1, is_kept: true, was: Worth::of_damaged(), is: Worth::default() };
        self.check_room(b"", 0, &deletion, Some(clearing.others))?;
        // What failed may be there all the same.
        partition.commit();
        self.apply(partition, batch)?;
        let copy = |(_, key, record): (Position, &[u8], Option<&[u8]>)| {
            Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(record?)))
        };
        Ok(batch.records().filter_map(copy).collect())
    }
}

impl Partition {
    /// Adds the deletion of a key to a batch.
    fn bury(&mut self, batch: &mut Batch, at: (Position, &[u8]), cell: Cell<'_>, clearing: &Clearing) {
        let was = Worth::of(&cell);
        self.bury_as(batch, at, (was, cell), clearing);
    }

    /// Adds the deletion of a key to a batch, whose record here counted for this.
    fn bury_as(
        &mut self,
        batch: &mut Batch,
        (position, key): (Position, &[u8]),
        (was, cell): (Worth, Cell<'_>),
        clearing: &Clearing,
    ) {
        let stamp = Timestamp::next(clearing.wall_ms, self.last_stamp, cell.last_stamp());
        self.counter += 1;
        self.last_stamp = stamp;
        let dot = Dot { actor: clearing.actor, counter: self.counter };
        let deleted = cell.changed(&DELETION, dot, stamp);
        batch.add(position, key, was, (!clearing.is_alone).then_some(&deleted));
    }
}

/// How far a scan has come.
#[derive(Default)]
struct Walk {
    records: usize,
    bytes: usize,
    last: Option<Position>,
}

impl Walk {
    /// Whether the record at a position is looked at, too: keys on one position stay on one page.
    fn goes_on(&mut self, position: Position, bytes: usize, is_full: bool) -> bool {
        if (is_full || self.bytes >= limits::SCAN_PIECE_BYTES) && self.last != Some(position) {
            return false;
        }
        (self.records, self.bytes, self.last) = (self.records + 1, self.bytes + bytes, Some(position));
        true
    }
}

fn being_healed() -> Error {
    unavailable("a damaged record of the range is being healed; try again")
}

fn out_of_order() -> Error {
    Error::new(
        ErrorKind::Invalid,
        "a peer sent cells that are out of order or out of their range; nothing was stored",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slipring_model::{BucketId, BucketPolicy, PartitionId};
    use slipring_service::{Cells, Context};
    use slipring_storage::{Engine, MemoryEngine, RecordKey, Write};

    use super::super::Locus;
    use super::*;

    const ALL: RangeInclusive<Position> = Position(0)..=Position(u64::MAX / 2);
    const WHOLE: PartitionId = PartitionId(0);

    fn actor(assignment: u64) -> Actor {
        Actor { assignment, incarnation: 1 }
    }

    fn clearing(is_alone: bool) -> Clearing {
        Clearing { actor: actor(1), is_alone, others: Room::Ample, wall_ms: 5, epoch: 1 }
    }

    fn bucket() -> (Bucket, Arc<dyn Engine>) {
        let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
        let (name, policy) = ("default".parse().expect("a name"), BucketPolicy::durable());
        let bucket = Bucket::open(BucketId(0), name, policy, Arc::clone(&engine), 1).expect("a bucket");
        (bucket, engine)
    }

    /// Keys of the lower half of all positions, in their order.
    fn keys(count: usize) -> Vec<Bytes> {
        let names = (0..).map(|number: u32| Bytes::from(format!("key-{number}")));
        let mut keys: Vec<Bytes> = names.filter(|key| ALL.contains(&Position::of(key))).take(count).collect();
        keys.sort_by_key(|key| Position::of(key));
        keys
    }

    fn run(bucket: &Bucket, key: &Bytes, by: u64, change: impl FnOnce(&mut Cells<'_>)) -> Bytes {
        let (position, actor) = (Position::of(key), actor(by));
        let locus = Locus { position, key, actor, is_alone: false, others: Room::Ample, wall_ms: 5 };
        let context = Context { now_ms: 5, random: 0, default_ttl_ms: None, keeps_siblings: false };
        let executed = bucket.execute(&locus, context, 1, |_, cells| change(cells)).expect("there is room");
        executed.cell.expect("it changed")
    }

    fn has_value(bucket: &Bucket, key: &Bytes) -> bool {
        let cell = bucket.cell(Position::of(key), key).expect("read").unwrap_or_default();
        !cell.is_empty() && Cell::decode(&cell).expect("a cell").has_value()
    }

    /// Clears all in pages; how many keys each deleted.
    fn clear_all(bucket: &Bucket, is_alone: bool) -> Vec<u64> {
        let (mut counts, mut next) = (Vec::new(), Some(*ALL.start()));
        while let Some(from) = next {
            let page = bucket.clear_some(from..=*ALL.end(), &clearing(is_alone)).expect("nothing fails");
            assert_eq!(page.cells.len() as u64, if is_alone { 0 } else { page.count });
            (counts, next) = ([counts, vec![page.count]].concat(), page.next);
        }
        counts
    }

    #[test]
    fn pages_delete_every_key_and_leave_the_other_partition() {
        for (count, pages) in [(0, 1), (PAGE_KEYS - 1, 1), (PAGE_KEYS, 1), (PAGE_KEYS + 1, 2)] {
            let (bucket, engine) = bucket();
            let keys = keys(count);
            keys.iter().for_each(|key| drop(run(&bucket, key, 1, |cells| cells.put("v", Some(9)))));
            let other = Bytes::from_static(b"other");
            let at = RecordKey { bucket: BucketId(0), position: Position(u64::MAX), key: &other };
            engine.apply(&[Write { at, record: Some(b"kept") }]).expect("stored");
            let counts = clear_all(&bucket, false);
            assert_eq!((counts.len(), counts.iter().sum::<u64>()), (pages, count as u64));
            assert_eq!((bucket.live(WHOLE, 1, 0), bucket.ending(WHOLE, 1, 0)), (0, 0));
            assert!(!keys.iter().any(|key| has_value(&bucket, key)));
            assert!(bucket.cell(Position(u64::MAX), b"other").expect("read").is_some());
            assert_eq!(clear_all(&bucket, false).iter().sum::<u64>(), 0, "there is nothing to delete");
        }
    }

    #[test]
    fn an_only_copy_leaves_no_record_and_a_damaged_one_goes_too() {
        let (bucket, engine) = bucket();
        let keys = keys(3);
        keys.iter().for_each(|key| drop(run(&bucket, key, 1, |cells| cells.put("v", None))));
        let damaged = keys.first().expect("a key");
        let at = RecordKey { bucket: BucketId(0), position: Position::of(damaged), key: damaged };
        engine.apply(&[Write { at, record: Some(b"no cell") }]).expect("stored");
        let Err(Refusal::Failed(error)) = bucket.clear_some(ALL, &clearing(false)) else {
            panic!("another replica knows what the record has seen")
        };
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert_eq!(bucket.live(WHOLE, 1, 0), 3, "nothing was done");
        assert_eq!(clear_all(&bucket, true), [3]);
        assert_eq!((bucket.live(WHOLE, 1, 0), bucket.damaged(&Default::default(), 9)), (0, Vec::new()));
        assert!(keys.iter().all(|key| bucket.cell(Position::of(key), key).expect("read").is_none()));
    }

    #[test]
    fn a_replica_tells_of_the_keys_that_the_other_lacked() {
        let ((here, _), (there, _)) = (bucket(), bucket());
        let keys = keys(4);
        let [both, missed, newer, unseen] = &keys[..] else { panic!("four keys") };
        for key in [both, newer] {
            let cell = run(&here, key, 1, |cells| cells.put("v", None));
            there.merge(Position::of(key), key, &cell, 1).expect("merged");
        }
        run(&there, missed, 2, |cells| cells.put("v", None));
        run(&there, newer, 2, |cells| cells.put("w", None));
        run(&there, unseen, 2, |cells| cells.add(5));
        let page = here.clear_some(ALL, &clearing(false)).expect("cleared");
        assert_eq!(page.count, 2);
        let told = there.merge_cleared(ALL, &page.cells, 1).expect("merged");
        let names: Vec<&Bytes> = told.cells.iter().map(|(key, _)| key).collect();
        assert_eq!((names, told.next), (vec![missed, newer, unseen], None));
        let told =
            told.cells.into_iter().map(|(key, cell)| ((Position::of(&key), key), vec![cell])).collect();
        let more = here.clear_told(*ALL.start(), &told, &clearing(false)).expect("cleared");
        assert_eq!(there.merge_cleared(ALL, &more.cells, 1).expect("merged"), Page::default());
        assert!(!keys.iter().any(|key| has_value(&here, key) || has_value(&there, key)));
        assert_eq!((here.live(WHOLE, 1, 0), there.live(WHOLE, 1, 0)), (0, 0));
        run(&there, unseen, 2, |cells| cells.add(2));
        let cell = there.cell(Position::of(unseen), unseen).expect("read").expect("there");
        assert_eq!(Cell::decode(&cell).expect("a cell").value(0).expect("a sum").bytes.as_ref(), b"2");
    }

    #[test]
    fn cells_out_of_order_or_range_change_nothing() {
        let (bucket, _) = bucket();
        let keys = keys(2);
        let cells: Vec<(Bytes, Bytes)> = keys
            .iter()
            .map(|key| (key.clone(), run(&bucket, key, 1, |cells| cells.put("v", None))))
            .collect();
        let [first, second] = &cells[..] else { panic!("two keys") };
        let merge = |range, cells: &[&(Bytes, Bytes)]| {
            bucket.merge_cleared(range, &cells.iter().map(|pair| (*pair).clone()).collect::<Vec<_>>(), 1)
        };
        assert!(merge(ALL, &[first, second]).is_ok());
        let only = Position::of(&first.0)..=Position::of(&first.0);
        for wrong in
            [merge(ALL, &[second, first]), merge(ALL, &[first, first]), merge(only, &[first, second])]
        {
            assert!(matches!(wrong, Err(Refusal::Failed(error)) if error.kind == ErrorKind::Invalid));
        }
        bucket.fence(WHOLE, Some(2));
        assert!(matches!(merge(ALL, &[first]), Err(Refusal::Stale)), "it was made under an older layout");
    }
}
