//! One bucket as this node holds it: its engine, and per partition the lock under which cells change.
//!
//! Requests on one partition run one at a time under a short lock that is never held across a wait.
//!
//! Invariant: each change gets a dot higher than every dot this actor issued before in this partition.

mod batch;
mod clear;
mod ends;
mod live;
mod moves;
mod room;
mod split;
mod stock;
mod upkeep;

use std::collections::BTreeSet;
use std::ops::{Bound, RangeInclusive};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use slipring_model::{
    Actor, BucketId, BucketName, BucketPolicy, Dot, Error, ErrorKind, Mutant, PartitionId, Position, Room,
    Timestamp, limits,
};
use slipring_replication::PageEntry;
use slipring_service::{Cell, Cells, Change, Context};
use slipring_storage::{Engine, RecordKey};

use crate::failure::{damaged, stored};
use crate::heal::is_damage;

pub(crate) use clear::Clearing;
use ends::Ends;
use live::{Live, Worth};
pub(crate) use moves::{Refusal, Wiped};
use room::Difference;
pub(crate) use upkeep::DropTimes;

/// Scratch space a partition keeps between writes; larger writes give theirs back.
const SCRATCH_BYTES_MAX: usize = 4 * 1024;

/// Damaged keys that are remembered; the scrub finds the rest again.
const DAMAGED_KEYS_MAX: usize = 100_000;

/// A bucket and its partitions.
pub(crate) struct Bucket {
    pub(crate) id: BucketId,
    pub(crate) name: BucketName,
    /// As it was when the bucket was opened: how many copies there are to be is told by the layout.
    pub(crate) policy: BucketPolicy,
    pub(crate) engine: Arc<dyn Engine>,
    bits: u8,
    partitions: Box<[Mutex<Partition>]>,
    /// Keys with a value, expired ones among them until they are dropped.
    live: Live,
    /// Whether the keys that were there when it was opened are among them.
    is_counted: Arc<AtomicBool>,
    /// Keys whose records fail their check.
    damaged: Arc<Mutex<BTreeSet<(Position, Bytes)>>>,
}

#[derive(Default)]
struct Partition {
    /// Requests made under an older layout than this are refused.
    fence: u64,
    /// Whether what an earlier assignment left here is still being removed.
    is_closed: bool,
    /// Whether the partition was cut into others: nothing changes here any more.
    is_over: bool,
    counter: u64,
    draws: u64,
    last_stamp: Timestamp,
    /// Rises with each change; tells whether `root` is still true.
    version: u64,
    root: Option<(u64, u128)>,
    /// When what is here expires.
    ends: Ends,
    /// From where on the keys that were there are not counted yet.
    uncounted: Option<Position>,
    scratch: Vec<u8>,
}

/// The key a request works on, and in whose name.
pub(crate) struct Locus<'a> {
    pub(crate) position: Position,
    pub(crate) key: &'a [u8],
    pub(crate) actor: Actor,
    /// Whether this node holds the only copy, so that a deletion needs no tombstone.
    pub(crate) is_alone: bool,
    /// What so many other replicas as the write needs have room for.
    pub(crate) others: Room,
    /// What this node's own clock says, for the stamps of concurrent writes.
    pub(crate) wall_ms: u64,
}

/// What an execution came to.
pub(crate) struct Executed<R> {
    pub(crate) response: R,
    /// The cell as it is now, when it changed and other replicas need it.
    pub(crate) cell: Option<Bytes>,
    /// Whether it changed.
    pub(crate) is_changed: bool,
    /// The dot of a change that replaced all there was and depends on nothing.
    pub(crate) overwrite: Option<Dot>,
}

/// How a cell was merged.
struct Merged {
    /// Nothing when it is as it was.
    difference: Option<Difference>,
    /// Whether a value wins that the other replica has not seen.
    is_overtaken: bool,
}

impl Bucket {
    /// Opens the bucket on `engine`; what that already holds is counted later.
    pub(crate) fn open(
        id: BucketId,
        name: BucketName,
        policy: BucketPolicy,
        engine: Arc<dyn Engine>,
        bits: u8,
    ) -> Result<Self, Error> {
        let partition = |_| Mutex::new(Partition { ends: Ends::new(bits), ..Partition::default() });
        let partitions = (0..1_u32 << bits).map(partition).collect();
        let (live, damaged, is_counted) = (Live::new(), Arc::default(), Arc::new(AtomicBool::new(true)));
        let bucket = Self { id, name, policy, engine, bits, partitions, live, is_counted, damaged };
        if bucket.holds_any()? {
            bucket.count_anew();
        }
        Ok(bucket)
    }

