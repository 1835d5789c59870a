//! The memory engine: ordered tables in shards, one heap block per record.
//!
//! A shard holds the positions that share their top eight bits. Two keys on one position are possible, if
//! somebody looks for them; the second goes to a table of its own so that the first costs no space for it.
//! A batch locks all its shards before it changes any: no read, and no scan within one shard, sees half of it.
//! A scan over several shards may see one of them before a batch and the next one after it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use slipring_model::{BucketId, Position, Room, Space};
use thin_vec::ThinVec;

use crate::{Engine, Error, RecordKey, Write};

const SHARD_BITS: u32 = 8;
/// What a record takes beside key and bytes: its place in a table, its length, and what the allocator adds.
const RECORD_BYTES: u64 = 72;
/// The allocator rounds up, by so much at most.
const ROUNDING_SHARE: u64 = 8;
/// Counters within a record that is full grow by a byte now and then: so much is taken beyond the limit, up to this
/// share of it.
const CREEP_BYTES: u64 = 16;
const CREEP_SHARE: u64 = 64;
/// Copies of other replicas are taken beyond the limit, up to this share of it.
const COPIES_SHARE: u64 = 16;

/// Records in memory; gone with the process.
#[derive(Default)]
pub struct MemoryEngine {
    buckets: ArcSwap<Vec<(BucketId, Arc<Shards>)>>,
    growing: Mutex<()>,
    used: AtomicU64,
    /// The most bytes it holds; 0 for any number.
    limit: AtomicU64,
}

/// What a record counts for, beside its key.
fn cost(key: &[u8], record: &[u8]) -> u64 {
    let bytes = (key.len() + record.len()) as u64;
    RECORD_BYTES + bytes + bytes / ROUNDING_SHARE
}

type Shards = [Mutex<Shard>; 1 << SHARD_BITS];

#[derive(Default)]
struct Shard {
    /// One record of every position that has any.
    first: BTreeMap<u64, Block>,
    /// The other records of positions that have several.
    others: BTreeMap<(u64, Box<[u8]>), Box<[u8]>>,
}

/// Key and record in one heap block: key length (two bytes), bytes that are spare at the end (one), key, record. It
/// consists of pieces, since the vector takes its elements one by one.
struct Block(ThinVec<Piece>);

type Piece = [u8; 16];
const HEAD_BYTES: usize = 3;

impl Block {
    fn new(key: &[u8], record: &[u8]) -> Self {
        let [low, high] = u16::try_from(key.len()).expect("keys are shorter than 64 KiB").to_le_bytes();
        let bytes = HEAD_BYTES + key.len() + record.len();
        let pieces = bytes.div_ceil(size_of::<Piece>());
        let spare = (pieces * size_of::<Piece>() - bytes) as u8;
        let mut block = ThinVec::with_capacity(pieces);
        block.resize(pieces, Piece::default());
        let mut rest = block.as_flattened_mut();
        for part in [&[low, high, spare], key, record] {
            let (place, behind) = rest.split_at_mut_checked(part.len()).expect("there is room for all parts");
            place.copy_from_slice(part);
            rest = behind;
        }
        Self(block)
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let ([low, high, spare], rest) =
            self.0.as_flattened().split_first_chunk::<HEAD_BYTES>().expect("a block begins with its head");
        let parts = rest.get(..rest.len() - usize::from(*spare)).expect("less is spare than a piece has");
        let key_bytes = usize::from(u16::from_le_bytes([*low, *high]));
        parts.split_at_checked(key_bytes).expect("a block holds its whole key")
    }

    fn key(&self) -> &[u8] {
        self.parts().0
    }

