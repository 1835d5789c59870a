//! Cutting a bucket anew: each partition's successors go on where it ended.
//!
//! The records stay where they are; only the locks change, and what is known beside them. So the old partition
//! is over before its successors begin: whoever was admitted is done, and nobody is admitted any more.
//!
//! Invariant: a record changes under one lock at a time, and no successor issues a dot that its partition issued.

use parking_lot::Mutex;
use slipring_model::{Mutant, PartitionId};

use super::{Bucket, Partition};

impl Bucket {
    /// The same bucket cut into `1 << bits` partitions, at least as many as now. This one changes no record any
    /// more: what it is asked for under an older layout is refused as stale.
    pub(crate) fn cut_anew(&self, bits: u8) -> Self {
        let parts = 1_usize << bits.saturating_sub(self.bits);
        let partitions = self.partitions.iter().enumerate().flat_map(|(index, partition)| {
            let mut partition = partition.lock();
            partition.is_over = true;
            let ids = (index * parts..(index + 1) * parts).map(|part| PartitionId(part as u16));
            ids.map(|id| Mutex::new(partition.successor(id, bits))).collect::<Vec<_>>()
        });
        Self {
            id: self.id,
            name: self.name.clone(),
            policy: self.policy.clone(),
            engine: self.engine.clone(),
            bits,
            partitions: partitions.collect(),
            live: self.live.clone(),
            is_counted: self.is_counted.clone(),
            damaged: self.damaged.clone(),
        }
    }
}