    /// How many bits of a position name its partition here.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }

    /// Runs a service's function on the cell of a key and stores the change it makes.
    ///
    /// `epoch` is the layout the request was made under.
    pub(crate) fn execute<R>(
        &self,
        locus: &Locus<'_>,
        mut context: Context,
        epoch: u64,
        run: impl FnOnce(&Context, &mut Cells<'_>) -> R,
    ) -> Result<Executed<R>, Refusal> {
        let mut guard = self.partition(locus.position);
        let partition = &mut *guard;
        partition.admit(epoch)?;
        context.random = partition.draw(locus.actor);
        let mut run = Some(run);
        let mut outcome = Err(Error::new(ErrorKind::Internal, "the engine did not answer"));
        self.read(locus.position, locus.key, &mut |record| {
            if let Some(run) = run.take() {
                outcome = partition.execute(record, locus, &context, run);
            }
        })?;
        let (response, change) = self.noting(locus.position, locus.key, outcome)?;
        let Some((difference, overwrite)) = change else {
            return Ok(Executed { response, cell: None, is_changed: false, overwrite: None });
        };
        self.store(partition, (locus.position, locus.key), &difference, Some(locus.others))?;
        let cell = (!locus.is_alone).then(|| Bytes::copy_from_slice(&partition.scratch));
        partition.tidy();
        Ok(Executed { response, cell, is_changed: true, overwrite })
    }

    /// Merges a cell that another replica sent under the layout `epoch`.
    pub(crate) fn merge(
        &self,
        position: Position,
        key: &[u8],
        cell: &[u8],
        epoch: u64,
    ) -> Result<(), Refusal> {
        self.merge_and_look(position, key, cell, epoch).map(drop)
    }

    /// Merges a cell as [`Bucket::merge`] does; the merged one when a value wins that the other replica has not seen.
    pub(crate) fn merge_and_look(
        &self,
        position: Position,
        key: &[u8],
        cell: &[u8],
        epoch: u64,
    ) -> Result<Option<Bytes>, Refusal> {
        let mut guard = self.partition(position);
        let partition = &mut *guard;
        partition.admit(epoch)?;
        let mut outcome = Ok(Merged { difference: None, is_overtaken: false });
        self.read(position, key, &mut |record| outcome = partition.merge(record, cell))?;
        let merged = self.noting(position, key, outcome)?;
        let winning = merged.is_overtaken.then(|| Bytes::copy_from_slice(&partition.scratch));
        if let Some(difference) = merged.difference {
            self.store(partition, (position, key), &difference, None)?;
            partition.tidy();
        }
        Ok(winning)
    }

    /// The bytes of a cell.
    pub(crate) fn cell(&self, position: Position, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let mut cell = None;
        self.read(position, key, &mut |record| cell = record.map(Bytes::copy_from_slice))?;
        Ok(cell)
    }

    /// The digest of a cell.
    pub(crate) fn digest(&self, position: Position, key: &[u8]) -> Result<Option<u64>, Error> {
        let mut digest = Ok(None);
        self.read(position, key, &mut |record| {
            digest = record.map(|bytes| Cell::decode(bytes).map(|cell| cell.digest())).transpose();
        })?;
        self.noting(position, key, digest.map_err(damaged))
    }

    /// Up to `limit` keys with a value at `now_ms`, from `from` on; the position to go on from, if any is left.
    ///
    /// Keys on one position stay on one page.
    pub(crate) fn keys(
        &self,
        range: RangeInclusive<Position>,
        limit: usize,
        now_ms: u64,
    ) -> Result<(Vec<Bytes>, Option<Position>), Error> {
        let (mut keys, mut next) = (Vec::new(), None);
        let (mut visited, mut bytes, mut last) = (0, 0, None);
        self.engine
            .scan(self.id, range, None, &mut |position, key, record| {
                let is_full = keys.len() >= limit
                    || visited >= limits::SCAN_PIECE_RECORDS
                    || bytes >= limits::SCAN_PIECE_BYTES;
                if is_full && last != Some(position) {
                    next = Some(position);
                    return false;
                }
                (visited, last) = (visited + 1, Some(position));
                bytes += key.len() + record.map_or(0, <[u8]>::len);
                // A damaged one may have a value: the other replicas know.
                let cell = self.decode(position, key, record);
                if cell.is_none_or(|cell| cell.value(now_ms).is_some()) {
                    keys.push(Bytes::copy_from_slice(key));
                }
                true
            })
            .map_err(stored)?;
        Ok((keys, next))
    }

    /// A page of keys and digests from `range` on, and the position to go on from, if any is left.
    pub(crate) fn page(
        &self,
        range: RangeInclusive<Position>,
        limit: usize,
    ) -> Result<(Vec<PageEntry<Bytes>>, Option<Position>), Error> {
        let mut page: Vec<PageEntry<Bytes>> = Vec::new();
        let mut next = None;
        self.engine
            .scan(self.id, range, None, &mut |position, key, record| {
                if page.len() >= limit && page.last().is_some_and(|entry| entry.position != position) {
                    next = Some(position);
                    return false;
                }
                if let Some(cell) = self.decode(position, key, record) {
                    let key = Bytes::copy_from_slice(key);
                    page.push(PageEntry { position, key, digest: cell.digest() });
                }
                true
            })
            .map_err(stored)?;
        Ok((page, next))
    }

    /// Keys with a value at `now_ms` in a partition, one of `1 << bits` with 1 to 14 bits, however the bucket is cut.
    pub(crate) fn live(&self, partition: PartitionId, bits: u8, now_ms: u64) -> u64 {
        self.live.keys(partition, bits).saturating_sub(self.expired(partition, bits, now_ms))
    }

    /// Those of them that will expire.
    pub(crate) fn ending(&self, partition: PartitionId, bits: u8, now_ms: u64) -> u64 {
        self.live.ending(partition, bits).saturating_sub(self.expired(partition, bits, now_ms))
    }

    /// Keys of a partition whose values have expired at `now_ms` and are still kept.
    fn expired(&self, partition: PartitionId, bits: u8, now_ms: u64) -> u64 {
        let (start, end) = (partition.start(bits), partition.end(bits));
        let parts = start.partition(self.bits).index()..=end.partition(self.bits).index();
        let parts = self.partitions.get(parts).unwrap_or_default();
        parts.iter().map(|part| part.lock().ends.passed(now_ms, start, end) as u64).sum()
    }

    /// Up to `limit` keys whose records were found damaged, after this one.
    pub(crate) fn damaged(&self, after: &(Position, Bytes), limit: usize) -> Vec<(Position, Bytes)> {
        let after = (Bound::Excluded(after.clone()), Bound::Unbounded);
        self.damaged.lock().range(after).take(limit).cloned().collect()
    }

    /// Writes a damaged record anew as the merge of `cells`; there is no record when there are none.
    pub(crate) fn restore<'c>(
        &self,
        position: Position,
        key: &Bytes,
        cells: impl Iterator<Item = &'c [u8]>,
        epoch: u64,
    ) -> Result<(), Refusal> {
        let mut guard = self.partition(position);
        let partition = &mut *guard;
        partition.admit(epoch)?;
        let mut is_whole = false;
        let read = self.engine.read(self.at(position, key), &mut |record| is_whole = decode(record).is_ok());
        if read.is_ok() && is_whole {
            // Somebody noted it while it was being healed.
            self.damaged.lock().remove(&(position, key.clone()));
            return Ok(());
        }
        let mut merged: Option<Cell<'c>> = None;
        for cell in cells {
            let cell = Cell::decode(cell).map_err(|_| not_a_cell())?;
            merged = Some(match merged {
                None => cell,
                Some(before) => before.merge(cell),
            });
        }
        partition.scratch.clear();
        merged.iter().for_each(|cell| cell.encode(&mut partition.scratch));
        let difference = Difference {
            before: 0,
            is_kept: merged.is_some(),
            was: Worth::of_damaged(),
            is: merged.as_ref().map(Worth::of).unwrap_or_default(),
        };
        self.store(partition, (position, key), &difference, None)?;
        partition.tidy();
        self.damaged.lock().remove(&(position, key.clone()));
        Ok(())
    }