    /// Replaces the record, in place where it has the same length.
    fn replace(&mut self, record: &[u8]) {
        let (key, old) = self.parts();
        if old.len() != record.len() {
            *self = Self::new(key, record);
            return;
        }
        let place = HEAD_BYTES + key.len()..HEAD_BYTES + key.len() + record.len();
        self.0.as_flattened_mut().get_mut(place).expect("the record lies here").copy_from_slice(record);
    }
}

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes no write that grows when it would hold more bytes than this; 0 for any number.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    fn judge(&self, growth: u64, limit: u64) -> Room {
        let used = self.used.load(Ordering::Relaxed);
        let creeps = growth <= CREEP_BYTES && used <= limit.saturating_add(limit / CREEP_SHARE);
        match limit {
            0 => Room::Ample,
            limit if used.saturating_add(growth) <= limit || growth > 0 && creeps => Room::Ample,
            _ => Room::Scarce,
        }
    }

    fn count(&self, (more, less): (u64, u64)) {
        self.used.fetch_add(more, Ordering::Relaxed);
        self.used.fetch_sub(less, Ordering::Relaxed);
    }

    fn with_shard<R>(
        &self,
        bucket: BucketId,
        position: Position,
        run: impl FnOnce(&mut Shard) -> R,
    ) -> Option<R> {
        let buckets = self.buckets.load();
        Some(run(&mut shard_of(&buckets, bucket, shard_index(position))?.lock()))
    }

    /// Locks the shards in one order for all, so that batches cannot wait for each other in a circle.
    fn apply_together(&self, writes: &[Write<'_>]) {
        writes.iter().filter(|write| write.record.is_some()).for_each(|write| self.ensure(write.at.bucket));
        let place = |write: &Write<'_>| (write.at.bucket, shard_index(write.at.position));
        let places: BTreeSet<_> = writes.iter().map(place).collect();
        let buckets = self.buckets.load();
        let shards = places
            .into_iter()
            .filter_map(|(bucket, index)| Some(((bucket, index), shard_of(&buckets, bucket, index)?.lock())));
        let mut locked: BTreeMap<_, _> = shards.collect();
        for write in writes {
            // A bucket without shards has nothing to remove.
            if let Some(shard) = locked.get_mut(&place(write)) {
                self.count(shard.change(write));
            }
        }
    }

    /// The buckets that anything was ever written to.
    pub(crate) fn buckets(&self) -> Vec<BucketId> {
        self.buckets.load().iter().map(|(id, _)| *id).collect()
    }

    fn ensure(&self, bucket: BucketId) {
        let _growing = self.growing.lock();
        let buckets = self.buckets.load();
        if !buckets.iter().any(|(id, _)| *id == bucket) {
            let mut grown = Vec::clone(&buckets);
            grown.push((bucket, Arc::new(std::array::from_fn(|_| Mutex::default()))));
            self.buckets.store(Arc::new(grown));
        }
    }
}

fn shard_index(position: Position) -> usize {
    (position.0 >> (64 - SHARD_BITS)) as usize
}

fn shard_of(buckets: &[(BucketId, Arc<Shards>)], bucket: BucketId, index: usize) -> Option<&Mutex<Shard>> {
    let (_, shards) = buckets.iter().find(|(id, _)| *id == bucket)?;
    Some(shards.get(index).expect("every shard exists"))
}

impl Shard {
    /// Makes a change; the bytes it adds and those it takes away.
    fn change(&mut self, write: &Write<'_>) -> (u64, u64) {
        let less = self.get(write.at).map_or(0, |record| cost(write.at.key, record));
        match write.record {
            Some(record) => self.set(write.at, record),
            None => self.remove(write.at),
        }
        (write.record.map_or(0, |record| cost(write.at.key, record)), less)
    }

    fn get(&self, at: RecordKey<'_>) -> Option<&[u8]> {
        let (key, record) = self.first.get(&at.position.0)?.parts();
        if key == at.key {
            return Some(record);
        }
        self.others.get(&(at.position.0, at.key.into())).map(AsRef::as_ref)
    }

    fn set(&mut self, at: RecordKey<'_>, record: &[u8]) {
        match self.first.get_mut(&at.position.0) {
            None => drop(self.first.insert(at.position.0, Block::new(at.key, record))),
            Some(block) if block.key() == at.key => block.replace(record),
            Some(_) => drop(self.others.insert((at.position.0, at.key.into()), record.into())),
        }
    }

    fn remove(&mut self, at: RecordKey<'_>) {
        let position = at.position.0;
        if self.first.get(&position).is_some_and(|block| block.key() == at.key) {
            self.first.remove(&position);
            let next = self.others.range((position, Box::default())..).next().map(|(key, _)| key.clone());
            if let Some(key) = next.filter(|(other, _)| *other == position)
                && let Some(record) = self.others.remove(&key)
            {
                self.first.insert(position, Block::new(&key.1, &record));
            }
        } else {
            self.others.remove(&(position, at.key.into()));
        }
    }

    /// Visits the records of one position in key order.
    fn visit(
        &self,
        position: u64,
        block: &Block,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], Option<&[u8]>) -> bool,
    ) -> bool {
        let is_after = |key: &[u8]| after.is_none_or(|after| (Position(position), key) > after);
        let (key, record) = block.parts();
        if self.others.is_empty() {
            return !is_after(key) || with(Position(position), key, Some(record));
        }
        let others =
            self.others.range((position, Box::default())..).take_while(|((at, _), _)| *at == position);
        let others = others.map(|((_, key), record)| (key.as_ref(), record.as_ref()));
        let mut records: Vec<_> = std::iter::once((key, record)).chain(others).collect();
        records.sort_unstable();
        records
            .into_iter()
            .filter(|(key, _)| is_after(key))
            .all(|(key, record)| with(Position(position), key, Some(record)))
    }
}

impl Engine for MemoryEngine {
    fn read(&self, at: RecordKey<'_>, with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error> {
        if self.with_shard(at.bucket, at.position, |shard| with(shard.get(at))).is_none() {
            with(None);
        }
        Ok(())
    }

