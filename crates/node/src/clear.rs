//! Clearing a bucket: every key that was acknowledged before is deleted, each partition by one of its replicas.
//!
//! That replica goes page by page: it writes tombstones for the keys that it has, sends them to the others in one message,
//! and these tell which keys of that range have a value all the same. A quorum of answers knows every acknowledged key,
//! so what is told is deleted by a second message, and a page is done when a quorum has stored all of it. A page that
//! failed is simply done again, by another replica perhaps.
//!
//! Invariant: when a clearing is acknowledged, a quorum of each partition holds tombstones, or nothing, for every key
//! that was acknowledged before it began and not written since.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use slipring_model::bucket::Durability;
use slipring_model::{BucketId, Error, ErrorKind, Mutant, NodeId, Position};
use slipring_replication::{Quorums, Shortfall};
use slipring_wire::{Reply, Request};
use tokio::sync::oneshot;

use crate::answer::{no_bucket, within_partition};
use crate::bucket::{Clearing, Refusal};
use crate::core::Core;
use crate::failure::{failed, unavailable, unreachable};
use crate::scan::Region;
use crate::sync::Waiter;
use crate::view::{BucketView, Place};

/// Partitions that are cleared at a time: more would only have clients wait behind them.
const PARTITIONS_AT_ONCE: usize = 4;
/// How long a page that failed rests before it is done again, and how often it is at least.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
const ATTEMPTS_MIN: usize = 3;

/// What a page came to: how many keys it deleted, and where to go on.
type Done = (u64, Option<Position>);

/// The tombstones of one page and where they go.
struct Round<'v> {
    bucket: &'v BucketView,
    place: &'v Place,
    epoch: u64,
    range: RangeInclusive<Position>,
    cells: BTreeMap<(Position, Bytes), Bytes>,
}

/// What other replicas have told of a range.
#[derive(Default)]
struct Told {
    /// Keys with a value, and the cells of those that have one.
    keys: BTreeMap<(Position, Bytes), Vec<Bytes>>,
    /// Where to go on, if one of them has not looked at all of it.
    next: Option<Position>,
}

