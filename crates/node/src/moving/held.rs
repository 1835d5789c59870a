//! What this node holds, and under which assignment: remembered across starts, so that a copy left behind by an
//! earlier assignment is never taken for one of the present.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use slipring_consensus::aside;
use slipring_model::{BucketId, Mutant, PartitionId};
use slipring_ring::{Layout, MoveId, TableId};
use slipring_storage::MetaStore;
use slipring_wire::Reply;
use tokio::sync::Notify;

use crate::builder::StartError;
use crate::view::{BucketView, View};

use super::wipe::of_table;

const HELD: &str = "moving/held";
/// Buckets whose own tables that is noted for.
const HELD_OWN: &str = "moving/held/own";
/// The most moves that are told of in one answer; the rest is told of when these are over.
const TOLD_MAX: usize = 1 << 20;
/// How many bits named a partition when that was noted.
const HELD_BITS: &str = "moving/held/bits";

/// Partitions by their table.
pub(super) type Held = BTreeMap<(TableId, u16), u64>;

/// The state of moves on this node.
pub(crate) struct Moving {
    notes: Mutex<Notes>,
    /// Moves whose data this node has taken over since it started.
    done: Mutex<BTreeSet<MoveId>>,
    pub(super) wake_wiper: Notify,
    /// Held while a view is adopted, and while it is noted that leftovers are gone: each must see the other whole.
    pub(crate) turn: Mutex<()>,
}

/// The assignment whose data each partition holds here.
#[derive(Default)]
struct Notes {
    held: Held,
    /// Buckets with a table of their own, noted under it. Of any other bucket, what is noted of the table that it
    /// shares, or has shared, is true.
    own: BTreeSet<BucketId>,
    /// How many bits name a partition here; unknown when notes were last taken before that was noted, and so
    /// before any split.
    bits: Option<u8>,
}

impl Moving {
    /// Reads what is held.
    pub(crate) fn open(meta: &MetaStore) -> Result<Self, StartError> {
        let damaged = |_| StartError::DamagedIdentity;
        let held: Vec<((TableId, u16), u64)> = match meta.get(HELD)? {
            Some(json) => serde_json::from_slice(&json).map_err(damaged)?,
            None => Vec::new(),
        };
        let own = match meta.get(HELD_OWN)? {
            Some(json) => serde_json::from_slice(&json).map_err(damaged)?,
            None => BTreeSet::new(),
        };
        let bits = match meta.get(HELD_BITS)? {
            Some(json) => Some(serde_json::from_slice(&json).map_err(damaged)?),
            None => None,
        };
        Ok(Self {
            notes: Mutex::new(Notes { held: held.into_iter().collect(), own, bits }),
            done: Mutex::default(),
            wake_wiper: Notify::new(),
            turn: Mutex::default(),
        })
    }

    /// What peers are told of moves.
    pub(crate) fn taken_over(&self) -> Reply {
        let told = |id: &MoveId| (id.table.0, id.partition, id.session);
        Reply::TakenOver(self.done.lock().iter().take(TOLD_MAX).map(told).collect())
    }

    pub(super) fn is_done(&self, id: MoveId) -> bool {
        self.done.lock().contains(&id)
    }

    pub(super) fn finish(&self, id: MoveId) {
        self.done.lock().insert(id);
    }

    /// Forgets moves that are no longer under way.
    pub(super) fn forget_others(&self, under_way: &BTreeSet<MoveId>) {
        self.done.lock().retain(|id| under_way.contains(id));
    }

    /// What was noted of a partition holds for its parts once `layout` has split it. What is on disk stays as it
    /// was until the next note: the same comes of it again. `false` when `layout` is one of before a split.
    pub(crate) fn cut_anew(&self, layout: &Layout) -> bool {
        let mut notes = self.notes.lock();
        let was = notes.bits.unwrap_or(layout.bits_founded());
        let Some(more) = layout.bits().checked_sub(was) else { return false };
        if more > 0 {
            let held = std::mem::take(&mut notes.held);
            notes.held = held.into_iter().flat_map(|whole| parts(whole, more)).collect();
        }
        notes.bits = Some(layout.bits());
        true
    }

