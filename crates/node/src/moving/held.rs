//! What this node holds, and under which assignment: remembered across starts, so that a copy left behind by an
//! earlier assignment is never taken for one of the present.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use slipring_consensus::aside;
use slipring_model::{Mutant, PartitionId};
use slipring_ring::MoveId;
use slipring_storage::MetaStore;
use slipring_wire::Reply;
use tokio::sync::Notify;

use crate::builder::StartError;
use crate::view::{BucketView, View};

const HELD: &str = "moving/held";

/// Partitions by the copies per partition of their table.
pub(super) type Held = BTreeMap<(u8, u16), u64>;

/// The state of moves on this node.
pub(crate) struct Moving {
    /// The assignment whose data each partition holds here.
    held: Mutex<Held>,
    /// Moves whose data this node has taken over since it started.
    done: Mutex<BTreeSet<MoveId>>,
    pub(super) wake_wiper: Notify,
    /// Held while a view is adopted, and while it is noted that leftovers are gone: each must see the other whole.
    pub(crate) turn: Mutex<()>,
}

impl Moving {
    /// Reads what is held.
    pub(crate) fn open(meta: &MetaStore) -> Result<Self, StartError> {
        let held: Vec<((u8, u16), u64)> = match meta.get(HELD)? {
            Some(json) => serde_json::from_slice(&json).map_err(|_| StartError::DamagedIdentity)?,
            None => Vec::new(),
        };
        Ok(Self {
            held: Mutex::new(held.into_iter().collect()),
            done: Mutex::default(),
            wake_wiper: Notify::new(),
            turn: Mutex::default(),
        })
    }

    /// What peers are told of moves.
    pub(crate) fn taken_over(&self) -> Reply {
        let told = |id: &MoveId| (id.copies, id.partition, id.session);
        Reply::TakenOver(self.done.lock().iter().map(told).collect())
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

    /// Partitions whose data here is of another assignment than the view's.
    pub(super) fn leftovers(&self, view: &View) -> Vec<Leftover> {
        let held = self.held.lock();
        let now = assignments(view);
        let differs = |(copies, partition): &(u8, u16)| {
            held.get(&(*copies, *partition)) != now.get(&(*copies, *partition))
        };
        let keys: BTreeSet<(u8, u16)> = held.keys().chain(now.keys()).copied().filter(differs).collect();
        let leftover = |key: (u8, u16)| Leftover {
            copies: key.0,
            partition: PartitionId(key.1),
            had: held.get(&key).copied(),
            now: now.get(&key).copied(),
        };
        keys.into_iter().map(leftover).collect()
    }

    /// The data of these partitions is of their present assignment from now on.
    pub(super) fn settle(
        &self,
        meta: &MetaStore,
        settled: &[Leftover],
    ) -> Result<(), slipring_storage::Error> {
        let mut held = self.held.lock();
        let mut next = held.clone();
        for leftover in settled {
            let key = (leftover.copies, leftover.partition.0);
            match leftover.now {
                Some(assignment) => next.insert(key, assignment),
                None => next.remove(&key),
            };
        }
        let list: Vec<_> = next.iter().collect();
        let list = serde_json::to_vec(&list).expect("numbers are plain data");
        aside(|| meta.put(&[(HELD, &list)]))?;
        *held = next;
        Ok(())
    }
}

/// A partition whose data here is not of its present assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub(super) copies: u8,
    pub(super) partition: PartitionId,
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

fn assignments(view: &View) -> Held {
    let of_bucket = |bucket: &BucketView| {
        let copies = bucket.bucket.policy.replicas;
        let places = bucket.places.iter().enumerate();
        places
            .filter_map(move |(partition, place)| Some(((copies, partition as u16), place.mine?)))
            .collect::<Vec<_>>()
    };
    view.buckets().flat_map(of_bucket).collect()
}

#[cfg(test)]
mod tests {
    use slipring_ring::NodeState;

    use super::*;
    use crate::view::tests::{arrive, give_state, settled, view_of};

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
        let fresh = Moving::open(&meta).expect("open").leftovers(&held);
        assert!(fresh.iter().any(|leftover| leftover.copies == 2) && !fresh.is_empty());
        assert!(fresh.iter().all(|leftover| leftover.now.is_some() && !leftover.has_data()));
        Moving::open(&meta).expect("open").settle(&meta, &fresh).expect("noted");
        let again = Moving::open(&meta).expect("open");
        assert_eq!(again.leftovers(&held), []);

        give_state(&mut layout, 1, NodeState::Drained);
        arrive(&mut layout);
        let drained = view_of(&layout, 1);
        let left = again.leftovers(&drained);
        let gone = |leftover: &Leftover| Leftover { had: leftover.now, now: None, ..*leftover };
        assert_eq!(left, fresh.iter().map(gone).collect::<Vec<_>>());
        assert!(left.iter().all(Leftover::has_data));
        again.settle(&meta, &left).expect("noted");
        assert_eq!(again.leftovers(&drained), []);
        assert_eq!(Moving::open(&meta).expect("open").leftovers(&held), fresh);
    }

    #[test]
    fn moves_are_told_as_taken_over_while_they_are_under_way() {
        let (_folder, meta) = store();
        let moving = Moving::open(&meta).expect("open");
        let [first, second] = [1, 2].map(|partition| MoveId { copies: 3, partition, session: 70 });
        moving.finish(first);
        assert!(moving.is_done(first) && !moving.is_done(second));
        moving.finish(second);
        assert_eq!(moving.taken_over(), Reply::TakenOver(vec![(3, 1, 70), (3, 2, 70)]));
        moving.forget_others(&BTreeSet::from([second]));
        assert!(!moving.is_done(first) && moving.is_done(second));
    }
}