    /// Reads one record; damage is noted for healing.
    fn read(&self, position: Position, key: &[u8], with: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Error> {
        let read = self.engine.read(self.at(position, key), with).map_err(stored);
        self.noting(position, key, read)
    }

    /// The same result; damage is noted for healing.
    fn noting<R>(&self, position: Position, key: &[u8], result: Result<R, Error>) -> Result<R, Error> {
        result.inspect_err(|error| {
            if is_damage(error) {
                self.note_damage(position, key);
            }
        })
    }

    fn note_damage(&self, position: Position, key: &[u8]) {
        let mut damaged = self.damaged.lock();
        if damaged.len() < DAMAGED_KEYS_MAX {
            damaged.insert((position, Bytes::copy_from_slice(key)));
        }
    }

    /// A scanned record as a cell; damage is noted for healing.
    fn decode<'r>(&self, position: Position, key: &[u8], record: Option<&'r [u8]>) -> Option<Cell<'r>> {
        let cell = record.and_then(|record| Cell::decode(record).ok());
        if cell.is_none() {
            self.note_damage(position, key);
        }
        cell
    }

    fn at<'k>(&self, position: Position, key: &'k [u8]) -> RecordKey<'k> {
        RecordKey { bucket: self.id, position, key }
    }

    fn partition(&self, position: Position) -> MutexGuard<'_, Partition> {
        let index = position.partition(self.bits).index();
        self.partitions.get(index).expect("a bucket has every partition").lock()
    }
}