    fn apply(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        let changed = match writes {
            [write] => self.with_shard(write.at.bucket, write.at.position, |shard| shard.change(write)),
            _ => None,
        };
        match changed {
            Some(changed) => self.count(changed),
            None => self.apply_together(writes),
        }
        Ok(())
    }

    fn scan(
        &self,
        bucket: BucketId,
        range: RangeInclusive<Position>,
        after: Option<(Position, &[u8])>,
        with: &mut dyn FnMut(Position, &[u8], Option<&[u8]>) -> bool,
    ) -> Result<(), Error> {
        let start = after.map_or(range.start().0, |(position, _)| position.0.max(range.start().0));
        let end = range.end().0;
        for shard in start >> (64 - SHARD_BITS)..=end >> (64 - SHARD_BITS) {
            if start > end {
                break;
            }
            let first_position = Position(shard << (64 - SHARD_BITS));
            let goes_on = self.with_shard(bucket, first_position, |shard| {
                shard
                    .first
                    .range(start..=end)
                    .all(|(position, block)| shard.visit(*position, block, after, with))
            });
            if goes_on == Some(false) {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn room(&self, growth: u64) -> Room {
        self.judge(growth, self.limit.load(Ordering::Relaxed))
    }

    fn room_for_copy(&self, growth: u64) -> Room {
        let limit = self.limit.load(Ordering::Relaxed);
        self.judge(growth, limit.saturating_add(limit / COPIES_SHARE))
    }

    fn space(&self) -> Space {
        let (used, limit) = (self.used.load(Ordering::Relaxed), self.limit.load(Ordering::Relaxed));
        let free = if limit == 0 { u64::MAX } else { limit.saturating_sub(used) };
        // Less than the smallest record fits: it is full.
        Space { room: self.room(RECORD_BYTES), used, free, limit, reserve: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(engine: &MemoryEngine, position: u64, key: &[u8], record: Option<&[u8]>) {
        let at = RecordKey { bucket: BucketId(0), position: Position(position), key };
        engine.apply(&[Write { at, record }]).expect("memory takes every write");
    }

    #[test]
    fn bytes_in_use_follow_each_change() {
        let engine = MemoryEngine::new();
        let used = || engine.space().used;
        write(&engine, 1, b"a", Some(&[0; 79]));
        assert_eq!(used(), RECORD_BYTES + 90);
        // Two keys on one position: the second is in a table of its own, and moves when the first goes.
        write(&engine, 1, b"b", Some(&[0; 39]));
        assert_eq!(used(), 2 * RECORD_BYTES + 135);
        write(&engine, 1, b"a", None);
        assert_eq!(used(), RECORD_BYTES + 45);
        write(&engine, 1, b"a", None);
        assert_eq!(used(), RECORD_BYTES + 45, "nothing was there");
        write(&engine, 1, b"b", Some(&[0; 7]));
        assert_eq!(used(), RECORD_BYTES + 9);
        let at = |key| RecordKey { bucket: BucketId(0), position: Position(1), key };
        engine
            .apply(&[Write { at: at(b"b"), record: None }, Write { at: at(b"c"), record: Some(b"cc") }])
            .expect("memory takes every write");
        assert_eq!(used(), RECORD_BYTES + 3);
        write(&engine, 1, b"c", None);
        assert_eq!(used(), 0);
    }

    #[test]
    fn room_below_at_and_above_the_limit() {
        let engine = MemoryEngine::new();
        assert_eq!((engine.room(u64::MAX), engine.space().limit), (Room::Ample, 0), "no limit is set");
        write(&engine, 1, b"a", Some(&[0; 799]));
        let used = engine.space().used;
        engine.set_limit(used + 100);
        let copies = (used + 100) / COPIES_SHARE;
        let rooms = [99, 100, 101].map(|growth| engine.room_for_copy(copies + growth));
        assert_eq!(rooms, [Room::Ample, Room::Ample, Room::Scarce]);
        let rooms = [99, 100, 101, u64::MAX].map(|growth| engine.room(growth));
        assert_eq!(rooms, [Room::Ample, Room::Ample, Room::Scarce, Room::Scarce]);
        assert_eq!(engine.space().limit, used + 100);
        engine.set_limit(used);
        let rooms = [0, 1, CREEP_BYTES, CREEP_BYTES + 1].map(|growth| engine.room(growth));
        assert_eq!(rooms, [Room::Ample, Room::Ample, Room::Ample, Room::Scarce]);
        assert_eq!(engine.space().room, Room::Scarce, "no record fits");
        engine.set_limit(used - used / 32);
        assert_eq!([0, 1].map(|growth| engine.room(growth)), [Room::Scarce, Room::Scarce], "it crept so far");
    }
}
