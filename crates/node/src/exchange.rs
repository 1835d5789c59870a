//! Exchanges between replicas: the safety net beneath acknowledgements, read repair and hints.
//!
//! Of two replicas the one with the lower id asks. It compares the roots of the partitions they share and,
//! where they differ, pages of keys and digests, each once: then both hold all that either held before it was compared.
//! What is written during the exchange is brought by its own write, or by the next exchange; waiting until a page is
//! equal would never end where clients write faster than the two compare.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slipring_model::{BucketId, Error, ErrorKind, Mutant, NodeId, PartitionId, Position};
use slipring_replication::{PageEntry, compare};
use slipring_wire::{Reply, Request};
use tokio::time::{Instant, timeout_at};

use crate::answer::no_bucket;
use crate::bucket::Refusal;
use crate::budget::{Class, PIECE_RECORDS};
use crate::core::Core;
use crate::failure::unavailable;
use crate::heal::is_damage;
use crate::view::{BucketView, Place, View};

/// Partitions whose roots travel in one request.
const ROOTS_PER_REQUEST: usize = 64;
/// Cells of one answer stop at this many bytes; the next round brings the rest.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Keys of the asker that one page compares.
pub(crate) const PAGE_KEYS: usize = 128;
/// Records of the asked that one page compares: more, so that one answer brings what the asker lacks.
const ANSWER_RECORDS: usize = 2 * PAGE_KEYS;

impl Core {
    /// Exchanges with every connected peer once an interval.
    pub(crate) async fn run_exchange(self: Arc<Self>) {
        let interval = Duration::from_millis(self.settings.exchange_interval_ms);
        loop {
            tokio::time::sleep(interval).await;
            let Some(view) = self.view().filter(|_| self.may_serve() && !Mutant::SkipExchange.is_planted())
            else {
                continue;
            };
            let peers =
                view.layout.nodes().keys().filter(|node| **node > self.me && self.is_reachable(**node));
            for peer in peers {
                for bucket in view.buckets() {
                    // Who is only to hold it takes it over page by page; cell by cell would be the same work again.
                    let is_shared = |place: &Place| place.is_held_by_both(self.me, *peer);
                    // What could not be compared is left to the next round.
                    if let Err(error) = self.exchange(&view, (*peer, Class::Upkeep), bucket, is_shared).await
                    {
                        tracing::warn!(peer = %peer.short(), %error, "an exchange broke off");
                    }
                }
            }
        }
    }

    /// Compares the partitions of a bucket that this node and a peer share; `false` when not everything could be.
    pub(crate) async fn exchange(
        &self,
        view: &View,
        (peer, class): (NodeId, Class),
        bucket: &BucketView,
        is_shared: impl Fn(&Place) -> bool + Send,
    ) -> Result<bool, Error> {
        let mut is_complete = true;
        let shared = |(index, place): (usize, &Place)| is_shared(place).then_some(index as u16);
        let partitions: Vec<u16> = bucket.places.iter().enumerate().filter_map(shared).collect();
        for some in partitions.chunks(ROOTS_PER_REQUEST) {
            let mut roots = Vec::with_capacity(some.len());
            for partition in some {
                if bucket.bucket.is_closed(PartitionId(*partition)) {
                    is_complete = false;
                    continue;
                }
                match bucket.bucket.root(PartitionId(*partition), (&self.budget, class)).await {
                    Ok(root) => roots.push((*partition, Bytes::copy_from_slice(&root.to_be_bytes()))),
                    Err(error) => {
                        tracing::warn!(partition, %error, "a partition cannot be read for an exchange");
                        is_complete = false;
                    }
                }
            }
            let request = roots_request(view, bucket.bucket.id, roots);
            let Some(Reply::Roots(differing)) =
                self.ask(peer, request, self.settings.request_timeout() * 4).await
            else {
                return Ok(false);
            };
            for partition in differing.into_iter().filter(|partition| some.contains(partition)) {
                is_complete &=
                    self.exchange_partition(view, (peer, class), bucket, PartitionId(partition)).await?;
            }
        }
        Ok(is_complete)
    }