    /// What was noted of the table that a bucket has shared is true of its own one. What is on disk stays as it was
    /// until the next note: the same comes of it again.
    pub(super) fn carry_over(&self, layout: &Layout) {
        let mut notes = self.notes.lock();
        let Notes { held, own, .. } = &mut *notes;
        own.retain(|id| layout.buckets().contains_key(id));
        for (id, bucket) in layout.buckets() {
            let Some(made_with) = bucket.made_with.filter(|_| own.insert(*id)) else { continue };
            let (shared, table) = (TableId::shared(made_with), bucket.table(*id));
            let noted = held.range((shared, 0)..=(shared, u16::MAX));
            let carried: Held = noted.map(|((_, partition), now)| ((table, *partition), *now)).collect();
            if !Mutant::ForgetHeld.is_planted() {
                held.extend(carried);
            }
        }
    }

    /// Partitions whose data here is of another assignment than the view's. Nothing is told of a view from before
    /// a split that this node knows of.
    pub(super) fn leftovers(&self, view: &View) -> Vec<Leftover> {
        let notes = self.notes.lock();
        if notes.bits != Some(view.bits) {
            return Vec::new();
        }
        let held = &notes.held;
        let now = assignments(view);
        let differs = |key: &(TableId, u16)| held.get(key) != now.get(key);
        let keys: BTreeSet<(TableId, u16)> = held.keys().chain(now.keys()).copied().filter(differs).collect();
        let leftover = |key: (TableId, u16)| Leftover {
            table: key.0,
            partition: PartitionId(key.1),
            bits: view.bits,
            had: held.get(&key).copied(),
            now: now.get(&key).copied(),
        };
        keys.into_iter().map(leftover).collect()
    }

    /// Whether a leftover is one of the view's, too.
    pub(super) fn is_left(&self, view: &View, leftover: &Leftover) -> bool {
        let notes = self.notes.lock();
        let now = of_table(view, leftover.table).next().and_then(|bucket| {
            let place = bucket.places.get(leftover.partition.index())?;
            place.mine
        });
        let had = notes.held.get(&(leftover.table, leftover.partition.0)).copied();
        let bits = Some(leftover.bits);
        bits == notes.bits && leftover.bits == view.bits && (had, now) == (leftover.had, leftover.now)
    }

    /// The data of these partitions is of their present assignment from now on.
    pub(super) fn settle(
        &self,
        meta: &MetaStore,
        settled: &[Leftover],
    ) -> Result<(), slipring_storage::Error> {
        let mut notes = self.notes.lock();
        let mut next = notes.held.clone();
        for leftover in settled.iter().filter(|leftover| notes.bits == Some(leftover.bits)) {
            let key = (leftover.table, leftover.partition.0);
            match leftover.now {
                Some(assignment) => next.insert(key, assignment),
                None => next.remove(&key),
            };
        }
        let list: Vec<_> = next.iter().collect();
        let list = serde_json::to_vec(&list).expect("numbers are plain data");
        let own = serde_json::to_vec(&notes.own).expect("numbers are plain data");
        let bits = notes.bits.map(|bits| serde_json::to_vec(&bits).expect("a number is plain data"));
        let bits = bits.iter().map(|bits| (HELD_BITS, bits.as_slice()));
        let all = bits.chain([(HELD, list.as_slice()), (HELD_OWN, own.as_slice())]);
        aside(|| meta.put(&all.collect::<Vec<_>>()))?;
        notes.held = next;
        Ok(())
    }
}

