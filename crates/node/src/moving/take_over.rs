//! Taking partitions over: this node is one of the next replicas and fetches what it lacks of the old ones.
//!
//! All that can be reached are asked, and a quorum must tell: a write that was acknowledged by fewer than a
//! quorum, because its client asked for no more, is lost only with the replicas that took it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use slipring_model::{BucketPolicy, Error, Mutant, NodeId, PartitionId, Position};
use slipring_ring::{Holders, MoveId, NodeState};
use slipring_wire::{Reply, Request};
use tokio::sync::oneshot;

use crate::bucket::Refusal;
use crate::budget::{Class, PIECE_RECORDS};
use crate::core::Core;
use crate::exchange::PAGE_KEYS;
use crate::failure::unavailable;
use crate::sync::Waiter;
use crate::view::{BucketView, View};

use super::wipe::of_table;

/// How long to rest when not everything could be taken over.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Partitions that are taken over at a time. Each has one page on its way: that is its credit.
const AT_A_TIME: usize = 8;
/// Partitions that wait for the disk at a time.
const SYNCING_AT_A_TIME: usize = 1024;

impl Core {
    /// Takes over what moves here, for ever.
    pub(crate) async fn run_taking_over(self: Arc<Self>) {
        let mut adopted = self.adopted.subscribe();
        loop {
            let known = *adopted.borrow_and_update();
            let view = self.view().filter(|view| self.may_serve() && view.epoch() <= known);
            let is_done = match view {
                Some(view) => self.take_all_over(&view).await,
                None => false,
            };
            let rest = if is_done { Duration::MAX } else { RETRY_AFTER };
            tokio::select! {
                biased;
                changed = adopted.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(rest.min(Duration::from_secs(3_600))) => {}
            }
        }
    }

    /// Whether everything that moves here under this view has been taken over.
    async fn take_all_over(&self, view: &Arc<View>) -> bool {
        let under_way: BTreeSet<MoveId> = view.layout.moves().map(|(id, _)| id).collect();
        self.moving.forget_others(&under_way);
        let mine = moving_to(view, self.me).filter(|(id, _)| !self.moving.is_done(*id));
        let mine: Vec<(MoveId, Holders)> = mine.map(|(id, holders)| (id, holders.clone())).collect();
        let taking = mine.into_iter().map(async |(id, holders)| {
            let is_copied = self.try_to_take_over(view, id, holders).await;
            (id, is_copied)
        });
        let copied = futures::stream::iter(taking).buffer_unordered(AT_A_TIME);
        // One sync serves all that were copied before it.
        let noted = copied.map(async |(id, is_copied)| is_copied && self.note_taken_over(view, id).await);
        let all: Vec<bool> = noted.buffer_unordered(SYNCING_AT_A_TIME).collect().await;
        all.into_iter().all(|is_done| is_done)
    }