    async fn exchange_partition(
        &self,
        view: &View,
        (peer, class): (NodeId, Class),
        bucket: &BucketView,
        partition: PartitionId,
    ) -> Result<bool, Error> {
        // Not what is known by now: the partition may have moved away.
        let (bits, epoch) = (view.bits, view.epoch());
        let (mut from, end) = (partition.start(bits), partition.end(bits));
        loop {
            let (page, next) = self.budget.run(class, || bucket.bucket.page(from..=end, PAGE_KEYS)).await?;
            let to = next.map_or(end, |next| Position(next.0 - 1));
            let entries = page.into_iter().map(|entry| (entry.key, entry.digest)).collect();
            let request = Request::Digests { bucket: bucket.bucket.id, from, to, entries };
            let Some(Reply::Digests { missing, cells, next: more }) =
                self.ask(peer, request, self.settings.request_timeout() * 4).await
            else {
                return Ok(false);
            };
            self.metrics.exchanged.inc_by((missing.len() + cells.len()) as u64);
            for some in cells.chunks(PIECE_RECORDS) {
                let merge = |(key, cell): &(Bytes, Bytes)| match bucket.bucket.merge(
                    Position::of(key),
                    key,
                    cell,
                    epoch,
                ) {
                    Err(Refusal::Failed(error)) if is_damage(&error) => Ok(()),
                    merged => merged,
                };
                self.budget.run(class, || some.iter().try_for_each(merge)).await?;
                self.syncer.mark_dirty();
            }
            for key in missing {
                if !self.send_cell(peer, bucket, key, epoch).await? {
                    return Ok(false);
                }
            }
            match more.filter(|more| from < *more && *more <= to).or(next) {
                Some(next) => from = next,
                None => return Ok(true),
            }
        }
    }

    /// Sends this node's cell of a key; `false` when the peer did not take it.
    ///
    /// `epoch` is that of the layout under which this node holds a copy.
    async fn send_cell(
        &self,
        peer: NodeId,
        bucket: &BucketView,
        key: Bytes,
        epoch: u64,
    ) -> Result<bool, Error> {
        let cell = match bucket.bucket.cell(Position::of(&key), &key) {
            Ok(Some(cell)) => cell,
            Ok(None) => return Ok(true),
            Err(error) if is_damage(&error) => return Ok(true),
            Err(error) => return Err(error),
        };
        let request = Request::Store { bucket: bucket.bucket.id, epoch, key, cell };
        let reply = self.ask(peer, request, self.settings.request_timeout()).await;
        // A copy that is damaged there is healed there.
        Ok(matches!(reply, Some(Reply::Stored | Reply::Failed { kind: ErrorKind::Corrupt, .. })))
    }