impl Core {
    /// Deletes every key of a region that was acknowledged before; how many were deleted.
    pub(crate) async fn clear(&self, bucket: BucketId, region: &Region) -> Result<u64, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let pieces = region.pieces(view.bits, Position(0), usize::MAX);
        for piece in &pieces {
            let (_, place) = view.place(bucket, *piece.start()).ok_or_else(no_bucket)?;
            self.check_quorums(place)?;
        }
        let mut waiting =
            pieces.into_iter().map(|piece| self.clear_range(bucket, *piece.start(), *piece.end()));
        let mut under_way: FuturesUnordered<_> = waiting.by_ref().take(PARTITIONS_AT_ONCE).collect();
        let mut count = 0;
        while let Some(cleared) = under_way.next().await {
            count += cleared?;
            under_way.extend(waiting.next());
        }
        Ok(count)
    }

    /// Clears a range, page by page; how many keys were deleted.
    async fn clear_range(&self, bucket: BucketId, start: Position, to: Position) -> Result<u64, Error> {
        let (mut next, mut count, mut attempts) = (Some(start), 0, 0);
        let mut deadline = self.now().after(self.settings.request_timeout());
        while let Some(from) = next {
            match self.clear_page(bucket, (from, to), attempts).await {
                Ok((some, more)) => {
                    (count, next, attempts) = (count + some, more, 0);
                    deadline = self.now().after(self.settings.request_timeout());
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    attempts += 1;
                    if !may_pass(&error) || attempts >= ATTEMPTS_MIN && self.now() >= deadline {
                        return Err(partly(&error));
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
        Ok(count)
    }

    /// Has one replica of a range clear a page of it, another one at each attempt.
    async fn clear_page(
        &self,
        bucket: BucketId,
        (from, to): (Position, Position),
        attempts: usize,
    ) -> Result<Done, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let (_, place) = view.place(bucket, from).ok_or_else(no_bucket)?;
        let is_up =
            |node: &NodeId| if *node == self.me { self.may_serve() } else { self.is_reachable(*node) };
        let mut holders: Vec<NodeId> = place.replicas.iter().copied().filter(is_up).collect();
        holders.sort_by_key(|node| self.is_doubtful(*node));
        let node = holders.get(attempts % holders.len().max(1)).copied();
        let node = node.ok_or_else(|| unavailable("no replica of a partition can be reached"))?;
        if node == self.me {
            return self.clear_here(bucket, from, to).await;
        }
        let request = Request::Clear { bucket, from, to };
        match self.ask(node, request, self.settings.request_timeout() * 4).await {
            Some(Reply::Cleared { count, next }) if next.is_none_or(|next| from < next && next <= to) => {
                Ok((count, next))
            }
            Some(Reply::Failed { kind, message }) => Err(Error::new(kind, message)),
            _ => Err(unavailable("a replica did not answer in time")),
        }
    }

    /// Clears a page of a range as one who holds its partition.
    pub(crate) async fn clear_here(
        &self,
        bucket: BucketId,
        from: Position,
        to: Position,
    ) -> Result<Done, Error> {
        self.budget.serves();
        let view = self.view().ok_or_else(no_bucket)?;
        let (bucket, place) = view.place(bucket, from).ok_or_else(no_bucket)?;
        let assignment = place.mine.filter(|_| place.is_held_by(self.me));
        let assignment =
            assignment.ok_or_else(|| unavailable("this node does not hold the whole partition"))?;
        self.check_quorums(place)?;
        let (end, behind) = within_partition(from, to, view.bits);
        let clearing = Clearing {
            actor: self.actor(assignment),
            is_alone: place.alone().is_some(),
            others: self.room_of_others(bucket.bucket.policy.engine, &place.write_quorums(None)),
            wall_ms: self.clock.wall_ms(),
            epoch: view.epoch(),
        };
        let page = bucket.bucket.clear_some(from..=end, &clearing)?;
        self.syncer.mark_dirty();
        let range = from..=page.next.map_or(end, |next| Position(next.0 - 1));
        let next = page.next.or(behind);
        if clearing.is_alone {
            self.page_synced(bucket).await?;
            return Ok((page.count, next));
        }
        let cells = page.cells.into_iter().map(|(key, cell)| ((Position::of(&key), key), cell)).collect();
        let mut round = Round { bucket, place, epoch: view.epoch(), range, cells };
        let told = self.send_round(&round).await?;
        if told.keys.is_empty() || Mutant::ClearWhatOneKnows.is_planted() {
            return Ok((page.count, told.next.or(next)));
        }
        let more = bucket.bucket.clear_told(from, &told.keys, &clearing)?;
        self.syncer.mark_dirty();
        round.cells.extend(more.cells.into_iter().map(|(key, cell)| ((Position::of(&key), key), cell)));
        self.send_round(&round).await?;
        Ok((page.count + more.count, told.next.or(next)))
    }

    /// Has the other replicas store the cells of a page; what they tell, once enough of them have stored it.
    async fn send_round(&self, round: &Round<'_>) -> Result<Told, Error> {
        let (synced, told) = futures::join!(self.page_synced(round.bucket), self.ask_others(round));
        synced.and(told)
    }

    async fn ask_others(&self, round: &Round<'_>) -> Result<Told, Error> {
        let (from, to) = (*round.range.start(), *round.range.end());
        let cells: Vec<(Bytes, Bytes)> =
            round.cells.iter().map(|((_, key), cell)| (key.clone(), cell.clone())).collect();
        let (bucket, epoch) = (round.bucket.bucket.id, round.epoch);
        let ask = async |node: NodeId| {
            let request = Request::MergeCleared { bucket, epoch, from, to, cells: cells.clone() };
            (node, self.ask(node, request, self.settings.request_timeout()).await)
        };
        let mut asked: FuturesUnordered<_> = round.place.others(self.me).map(ask).collect();
        let (mut told, mut stored, mut refusal) = (Told::default(), vec![self.me], None);
        while let Some((node, reply)) = asked.next().await {
            match reply {
                Some(Reply::StillThere { cells, next })
                    if next.is_none_or(|next| from < next && next <= to) =>
                {
                    told.add(cells, next);
                    stored.push(node);
                }
                Some(Reply::Failed { kind, message }) => refusal = Some(Error::new(kind, message)),
                Some(Reply::Stale { .. }) => refusal = Some(Refusal::Stale.into()),
                _ => round.cells.keys().for_each(|(_, key)| self.store_hint(node, bucket, key)),
            }
            // Where two quorums share no replica, each one that answers may know of keys alone.
            if is_overlapping(round.place)
                && quorums(round.place).iter().all(|set| set.is_met(|node| stored.contains(&node)))
            {
                return Ok(told);
            }
        }
        match quorums(round.place).iter().find(|set| !set.is_met(|node| stored.contains(&node))) {
            None => Ok(told),
            Some(lacking) => {
                Err(refusal.unwrap_or_else(|| silent(lacking.shortfall(|node| stored.contains(&node)))))
            }
        }
    }

    /// Stores a page of a peer that clears a range, and tells what of the range has a value all the same.
    pub(crate) async fn merge_cleared(
        &self,
        (bucket, epoch): (BucketId, u64),
        (from, to): (Position, Position),
        cells: Vec<(Bytes, Bytes)>,
    ) -> Result<Reply, Error> {
        self.budget.serves();
        let view = self.view().ok_or_else(no_bucket)?;
        let (bucket, place) = view.place(bucket, from).ok_or_else(no_bucket)?;
        if place.mine.is_none() || to > from.partition(view.bits).end(view.bits) {
            return Ok(Reply::Stale { epoch: view.epoch_to_wait_for() });
        }
        let page = match bucket.bucket.merge_cleared(from..=to, &cells, epoch) {
            Ok(page) => page,
            Err(Refusal::Stale) => return Ok(Reply::Stale { epoch: view.epoch_to_wait_for() }),
            Err(Refusal::Failed(error)) => return Ok(failed(error)),
        };
        self.syncer.mark_dirty();
        self.page_synced(bucket).await?;
        Ok(Reply::StillThere { cells: page.cells, next: page.next })
    }

    /// Returns once what was written so far is as durable as the bucket promises.
    async fn page_synced(&self, bucket: &BucketView) -> Result<(), Error> {
        if bucket.bucket.policy.durability != Durability::Fsync {
            return Ok(());
        }
        let (done, is_done) = oneshot::channel();
        self.syncer.wait(Waiter::Page(done));
        is_done.await.map_err(|_| unavailable("the disk did not take what was written"))
    }

    /// Whether enough replicas of a partition can be reached for reads and for writes.
    fn check_quorums(&self, place: &Place) -> Result<(), Error> {
        let is_up = |node| self.is_reachable(node);
        match quorums(place).iter().find(|set| !set.is_met(is_up)) {
            Some(lacking) => Err(unreachable(lacking.shortfall(is_up))),
            None => Ok(()),
        }
    }
}

impl Told {
    fn add(&mut self, cells: Vec<(Bytes, Bytes)>, next: Option<Position>) {
        for (key, cell) in cells {
            self.keys.entry((Position::of(&key), key)).or_default().push(cell);
        }
        self.next = self.next.into_iter().chain(next).min();
    }
}

/// The quorums that must answer: of reads, to know every key, and of writes.
fn quorums(place: &Place) -> [Quorums; 2] {
    [place.read_quorums(None), place.write_quorums(None)]
}

/// Whether a quorum of reads knows every write that a quorum has acknowledged.
fn is_overlapping(place: &Place) -> bool {
    let overlaps = |quorum: &slipring_model::Quorum| quorum.r + quorum.w > quorum.n;
    overlaps(&place.quorum) && place.next.as_ref().is_none_or(|next| overlaps(&next.quorum))
}

/// Whether another attempt may succeed.
fn may_pass(error: &Error) -> bool {
    !matches!(error.kind, ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Internal)
}

/// Too few replicas have stored a page.
fn silent(stored: Shortfall) -> Error {
    let Shortfall { held, needed, members, side } = stored;
    unavailable(format!(
        "{held} of {members} replicas{side} have stored the deletions in time and {needed} are needed"
    ))
}

/// Why a bucket is not cleared that may be so in part.
fn partly(error: &Error) -> Error {
    let message = format!("{}; some keys may be gone and others left: clear the bucket again", error.message);
    Error::new(ErrorKind::OutcomeUnknown, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_replicas_tell_is_put_together_and_the_least_reach_counts() {
        let mut told = Told::default();
        let (key, cell) = (Bytes::from_static(b"k"), Bytes::from_static(b"c"));
        told.add(vec![(key.clone(), cell.clone())], None);
        assert_eq!(told.next, None);
        told.add(vec![(key.clone(), cell)], Some(Position(7)));
        told.add(Vec::new(), Some(Position(9)));
        told.add(Vec::new(), None);
        assert_eq!((told.next, told.keys.len()), (Some(Position(7)), 1));
        assert_eq!(told.keys.get(&(Position::of(&key), key)).map(Vec::len), Some(2));
    }

    #[test]
    fn a_half_that_is_cleared_is_said_to_be_one() {
        let error = partly(&silent(Shortfall {
            held: 1,
            needed: 2,
            members: 3,
            side: slipring_replication::Side::Only,
        }));
        assert_eq!(error.kind, ErrorKind::OutcomeUnknown);
        assert!(error.message.starts_with("1 of 3 replicas have stored") && error.message.contains("again"));
        assert!(may_pass(&unavailable("later")) && !may_pass(&Error::new(ErrorKind::Invalid, "never")));
    }
}