/// A partition whose data here is not of its present assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) table: TableId,
    pub(super) partition: PartitionId,
    /// How many bits name the partition.
    pub(super) bits: u8,
    /// The assignment that left data here; without one there is none.
    pub(super) had: Option<u64>,
    pub(super) now: Option<u64>,
}

impl Leftover {
    /// Whether anything may lie here that must go first.
    pub(super) fn has_data(&self) -> bool {
        self.had.is_some() && !Mutant::KeepLeftovers.is_planted()
    }
}

/// What a note of a partition says of each part, after so many splits.
fn parts(
    ((table, partition), assignment): ((TableId, u16), u64),
    splits: u8,
) -> impl Iterator<Item = ((TableId, u16), u64)> {
    let first = u32::from(partition) << splits;
    let parts = first..first + (1 << splits);
    parts.filter_map(move |part| Some(((table, u16::try_from(part).ok()?), assignment)))
}

fn assignments(view: &View) -> Held {
    let of_bucket = |bucket: &BucketView| {
        let table = bucket.table;
        let places = bucket.places.iter().enumerate();
        places
            .filter_map(move |(partition, place)| Some(((table, partition as u16), place.mine?)))
            .collect::<Vec<_>>()
    };
    view.buckets().flat_map(of_bucket).collect()
}

#[cfg(test)]
mod tests {
    use slipring_ring::NodeState;

    use super::*;
    use crate::view::tests::{arrive, create_bucket, give_state, respread, settled, split, view_of};

    /// What this node holds, read by a start that works with `layout`.
    fn open(meta: &MetaStore, layout: &Layout) -> Moving {
        let moving = Moving::open(meta).expect("open");
        assert!(moving.cut_anew(layout), "it is the newest one known");
        moving
    }

    fn store() -> (tempfile::TempDir, MetaStore) {
        let folder = tempfile::tempdir().expect("a folder");
        let meta = MetaStore::open(&folder.path().join("meta")).expect("a store");
        (folder, meta)
    }

    #[test]
    fn what_is_held_is_remembered_until_it_is_noted_as_gone() {
        let (_folder, meta) = store();
        let mut layout = settled(3);
        let held = view_of(&layout, 1);
        let fresh = open(&meta, &layout).leftovers(&held);
        assert!(fresh.iter().any(|leftover| leftover.table == TableId(2)) && !fresh.is_empty());
        assert!(fresh.iter().all(|leftover| leftover.now.is_some() && !leftover.has_data()));
        open(&meta, &layout).settle(&meta, &fresh).expect("noted");
        let again = open(&meta, &layout);
        assert_eq!(again.leftovers(&held), []);

        give_state(&mut layout, 1, NodeState::Drained);
        arrive(&mut layout);
        let drained = view_of(&layout, 1);
        let left = again.leftovers(&drained);
        let gone = |leftover: &Leftover| Leftover { had: leftover.now, now: None, ..*leftover };
        assert_eq!(left, fresh.iter().map(gone).collect::<Vec<_>>());
        assert!(left.iter().all(Leftover::has_data));
        assert!(left.iter().all(|leftover| again.is_left(&drained, leftover)));
        assert!(left.iter().all(|leftover| !again.is_left(&held, leftover)), "it is held again there");
        again.settle(&meta, &left).expect("noted");
        assert!(!left.iter().any(|leftover| again.is_left(&drained, leftover)), "it is gone");
        assert_eq!(again.leftovers(&drained), []);
        assert_eq!(open(&meta, &layout).leftovers(&held), fresh);
    }