impl Partition {
    /// A part of this partition, the one of `1 << bits` with this id, as it begins.
    fn successor(&self, id: PartitionId, bits: u8) -> Self {
        Self {
            uncounted: self.uncounted_within(id.start(bits), id.end(bits)),
            fence: self.fence,
            is_closed: self.is_closed,
            // Their dots must differ from all those that the keys of this part have met.
            counter: if Mutant::SplitForgetsDots.is_planted() { 0 } else { self.counter },
            draws: self.draws,
            last_stamp: self.last_stamp,
            ends: self.ends.within(id.start(bits), id.end(bits), bits),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use slipring_model::{Actor, BucketId, BucketPolicy, Dot, Error, Position, Room};
    use slipring_service::{Cell, Context};
    use slipring_storage::MemoryEngine;

    use super::super::{DropTimes, Locus, Refusal, Wiped};
    use super::*;
    use crate::budget::{Budget, Class};

    const ACTOR: Actor = Actor { assignment: 1, incarnation: 1 };
    const QUARTERS: [u64; 4] = [0, 1 << 62, 2 << 62, 3 << 62];

    fn bucket() -> Bucket {
        let name = "default".parse().expect("a name");
        let engine = Arc::new(MemoryEngine::new());
        Bucket::open(BucketId(0), name, BucketPolicy::durable(), engine, 1).expect("a bucket")
    }

    /// Writes a key that expires at once; its dot.
    fn write(bucket: &Bucket, at: u64) -> Result<Dot, Refusal> {
        let locus = Locus {
            position: Position(at),
            key: b"k",
            actor: ACTOR,
            is_alone: false,
            others: Room::Ample,
            wall_ms: 5,
        };
        let context = Context { now_ms: 5, random: 0, default_ttl_ms: None, keeps_siblings: false };
        let executed = bucket.execute(&locus, context, 1, |_, cells| {
            cells.put("v", Some(6));
        })?;
        let cell = executed.cell.expect("it changed");
        Ok(Cell::decode(&cell).expect("a cell").siblings.first().expect("a value").dot)
    }

    fn block_on<R>(work: impl Future<Output = R>) -> R {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(work)
    }

    fn root(bucket: &Bucket) -> Result<u128, Error> {
        block_on(bucket.root(PartitionId(0), (&Budget::of_this_machine(100), Class::Upkeep)))
    }

    /// Drops what has expired in a partition.
    fn sweep(bucket: &Bucket, partition: u16, is_alone: bool) -> Result<usize, Error> {
        let is_alone = |at: PartitionId| (at.0 == partition).then_some(is_alone);
        let times = DropTimes { now_ms: 99, drop_ms: 99 };
        bucket.drop_some(PartitionId(0), times, is_alone).map(|dropped| dropped.count)
    }

    fn count(bucket: &Bucket, bits: u8) -> Vec<u64> {
        (0..1 << bits).map(|partition| bucket.live(PartitionId(partition), bits, 0)).collect()
    }

    #[test]
    fn the_parts_go_on_where_the_whole_ended_and_no_dot_returns() {
        let whole = bucket();
        let dots = [0, 0, 1 << 62, 1 << 63].map(|at| (at >> 63, write(&whole, at).expect("written")));
        whole.close(PartitionId(1), true);
        let cut = whole.cut_anew(3);
        assert_eq!((whole.bits(), cut.bits()), (1, 3));
        assert_eq!(
            (0..8).map(|at| cut.is_closed(PartitionId(at))).collect::<Vec<_>>(),
            [[false; 4], [true; 4]].concat()
        );
        (4..8).for_each(|at| cut.close(PartitionId(at), false));
        for at in QUARTERS {
            let dot = write(&cut, at).expect("written");
            assert!(
                dots.iter().all(|(half, before)| *half != at >> 63 || before.counter < dot.counter),
                "{dot:?}"
            );
        }
        let of_one_key = |at: u64| {
            let cell = cut.cell(Position(at), b"k").expect("read").expect("there");
            Cell::decode(&cell).expect("a cell").siblings.len()
        };
        assert_eq!(QUARTERS.map(of_one_key), [1; 4]);
        assert!(matches!(write(&cut, 1 << 61), Ok(dot) if dot.counter == 4));
    }

    #[test]
    fn what_was_cut_changes_nothing_any_more() {
        let whole = bucket();
        write(&whole, 0).expect("written");
        let before = root(&whole).expect("read");
        let cell = whole.cell(Position(0), b"k").expect("read").expect("there");
        let cut = whole.cut_anew(2);
        assert!(matches!(write(&whole, 0), Err(Refusal::Stale)));
        assert!(matches!(whole.merge(Position(9), b"k", &cell, u64::MAX), Err(Refusal::Stale)));
        let key = bytes::Bytes::from_static(b"k");
        let restored = whole.restore(Position(9), &key, std::iter::once(&cell[..]), u64::MAX);
        assert!(matches!(restored, Err(Refusal::Stale)));
        assert_eq!(
            whole.wipe_some(PartitionId(0), Position(0), || true).expect("nothing fails"),
            Wiped::Nothing
        );
        sweep(&whole, 0, true).expect("nothing fails");
        assert_eq!(cut.cell(Position(0), b"k").expect("read"), Some(cell));
        assert!(root(&whole).is_err(), "it would not notice what changes");
        assert_eq!(root(&cut).expect("read"), before);
    }

    #[test]
    fn keys_are_counted_and_expire_as_before() {
        let whole = bucket();
        QUARTERS.iter().for_each(|at| assert!(write(&whole, *at).is_ok()));
        let cut = whole.cut_anew(2);
        assert_eq!((count(&cut, 2), count(&cut, 1), count(&whole, 1)), (vec![1; 4], vec![2; 2], vec![2; 2]));
        assert_eq!(sweep(&cut, 2, false).expect("swept"), 1, "what may expire is remembered");
        assert_eq!((count(&cut, 2), count(&cut, 1)), (vec![1, 1, 0, 1], vec![2, 1]));
    }

    #[test]
    fn damage_that_was_noted_is_healed_by_the_parts() {
        let whole = bucket();
        whole.note_damage(Position(u64::MAX), b"k");
        let cut = whole.cut_anew(2);
        cut.restore(Position(u64::MAX), &bytes::Bytes::from_static(b"k"), std::iter::empty(), 1)
            .expect("healed");
        assert!(
            cut.damaged(&Default::default(), 9).is_empty()
                && whole.damaged(&Default::default(), 9).is_empty()
        );
    }

    #[test]
    fn writers_go_on_with_the_parts_and_every_dot_is_their_own() {
        let whole = Arc::new(bucket());
        let (go, cut) = (std::sync::Barrier::new(3), parking_lot::Mutex::new(None::<Arc<Bucket>>));
        let written = std::thread::scope(|scope| {
            let writer = |at: u64| {
                let (whole, go, cut) = (Arc::clone(&whole), &go, &cut);
                scope.spawn(move || {
                    go.wait();
                    let mut current = whole;
                    let mut dots = Vec::new();
                    while dots.len() < 4_000 {
                        match write(&current, at) {
                            Ok(dot) => dots.push(dot.counter),
                            Err(Refusal::Stale) => current = cut.lock().clone().unwrap_or(current),
                            Err(Refusal::Failed(error)) => panic!("{error}"),
                        }
                    }
                    dots
                })
            };
            let writers = [writer(0), writer(0)];
            go.wait();
            std::thread::sleep(std::time::Duration::from_millis(2));
            *cut.lock() = Some(Arc::new(whole.cut_anew(2)));
            writers.map(|writer| writer.join().expect("it ends"))
        });
        let all: BTreeSet<u64> = written.iter().flatten().copied().collect();
        assert_eq!(all.len(), 8_000, "a dot was issued twice");
    }
}