    /// Which of the peer's roots differ from this node's, or cannot be compared here now. They are of `1 << bits`
    /// partitions; of as many as the cluster was founded with when that is not told.
    pub(crate) async fn compare_roots(
        &self,
        bucket: BucketId,
        bits: Option<u8>,
        roots: &[(u16, Bytes)],
    ) -> Result<Reply, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        if !view.is_cut_into(bits) {
            return Err(unavailable("the ring was split: one of us does not know yet; try again"));
        }
        let bucket = view.bucket(bucket).ok_or_else(no_bucket)?;
        let mut differing = Vec::new();
        // Pages get on where sums take longer than the asker waits.
        let until = Instant::now() + self.settings.request_timeout();
        for (partition, root) in roots {
            let is_held =
                bucket.places.get(usize::from(*partition)).is_some_and(|place| place.mine.is_some());
            let is_equal = if !is_held || bucket.bucket.is_closed(PartitionId(*partition)) {
                false
            } else {
                match timeout_at(
                    until,
                    bucket.bucket.root(PartitionId(*partition), (&self.budget, Class::Asked)),
                )
                .await
                {
                    Ok(Ok(ours)) => ours.to_be_bytes()[..] == root[..],
                    Err(_late) => false,
                    Ok(Err(error)) => {
                        tracing::warn!(partition, %error, "a partition cannot be read for an exchange");
                        false
                    }
                }
            };
            if !is_equal {
                differing.push(*partition);
            }
        }
        Ok(Reply::Roots(differing))
    }

    /// Compares a page of the peer's with this node's: keys wanted from it, and cells it lacks.
    pub(crate) fn compare_page(
        &self,
        bucket: BucketId,
        from: Position,
        to: Position,
        entries: Vec<(Bytes, u64)>,
    ) -> Result<Reply, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let (bucket, place) = view.place(bucket, from).ok_or_else(no_bucket)?;
        let is_closed = bucket.bucket.is_closed(from.partition(view.bits));
        if place.mine.is_none() || is_closed || to > from.partition(view.bits).end(view.bits) {
            return Err(unavailable("this node holds no such part of a partition"));
        }
        let found = self.compare_with(bucket, from, to, entries)?;
        Ok(Reply::Digests { missing: found.wanted, cells: found.cells, next: found.next })
    }

    /// Compares a page of a peer's with this node's, as far as one answer reaches.
    pub(crate) fn compare_with(
        &self,
        bucket: &BucketView,
        from: Position,
        to: Position,
        entries: Vec<(Bytes, u64)>,
    ) -> Result<Difference, Error> {
        let (ours, mut next) = bucket.bucket.page(from..=to, ANSWER_RECORDS)?;
        // Where this node holds more than a page, only the part both pages cover is compared.
        let is_covered = |position: Position| next.is_none_or(|next| position < next);
        let entry = |(key, digest): (Bytes, u64)| PageEntry { position: Position::of(&key), key, digest };
        let mut theirs: Vec<PageEntry<Bytes>> =
            entries.into_iter().map(entry).filter(|entry| is_covered(entry.position)).collect();
        theirs.sort_by(|left, right| (left.position, &left.key).cmp(&(right.position, &right.key)));
        let found = compare(&theirs, &ours);
        let (mut cells, mut bytes): (Vec<(Bytes, Bytes)>, usize) = (Vec::new(), 0);
        let mut unread = None;
        for key in found.unknown_there {
            let position = Position::of(&key);
            let is_new = cells.last().is_none_or(|(last, _)| Position::of(last) != position);
            if bytes >= ANSWER_BYTES_MAX && is_new {
                next = Some(position);
                break;
            }
            match bucket.bucket.cell(position, &key) {
                Ok(Some(cell)) => {
                    bytes += key.len() + cell.len();
                    cells.push((key, cell));
                }
                Ok(None) => {}
                Err(error) => unread = Some(error),
            }
        }
        Ok(Difference { wanted: found.wanted, cells, next, unread })
    }
}

/// Who knows of a split says how the ring is cut; before there was one, nodes of older releases may be asked.
fn roots_request(view: &View, bucket: BucketId, roots: Vec<(u16, Bytes)>) -> Request {
    match view.is_cut_into(None) {
        true => Request::Roots { bucket, roots },
        false => Request::RootsOfCut { bucket, bits: view.bits, roots },
    }
}

/// How a page of a peer's differs from this node's.
pub(crate) struct Difference {
    /// Keys that the peer has, or has otherwise.
    pub(crate) wanted: Vec<Bytes>,
    /// Keys and cells that this node has, or has otherwise, in position order.
    pub(crate) cells: Vec<(Bytes, Bytes)>,
    /// Where to go on, if the page reaches further.
    pub(crate) next: Option<Position>,
    /// Why a cell is missing here, if one could not be read.
    pub(crate) unread: Option<Error>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{settled, split, view_of};

    #[test]
    fn roots_name_the_cut_once_there_was_a_split() {
        let mut layout = settled(2);
        let bucket = BucketId(0);
        let request = |layout: &_| roots_request(&view_of(layout, 1), bucket, vec![]);
        assert_eq!(request(&layout), Request::Roots { bucket, roots: vec![] });
        split(&mut layout);
        assert_eq!(request(&layout), Request::RootsOfCut { bucket, bits: 2, roots: vec![] });
    }
}