    async fn try_to_take_over(&self, view: &Arc<View>, id: MoveId, holders: Holders) -> bool {
        match self.take_over(view, id, &holders).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(partition = id.partition, %error, "a partition is not taken over yet");
                false
            }
        }
    }

    async fn take_over(&self, view: &Arc<View>, id: MoveId, holders: &Holders) -> Result<(), Error> {
        let class = class_of(view, holders);
        let is_current = || self.view().is_some_and(|now| is_under_way(&now, view, id));
        for bucket in of_table(view, id.table) {
            if bucket.bucket.is_closed(PartitionId(id.partition)) {
                return Err(unavailable("what an earlier assignment left here is still being removed"));
            }
            if !self.has_room(self.me, bucket.bucket.policy.engine) {
                return Err(unavailable("this node has no room for more copies yet"));
            }
            let (mut told, needed) = sources(view, self.me, &bucket.bucket.policy, holders);
            let all = if Mutant::CopyFromNext.is_planted() { holders.target() } else { &holders.replicas };
            for source in all.iter().map(|replica| replica.node).filter(|node| *node != self.me) {
                if !is_current() {
                    break;
                }
                let is_told = self.is_reachable(source)
                    && !is_given_up(view, source)
                    && self.take_from(view, (source, class), bucket, PartitionId(id.partition)).await?;
                told += usize::from(is_told);
            }
            if told < needed {
                return Err(unavailable(format!("{told} of {needed} replicas have handed it over")));
            }
        }
        Ok(())
    }

    /// What was copied of a partition is told of as taken over once it is on disk; `false` when it is not.
    async fn note_taken_over(&self, view: &View, id: MoveId) -> bool {
        if let Err(error) = self.synced().await {
            tracing::debug!(partition = id.partition, %error, "a partition is not on disk yet");
            return false;
        }
        if self.view().is_some_and(|now| is_under_way(&now, view, id)) {
            self.moving.finish(id);
            self.metrics.partitions_taken_over.inc();
        }
        true
    }

    /// Merges all that a replica has of a partition; `false` when it could not tell everything.
    async fn take_from(
        &self,
        view: &View,
        (source, class): (NodeId, Class),
        bucket: &BucketView,
        partition: PartitionId,
    ) -> Result<bool, Error> {
        let (mut from, end) = (partition.start(view.bits), partition.end(view.bits));
        loop {
            let (page, next) = self.budget.run(class, || bucket.bucket.page(from..=end, PAGE_KEYS)).await?;
            let to = next.map_or(end, |next| Position(next.0 - 1));
            let entries = page.into_iter().map(|entry| (entry.key, entry.digest)).collect();
            let request = Request::Pull { bucket: bucket.bucket.id, epoch: view.epoch(), from, to, entries };
            let reply = self.ask(source, request, self.settings.request_timeout() * 4).await;
            let Some(Reply::Page { cells, next: more }) = reply else { return Ok(false) };
            if !self.merge_all(view, bucket, cells, class).await? {
                return Ok(false);
            }
            match more.filter(|more| from < *more && *more <= to).or(next) {
                Some(next) => from = next,
                None => return Ok(true),
            }
        }
    }

    /// Merges cells; `false` when the layout has changed.
    async fn merge_all(
        &self,
        view: &View,
        bucket: &BucketView,
        cells: Vec<(Bytes, Bytes)>,
        class: Class,
    ) -> Result<bool, Error> {
        for some in cells.chunks(PIECE_RECORDS) {
            let bytes: usize = some.iter().map(|(key, cell)| key.len() + cell.len()).sum();
            self.metrics.moved_cells.inc_by(some.len() as u64);
            self.metrics.moved_bytes.inc_by(bytes as u64);
            let merge = |(key, cell): &(Bytes, Bytes)| {
                bucket.bucket.merge(Position::of(key), key, cell, view.epoch())
            };
            match self.budget.run(class, || some.iter().try_for_each(merge)).await {
                Ok(()) => self.syncer.mark_dirty(),
                Err(Refusal::Stale) => return Ok(false),
                Err(Refusal::Failed(error)) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Returns once everything written so far is on disk.
    pub(super) async fn synced(&self) -> Result<(), Error> {
        let (done, is_done) = oneshot::channel();
        self.syncer.wait(Waiter::Task(done));
        is_done.await.map_err(|_| unavailable("the disk did not take what was written"))
    }
}

/// Whether a node's data is counted out: whatever it still says.
fn is_given_up(view: &View, node: NodeId) -> bool {
    let entry = view.layout.nodes().get(&node);
    entry.is_none_or(|entry| entry.role.state == NodeState::Lost)
}

/// A move that brings back copies, or makes more of them, is no upkeep: fewer deaths can be borne until it is over.
fn class_of(view: &View, holders: &Holders) -> Class {
    let left = holders.replicas.iter().filter(|replica| !is_given_up(view, replica.node)).count();
    if left < holders.target().len() { Class::Recovery } else { Class::Upkeep }
}

/// The moves that `me` is one of the next replicas of.
fn moving_to(view: &View, me: NodeId) -> impl Iterator<Item = (MoveId, &Holders)> {
    view.layout.moves().filter(move |(_, holders)| holders.target().iter().any(|replica| replica.node == me))
}

/// Whether a move of `view` is still the one of `now`.
fn is_under_way(now: &View, view: &View, id: MoveId) -> bool {
    let session = |view: &View| {
        let bucket = of_table(view, id.table).next()?;
        let holders = view.layout.holders(bucket.bucket.id, PartitionId(id.partition))?;
        holders.next.as_ref().map(|next| next.session)
    };
    session(now) == Some(id.session) && session(view) == Some(id.session)
}

/// How many sources need not be asked, and how many must tell: so many that one of them took part in each
/// acknowledged write and the rest could acknowledge or answer nothing by themselves. What lay with none but
/// replicas that were given up is lost; all the others must tell then.
fn sources(view: &View, me: NodeId, policy: &BucketPolicy, holders: &Holders) -> (usize, usize) {
    let n = holders.replicas.len();
    let left = holders.replicas.iter().filter(|replica| !is_given_up(view, replica.node)).count();
    let quorum = policy.quorum(n as u8);
    let least = usize::from(quorum.r.min(quorum.w)).clamp(1, n);
    let least = if Mutant::AskOneSource.is_planted() { n } else { least };
    let from = if Mutant::CopyFromNext.is_planted() { holders.target() } else { &holders.replicas };
    let is_mine = from.iter().any(|replica| replica.node == me);
    (usize::from(is_mine), (n + 1 - least).min(left))
}

#[cfg(test)]
mod tests {
    use slipring_model::BucketId;
    use slipring_ring::{Layout, TableId};

    use super::*;
    use crate::view::tests::{arrive, give_state, join, node, settled, view_of};

    fn acks(replicas: u8, read_acks: u8, write_acks: u8) -> BucketPolicy {
        let (read_acks, write_acks) = (Some(read_acks), Some(write_acks));
        BucketPolicy { replicas, read_acks, write_acks, ..BucketPolicy::durable() }
    }

    fn holders(nodes: &[u8]) -> Holders {
        let replica = |byte: &u8| slipring_ring::Replica { node: node(*byte), assignment: u64::from(*byte) };
        Holders { replicas: nodes.iter().map(replica).collect(), next: None, since: 1 }
    }

    #[test]
    fn so_many_must_tell_that_no_quorum_is_left_without_one_of_them() {
        let view = view_of(&settled(5), 1);
        let needed = |policy: &BucketPolicy, nodes: &[u8]| sources(&view, node(9), policy, &holders(nodes)).1;
        for (n, r, w, told) in
            [(3, 2, 2, 2), (3, 3, 1, 3), (3, 3, 3, 1), (5, 3, 3, 3), (5, 4, 2, 4), (1, 1, 1, 1)]
        {
            let nodes: Vec<u8> = (1..=n).collect();
            assert_eq!(needed(&acks(n, r, w), &nodes), told, "{n} {r} {w}");
        }
        let mine = |me| sources(&view, node(me), &acks(3, 2, 2), &holders(&[1, 2, 3])).0;
        assert_eq!((mine(2), mine(4)), (1, 0));
    }

    #[test]
    fn what_is_lost_is_not_waited_for_but_all_others_are() {
        let mut layout = settled(4);
        give_state(&mut layout, 2, NodeState::Lost);
        let view = view_of(&layout, 1);
        let given_up = [1, 2, 9].map(|byte| is_given_up(&view, node(byte)));
        assert_eq!(given_up, [false, true, true], "who is no member has nothing to tell either");
        assert_eq!(sources(&view, node(4), &acks(3, 3, 1), &holders(&[1, 2, 3])), (0, 2));
    }

    #[test]
    fn what_brings_copies_back_comes_before_what_only_moves_them() {
        let classes = |layout: &Layout| {
            let view = view_of(layout, 1);
            let all = layout.moves().map(|(_, holders)| class_of(&view, holders) == Class::Recovery);
            all.collect::<BTreeSet<bool>>()
        };
        let mut drained = settled(5);
        give_state(&mut drained, 1, NodeState::Drained);
        assert_eq!(classes(&drained), BTreeSet::from([false]));
        let mut lost = settled(5);
        give_state(&mut lost, 1, NodeState::Lost);
        let view = view_of(&lost, 1);
        for (id, holders) in lost.moves() {
            let has_lost = holders.replicas.iter().any(|replica| replica.node == node(1));
            assert_eq!(class_of(&view, holders) == Class::Recovery, has_lost, "{id:?}");
        }
        assert!(classes(&lost).contains(&true));
        let mut grown = settled(2);
        join(&mut grown, 3);
        assert!(classes(&grown).contains(&true), "a third copy is made");
    }

    #[test]
    fn a_node_takes_over_what_moves_to_it_and_nothing_else() {
        let mut layout = settled(4);
        give_state(&mut layout, 1, NodeState::Drained);
        let view = view_of(&layout, 1);
        let mine = |byte| moving_to(&view, node(byte)).map(|(id, _)| id).collect::<BTreeSet<_>>();
        assert!(mine(1).is_empty() && layout.is_moving());
        for (id, holders) in layout.moves() {
            let targets = (2..=4).filter(|byte| holders.target().iter().any(|to| to.node == node(*byte)));
            assert!(targets.eq((2..=4).filter(|byte| mine(*byte).contains(&id))), "{id:?}");
        }
    }

    #[test]
    fn a_move_is_under_way_until_it_has_arrived_or_was_aimed_elsewhere() {
        let before = settled(3);
        let mut moving = before.clone();
        join(&mut moving, 4);
        let id = moving.moves().map(|(id, _)| id).find(|id| id.table == TableId(3)).expect("it moves");
        let mut over = moving.clone();
        arrive(&mut over);
        let view = |layout: &Layout| view_of(layout, 1);
        let holds = |layout: &Layout| layout.holders(BucketId(0), PartitionId(id.partition)).is_some();
        assert!(holds(&before) && is_under_way(&view(&moving), &view(&moving), id));
        assert!(!is_under_way(&view(&over), &view(&moving), id));
        assert!(!is_under_way(&view(&moving), &view(&before), id));
        assert!(!is_under_way(&view(&over), &view(&before), id));
        let other = MoveId { session: id.session + 1, ..id };
        assert!(!is_under_way(&view(&moving), &view(&moving), other));
    }
}
