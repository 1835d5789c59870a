//! Whether there is room for a change: asked in the one place where changes are stored.
//!
//! While room is scarce a change may only leave fewer bytes than there were, or no value: so that a node that is
//! full can be emptied. It goes for clients' writes, copies of other replicas and hand-overs alike.

use slipring_model::bucket::EngineKind;
use slipring_model::{Error, ErrorKind, Mutant, Position, Room};
use slipring_service::Cell;
use slipring_storage::{RecordKey, Write};

use super::live::Worth;
use super::{Bucket, Partition};
use crate::failure::stored;

/// What a record that is new takes beside its key and bytes, about.
const RECORD_BYTES: usize = 72;

/// How a change turns one record into another. The new one is in the partition's scratch space.
pub(super) struct Difference {
    /// Bytes of the record before; 0 when there was none.
    pub(super) before: usize,
    /// Whether there is a record afterwards.
    pub(super) is_kept: bool,
    pub(super) was: Worth,
    pub(super) is: Worth,
}

impl Difference {
    /// From a record to a cell that is kept.
    pub(super) fn between(record: Option<&[u8]>, was: Worth, cell: &Cell<'_>) -> Self {
        let before = record.map_or(0, <[u8]>::len);
        Self { before, is_kept: true, was, is: Worth::of(cell) }
    }
}

impl Bucket {
    /// Stores the change in `partition.scratch`, unless there is no room for it here or, by `others`, elsewhere. For a
    /// copy that comes from elsewhere there is a little more room than for a write that begins here.
    pub(super) fn store(
        &self,
        partition: &mut Partition,
        (position, key): (Position, &[u8]),
        difference: &Difference,
        others: Option<Room>,
    ) -> Result<(), Error> {
        let room = self.check_room(key, partition.scratch.len(), difference, others);
        if room.is_err() && Mutant::AckWithoutRoom.is_planted() {
            return Ok(());
        }
        room?;
        let record = difference.is_kept.then_some(partition.scratch.as_slice());
        let at = RecordKey { bucket: self.id, position, key };
        let applied = self.engine.apply(&[Write { at, record }]).map_err(stored);
        // What failed may be there all the same.
        partition.commit();
        applied?;
        partition.note(&self.live, position, difference.was, difference.is);
        Ok(())
    }

    pub(super) fn check_room(
        &self,
        key: &[u8],
        after: usize,
        difference: &Difference,
        others: Option<Room>,
    ) -> Result<(), Error> {
        let growth = match difference {
            Difference { is_kept: false, .. } => 0,
            Difference { before: 0, .. } => key.len() + after + RECORD_BYTES,
            Difference { before, .. } => after.saturating_sub(*before),
        };
        let (room, others) = match others {
            Some(others) => (self.engine.room(growth as u64), others),
            None => (self.engine.room_for_copy(growth as u64), Room::Ample),
        };
        if room == Room::Ample && others == Room::Ample {
            return Ok(());
        }
        let is_in_memory = self.policy.engine == EngineKind::Memory;
        // On disk, a record of the same length takes room until the one before is compacted away.
        let is_smaller = after < difference.before || is_in_memory && growth == 0;
        let shrinks = !difference.is_kept || !difference.is.is_live || is_smaller;
        match (room.max(others), shrinks) {
            (Room::Scarce, true) => Ok(()),
            _ if others > room => Err(no_room("too few replicas of the key have room for more")),
            (_, false) if is_in_memory => Err(no_room(
                "the buckets in memory hold all they may on this node: delete something, or raise --memory-limit",
            )),
            (Room::Spent, _) => Err(no_room("this node's disk is full: give it more room")),
            _ => Err(no_room("this node's disk is nearly full: delete something, or give it more room")),
        }
    }

    /// Counts for nothing what was known of the records: a write that failed may be there after all.
    pub(crate) fn doubt(&self) {
        for partition in &self.partitions {
            partition.lock().commit();
        }
        self.count_anew();
    }
}