impl Partition {
    /// Runs the function; leaves a changed cell in `scratch` and says how it differs, with the dot of a change that
    /// replaced all there was and depends on nothing.
    fn execute<R>(
        &mut self,
        record: Option<&[u8]>,
        locus: &Locus<'_>,
        context: &Context,
        run: impl FnOnce(&Context, &mut Cells<'_>) -> R,
    ) -> Result<(R, Option<(Difference, Option<Dot>)>), Error> {
        let cell = decode(record)?;
        let dot = Dot { actor: locus.actor, counter: self.counter + 1 };
        let mut cells = Cells::new(&cell, context.now_ms).before(dot);
        let response = run(context, &mut cells);
        let Some(change) = cells.into_change() else { return Ok((response, None)) };
        let was = Worth::of(&cell);
        let stamp = Timestamp::next(locus.wall_ms, self.last_stamp, cell.last_stamp());
        self.counter = dot.counter;
        self.last_stamp = stamp;
        let is_overwrite = matches!(change, Change::Put { seen: None, .. } | Change::Remove { seen: None });
        let changed = cell.changed(&change, dot, stamp);
        self.scratch.clear();
        changed.encode(&mut self.scratch);
        let is_last = locus.is_alone || Mutant::DropTombstone.is_planted();
        let is_kept = !(is_last && changed.is_bare());
        let difference = Difference { is_kept, ..Difference::between(record, was, &changed) };
        Ok((response, Some((difference, is_overwrite.then_some(dot)))))
    }

    /// Merges; leaves the merged cell in `scratch` and says how it differs.
    fn merge(&mut self, record: Option<&[u8]>, theirs: &[u8]) -> Result<Merged, Error> {
        let ours = decode(record)?;
        let was = Worth::of(&ours);
        let mut theirs = Cell::decode(theirs).map_err(|_| not_a_cell())?;
        if Mutant::RestampOnReplay.is_planted() {
            self.last_stamp = Timestamp::next(0, self.last_stamp, theirs.last_stamp());
            theirs.siblings.iter_mut().for_each(|sibling| sibling.stamp = self.last_stamp);
        }
        let seen = theirs.context.clone();
        let merged = ours.merge(theirs);
        // What is written next comes after all that was heard of.
        self.last_stamp = self.last_stamp.max(merged.last_stamp());
        self.scratch.clear();
        merged.encode(&mut self.scratch);
        let is_changed = record != Some(self.scratch.as_slice());
        let difference = is_changed.then(|| Difference::between(record, was, &merged));
        Ok(Merged { difference, is_overtaken: merged.winner().is_some_and(|dot| !seen.covers(dot)) })
    }

    fn commit(&mut self) {
        self.version += 1;
    }

    fn tidy(&mut self) {
        if self.scratch.capacity() > SCRATCH_BYTES_MAX {
            self.scratch = Vec::new();
        }
    }

    /// SplitMix64 over the actor and a count: differs for each request, repeats for the same history.
    fn draw(&mut self, actor: Actor) -> u64 {
        self.draws += 1;
        let mut mixed = (actor.assignment << 32 ^ actor.incarnation)
            .wrapping_add(self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

fn decode(record: Option<&[u8]>) -> Result<Cell<'_>, Error> {
    record.map_or_else(|| Ok(Cell::default()), |bytes| Cell::decode(bytes).map_err(damaged))
}

fn not_a_cell() -> Error {
    Error::new(ErrorKind::Invalid, "a peer sent bytes that are not a cell; nothing was stored")
}

#[cfg(test)]
mod tests;