    #[test]
    fn what_is_held_of_a_partition_is_held_of_its_parts_at_every_later_start() {
        let (_folder, meta) = store();
        let mut layout = settled(3);
        let whole = view_of(&layout, 1);
        let moving = open(&meta, &layout);
        moving.settle(&meta, &moving.leftovers(&whole)).expect("noted");
        split(&mut layout);
        split(&mut layout);
        let cut = view_of(&layout, 1);
        for moving in [moving, Moving::open(&meta).expect("open")] {
            assert_eq!(moving.leftovers(&cut), [], "nothing is told before it is known how the ring is cut");
            assert!(moving.cut_anew(&layout));
            assert_eq!(moving.leftovers(&cut), []);
            assert_eq!(moving.leftovers(&whole), [], "what one bit named is another partition now");
        }
        give_state(&mut layout, 1, NodeState::Drained);
        arrive(&mut layout);
        let drained = view_of(&layout, 1);
        let left = open(&meta, &layout).leftovers(&drained);
        let parts =
            left.iter().filter(|leftover| leftover.table == TableId(3)).map(|leftover| leftover.partition.0);
        assert_eq!(parts.collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
        assert!(left.iter().all(Leftover::has_data));
        let (some, rest) = left.split_at(3);
        open(&meta, &layout).settle(&meta, some).expect("noted");
        assert_eq!(open(&meta, &layout).leftovers(&drained), rest, "what was noted since names the parts");
        assert!(!open(&meta, &layout).cut_anew(&settled(3)), "this node knows of a split that it does not");
    }

    #[test]
    fn a_note_of_before_there_were_splits_is_of_the_partitions_of_the_founding() {
        let (_folder, meta) = store();
        let mut layout = settled(1);
        let assignments = assignments(&view_of(&layout, 1));
        let list = serde_json::to_vec(&assignments.iter().collect::<Vec<_>>()).expect("numbers");
        meta.put(&[(HELD, &list)]).expect("kept");
        assert_eq!(open(&meta, &layout).leftovers(&view_of(&layout, 1)), []);
        split(&mut layout);
        assert_eq!(open(&meta, &layout).leftovers(&view_of(&layout, 1)), []);
    }

    #[test]
    fn what_is_gone_of_an_older_cut_is_not_noted() {
        let (_folder, meta) = store();
        let mut layout = settled(3);
        let moving = open(&meta, &layout);
        let fresh = moving.leftovers(&view_of(&layout, 1));
        split(&mut layout);
        assert!(moving.cut_anew(&layout));
        moving.settle(&meta, &fresh).expect("nothing is noted");
        let cut = view_of(&layout, 1);
        assert_eq!(moving.leftovers(&cut).len(), assignments(&cut).len());
    }

    /// Adopts a layout on node 1, as far as it is noted, and wipes what must go; that.
    fn adopt(moving: &Moving, meta: &MetaStore, layout: &Layout) -> Vec<Leftover> {
        assert!(moving.cut_anew(layout), "it is the newest one known");
        moving.carry_over(layout);
        let left = moving.leftovers(&view_of(layout, 1));
        moving.settle(meta, &left).expect("noted");
        left.into_iter().filter(Leftover::has_data).collect()
    }

    #[test]
    fn what_is_held_of_a_bucket_is_held_under_a_table_of_its_own_at_every_later_start() {
        let (_folder, meta) = store();
        let mut layout = settled(4);
        create_bucket(&mut layout, "other");
        let moving = Moving::open(&meta).expect("open");
        assert_eq!(adopt(&moving, &meta, &layout), []);
        respread(&mut layout, 700, 4);
        // What is in memory, and what a start after a crash makes of what is on disk.
        for moving in [moving, open(&meta, &layout)] {
            moving.carry_over(&layout);
            let left = moving.leftovers(&view_of(&layout, 1));
            assert!(left.iter().all(|leftover| !leftover.has_data()), "nothing is left over: {left:?}");
        }
        let again = Moving::open(&meta).expect("open");
        assert_eq!(adopt(&again, &meta, &layout), []);
        arrive(&mut layout);
        for index in [701, 702, 703] {
            respread(&mut layout, index, if index == 702 { 4 } else { 1 });
            arrive(&mut layout);
        }
        let left = adopt(&Moving::open(&meta).expect("open"), &meta, &layout);
        let own = layout.table_of(BucketId(0)).expect("it is there");
        assert!(!left.is_empty() && left.iter().all(|leftover| leftover.table == own), "{left:?}");
    }

    #[test]
    fn what_is_held_is_found_again_after_a_split_and_a_table_of_its_own_in_either_order() {
        for is_split_first in [true, false] {
            let (_folder, meta) = store();
            let mut layout = settled(4);
            create_bucket(&mut layout, "other");
            assert_eq!(adopt(&open(&meta, &layout), &meta, &layout), []);
            if is_split_first {
                split(&mut layout);
                respread(&mut layout, 700, 4);
            } else {
                respread(&mut layout, 700, 4);
                arrive(&mut layout);
                split(&mut layout);
            }
            let left = adopt(&open(&meta, &layout), &meta, &layout);
            assert_eq!(left, [], "split first: {is_split_first}");
            assert_eq!(open(&meta, &layout).leftovers(&view_of(&layout, 1)), []);
        }
    }

    #[test]
    fn a_node_that_slept_while_copies_came_and_went_has_something_to_remove() {
        let held = |layout: &Layout| layout.holders(BucketId(0), PartitionId(0)).expect("held").clone();
        let (_folder, meta) = store();
        let mut layout = settled(3);
        let asleep = Moving::open(&meta).expect("open");
        assert_eq!(adopt(&asleep, &meta, &layout), []);
        // Made meanwhile, so that the shared table lives on; the first bucket goes and comes back.
        create_bucket(&mut layout, "other");
        respread(&mut layout, 700, 1);
        arrive(&mut layout);
        let is_without = held(&layout).of(crate::view::tests::node(1)).is_none();
        respread(&mut layout, 701, 3);
        arrive(&mut layout);
        let partitions = (0..layout.partition_count()).map(PartitionId);
        let anew = partitions.filter(|partition| {
            let holders = layout.holders(BucketId(0), *partition).expect("held");
            holders.of(crate::view::tests::node(1)).is_some_and(|replica| replica.assignment >> 3 == 701)
        });
        let anew: Vec<PartitionId> = anew.collect();
        assert!(!anew.is_empty() || !is_without);
        let left = adopt(&asleep, &meta, &layout);
        assert_eq!(left.iter().map(|leftover| leftover.partition).collect::<Vec<_>>(), anew);
        assert!(left.iter().all(|leftover| leftover.now.is_some_and(|now| now >> 3 == 701)), "{left:?}");
    }

    #[test]
    fn what_was_noted_before_there_were_tables_of_their_own_is_read() {
        let (_folder, meta) = store();
        let layout = settled(3);
        let now = assignments(&view_of(&layout, 1));
        let list: Vec<((u8, u16), u64)> =
            now.iter().map(|((table, partition), held)| ((table.0 as u8, *partition), *held)).collect();
        meta.put(&[(HELD, &serde_json::to_vec(&list).expect("numbers"))]).expect("kept");
        let moving = open(&meta, &layout);
        assert_eq!(moving.leftovers(&view_of(&layout, 1)), []);
        moving.settle(&meta, &[]).expect("noted");
        let written = meta.get(HELD).expect("read").expect("there");
        assert_eq!(serde_json::from_slice::<Vec<((u8, u16), u64)>>(&written).expect("as before"), list);
    }

    #[test]
    fn moves_are_told_as_taken_over_while_they_are_under_way() {
        let (_folder, meta) = store();
        let moving = Moving::open(&meta).expect("open");
        let [first, second] = [1, 2].map(|partition| MoveId { table: TableId(3), partition, session: 70 });
        moving.finish(first);
        assert!(moving.is_done(first) && !moving.is_done(second));
        moving.finish(second);
        assert_eq!(moving.taken_over(), Reply::TakenOver(vec![(3, 1, 70), (3, 2, 70)]));
        moving.forget_others(&BTreeSet::from([second]));
        assert!(!moving.is_done(first) && moving.is_done(second));
    }
}