fn no_room(message: &'static str) -> Error {
    Error::new(ErrorKind::Overloaded, format!("{message}; nothing was done"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slipring_model::{Actor, BucketId, BucketPolicy, PartitionId};
    use slipring_service::{Cells, Context};
    use slipring_storage::faults::FaultyEngine;
    use slipring_storage::{Engine, MemoryEngine};

    use super::super::{Locus, Refusal};
    use super::*;

    fn open(engine: Arc<dyn Engine>, policy: BucketPolicy) -> Bucket {
        Bucket::open(BucketId(0), "default".parse().expect("a name"), policy, engine, 1).expect("a bucket")
    }

    /// Runs a change in the name of an actor; the kind of its refusal, if it is refused.
    fn run(
        bucket: &Bucket,
        key: &[u8],
        others: Room,
        change: impl FnOnce(&mut Cells<'_>),
    ) -> Result<Option<Vec<u8>>, ErrorKind> {
        let actor = Actor { assignment: 1, incarnation: 1 };
        let position = Position(u64::from(*key.first().expect("a key")) << 40);
        let locus = Locus { position, key, actor, is_alone: false, others, wall_ms: 5 };
        let context = Context { now_ms: 5, random: 0, default_ttl_ms: None, keeps_siblings: false };
        match bucket.execute(&locus, context, 1, |_, cells| change(cells)) {
            Ok(executed) => Ok(executed.cell.map(|cell| cell.to_vec())),
            Err(Refusal::Failed(error)) => Err(error.kind),
            Err(Refusal::Stale) => panic!("the layout is the newest"),
        }
    }

    const FULL: Result<Option<Vec<u8>>, ErrorKind> = Err(ErrorKind::Overloaded);

    #[test]
    fn writes_grow_only_while_room_is_ample_and_deletions_until_it_is_spent() {
        let disk = FaultyEngine::new();
        let bucket = open(Arc::new(disk.clone()), BucketPolicy::durable());
        let here = |room, change: &dyn Fn(&mut Cells<'_>)| {
            disk.set_room(room);
            let here = run(&bucket, b"a", Room::Ample, change);
            disk.set_room(Room::Ample);
            let elsewhere = run(&bucket, b"b", room, change);
            assert_eq!(here.is_ok(), elsewhere.is_ok(), "{here:?} {elsewhere:?}");
            here
        };
        let put = |value: &'static str| move |cells: &mut Cells<'_>| cells.put(value, None);
        assert!(here(Room::Ample, &put("value")).is_ok());
        for room in [Room::Scarce, Room::Spent] {
            assert_eq!(here(room, &put("value and more")), FULL);
            assert_eq!(here(room, &put("other")), FULL, "as long as before");
        }
        assert!(here(Room::Scarce, &put("v")).is_ok(), "shorter than before");
        assert_eq!(here(Room::Spent, &|cells| cells.remove()), FULL);
        assert_eq!(bucket.live(PartitionId(0), 1, 0), 2, "what was refused counts for nothing");
        assert!(here(Room::Scarce, &|cells| cells.remove()).is_ok());
        assert_eq!(here(Room::Scarce, &put("value")), FULL);
        assert_eq!(bucket.live(PartitionId(0), 1, 0), 0);
        assert!(here(Room::Ample, &put("value")).is_ok(), "there is room again");
    }

    #[test]
    fn copies_of_other_replicas_are_refused_like_writes_but_for_deletions() {
        let source = open(Arc::new(MemoryEngine::new()), BucketPolicy::cache());
        let put =
            run(&source, b"a", Room::Ample, |cells| cells.put("value", None)).expect("put").expect("a cell");
        let gone = run(&source, b"a", Room::Ample, |cells| cells.remove()).expect("removed").expect("a cell");
        let disk = FaultyEngine::new();
        let bucket = open(Arc::new(disk.clone()), BucketPolicy::durable());
        let merge = |position, cell: &[u8]| match bucket.merge(Position(position), b"a", cell, 1) {
            Ok(()) => Ok(()),
            Err(Refusal::Failed(error)) => Err(error.kind),
            Err(Refusal::Stale) => panic!("the layout is the newest"),
        };
        disk.set_room(Room::Scarce);
        assert_eq!(merge(1, &put), Err(ErrorKind::Overloaded));
        assert_eq!(merge(1, &gone), Ok(()), "a tombstone of what was never here");
        disk.set_room(Room::Spent);
        assert_eq!(merge(2, &gone), Err(ErrorKind::Overloaded));
        disk.set_room(Room::Ample);
        assert_eq!((merge(2, &put), merge(2, &gone)), (Ok(()), Ok(())));
    }

    #[test]
    fn full_memory_takes_what_does_not_grow() {
        let engine = Arc::new(MemoryEngine::new());
        let bucket = open(engine.clone(), BucketPolicy::cache());
        let put = |key: &[u8], value: &'static str| {
            run(&bucket, key, Room::Ample, |cells| cells.put(value, None)).is_ok()
        };
        assert!(put(b"a", "a value of some length"));
        engine.set_limit(engine.space().used);
        assert!(put(b"a", "another of that length"), "as long as before");
        assert!(!put(b"a", "a value that is longer than both of those"));
        assert!(!put(b"b", "v"));
        run(&bucket, b"a", Room::Ample, |cells| cells.remove()).expect("a deletion");
        engine.set_limit(engine.space().used + 200);
        assert!(put(b"b", "v"), "there is room again");
    }
}
