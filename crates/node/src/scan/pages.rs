//! Pages of keys: a walk reads on, partition by partition in position order, until it has enough.
//!
//! While partitions hold little, the walk looks at more and more of them at once, so that few keys fit into one answer.
//!
//! Invariant: a page ends between two cells, so all keys of one cell are on the same page.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use slipring_model::{BucketId, Cursor, Error, ErrorKind, Position, limits};
use slipring_wire::{Reply, Request};

use crate::answer::no_bucket;
use crate::core::Core;
use crate::failure::unavailable;
use crate::view::{BucketView, View};

use super::Region;

/// Looks at partitions that one page may take before it answers with what it has.
const LOOKS_PER_PAGE: usize = 1024;
/// How often a page is tried, and the rest between two attempts.
const ATTEMPTS: usize = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// Partitions that a walk looks at at once, at most.
const LOOKS_AT_ONCE: usize = 32;

/// Some keys of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// The keys, in position order.
    pub keys: Vec<Bytes>,
    /// Where to go on; [`Cursor::START`] when all have been seen.
    pub cursor: Cursor,
}

/// What one look at a partition has found.
struct Piece {
    keys: Vec<Bytes>,
    /// Where the range goes on; none when all of it was seen.
    next: Option<Position>,
    end: Position,
}

/// A page under way.
struct Walk<'a> {
    core: &'a Core,
    view: &'a View,
    bucket: &'a BucketView,
    region: &'a Region,
    /// Where to go on; none when all was seen.
    at: Option<Position>,
    keys: Vec<Bytes>,
    bytes: usize,
}

impl Core {
    /// About `count` keys of a region of whole cells from `cursor` on, twice as many at most, but for those of one cell.
    pub(crate) async fn scan(
        &self,
        bucket: BucketId,
        region: &Region,
        cursor: Cursor,
        count: usize,
    ) -> Result<ScanPage, Error> {
        let deadline = self.now().after(self.settings.request_timeout());
        for _ in 1..ATTEMPTS {
            match self.page(bucket, region, cursor, count).await {
                // A partition may have moved, or was split, since the view was taken.
                Err(error) if error.kind == ErrorKind::Unavailable && self.now() < deadline => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                page => return page,
            }
        }
        self.page(bucket, region, cursor, count).await
    }

    async fn page(
        &self,
        bucket: BucketId,
        region: &Region,
        cursor: Cursor,
        count: usize,
    ) -> Result<ScanPage, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let bucket = view.bucket(bucket).ok_or_else(no_bucket)?;
        let at = region.from(cursor.position()).map(|rest| *rest.start());
        let mut walk = Walk { core: self, view: &view, bucket, region, at, keys: Vec::new(), bytes: 0 };
        let filled = walk.fill(count.clamp(1, limits::SCAN_KEYS_MAX)).await;
        // What was read before a failure is a page, too.
        if walk.at == at {
            filled?;
        }
        walk.finish_cell(cursor).await?;
        Ok(ScanPage { keys: walk.keys, cursor: walk.at.map_or(Cursor::START, Cursor::of) })
    }

    /// Looks at a range of one partition, on its first healthy replica.
    async fn look(
        &self,
        view: &View,
        bucket: &BucketView,
        range: RangeInclusive<Position>,
        limit: usize,
    ) -> Result<Piece, Error> {
        let (from, end) = range.into_inner();
        let place = bucket.places.get(from.partition(view.bits).index()).ok_or_else(no_bucket)?;
        let node = self.first_healthy(place)?;
        if node == self.me {
            let (keys, next) = bucket.bucket.keys(from..=end, limit, self.agreed_ms())?;
            let now = self
                .view()
                .filter(|now| now.bits == view.bits)
                .ok_or_else(|| unavailable("the partition was just split; go on with the same cursor"))?;
            if !now.place(bucket.bucket.id, from).is_some_and(|(_, place)| place.is_held_by(self.me)) {
                return Err(unavailable("a partition has just moved away; go on with the same cursor"));
            }
            return Ok(Piece { keys, next, end });
        }
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let request = Request::Scan { bucket: bucket.bucket.id, from, to: end, limit };
        match self.ask(node, request, self.settings.request_timeout()).await {
            Some(Reply::Keys { keys, next }) => {
                Ok(Piece { keys, next: next.filter(|next| from < *next && *next <= end), end })
            }
            Some(Reply::Failed { kind, message }) => Err(Error::new(kind, message)),
            _ => Err(unavailable("a replica did not answer the scan in time; go on with the same cursor")),
        }
    }
}

impl Walk<'_> {
    /// Reads on until there are `count` keys, or enough bytes.
    async fn fill(&mut self, count: usize) -> Result<(), Error> {
        let (core, view, bucket) = (self.core, self.view, self.bucket);
        let (mut looks, mut at_once) = (0, 1);
        while let Some(from) = self.at.filter(|_| looks < LOOKS_PER_PAGE && !self.is_full(count)) {
            let left = count - self.keys.len();
            let ranges = self.region.pieces(view.bits, from, at_once);
            looks += ranges.len();
            let pieces: Vec<_> =
                ranges.into_iter().map(|range| core.look(view, bucket, range, left)).collect();
            let mut pieces = futures::stream::iter(pieces).buffered(at_once);
            at_once = (at_once * 2).min(LOOKS_AT_ONCE);
            while let Some(piece) = pieces.next().await {
                let piece = piece?;
                let is_whole = piece.next.is_none();
                self.take(piece);
                if !is_whole || self.is_full(count) {
                    at_once = 1;
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Reads the rest of the cell that the page ends in, where some of it was read: a cursor names whole cells.
    async fn finish_cell(&mut self, begun: Cursor) -> Result<(), Error> {
        let last = self.keys.last().map_or(begun, |key| Cursor::of(Position::of(key)));
        while let Some(at) = self.at.filter(|at| is_within(*at, begun) || is_within(*at, last)) {
            let rest = at..=Cursor::of(at).last_position();
            let piece = self.core.look(self.view, self.bucket, rest, limits::PAGE_RECORDS_MAX).await?;
            self.take(piece);
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn is_full(&self, count: usize) -> bool {
        self.keys.len() >= count || self.bytes >= limits::SCAN_PIECE_BYTES
    }

    fn take(&mut self, piece: Piece) {
        self.bytes += piece.keys.iter().map(Bytes::len).sum::<usize>();
        self.keys.extend(piece.keys);
        let behind = piece.end.0.checked_add(1).map(Position);
        let next = piece.next.or(behind).and_then(|next| self.region.from(next));
        self.at = next.map(|rest| *rest.start());
    }
}

/// Whether a position is in a cell, behind its first position.
fn is_within(position: Position, cell: Cursor) -> bool {
    Cursor::of(position) == cell && position != cell.position()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cell_is_finished_only_where_it_was_begun() {
        let cell = Cursor::of(Position(4_096));
        assert!(is_within(Position(4_097), cell) && is_within(cell.last_position(), cell));
        assert!(!is_within(Position(4_096), cell) && !is_within(Position(6_144), cell));
    }
}
