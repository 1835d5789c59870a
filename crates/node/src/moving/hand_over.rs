//! Handing a partition over to a node that takes it over, page by page.

use bytes::Bytes;
use slipring_model::{BucketId, Error, ErrorKind, Mutant, Position};
use slipring_wire::{Reply, Request};

use crate::answer::no_bucket;
use crate::core::Core;
use crate::failure::unavailable;

impl Core {
    /// The layout a request must wait for, if this node does not know it yet.
    pub(crate) fn must_hear_of(&self, request: &Request) -> Option<u64> {
        let view = self.view.load();
        let view = view.as_ref()?;
        let (bucket, epoch, position, is_move) = match request {
            Request::Store { bucket, epoch, key, .. }
            | Request::Fetch { bucket, epoch, key }
            | Request::Digest { bucket, epoch, key } => (*bucket, *epoch, Position::of(key), false),
            Request::Pull { bucket, epoch, from, .. } => (*bucket, *epoch, *from, true),
            _ => return None,
        };
        let is_held = view.place(bucket, position).is_some_and(|(_, place)| place.mine.is_some());
        // Its fences must stand, too, before anything is handed over.
        let known = if is_move { *self.adopted.borrow() } else { view.epoch() };
        let must_wait = !is_held || is_move && !Mutant::SkipBarrier.is_planted();
        (epoch > known && must_wait).then_some(epoch)
    }

    /// The cells of a range that the asker lacks, up to as many as fit into one answer.
    pub(crate) fn hand_over(
        &self,
        bucket: BucketId,
        epoch: u64,
        (from, to): (Position, Position),
        entries: Vec<(Bytes, u64)>,
    ) -> Result<Reply, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let (bucket, place) = view.place(bucket, from).ok_or_else(no_bucket)?;
        if epoch < place.since && !Mutant::IgnoreFence.is_planted() || !place.is_held_by(self.me) {
            return Ok(Reply::Stale { epoch: view.epoch() });
        }
        if to > from.partition(view.bits).end(view.bits) {
            return Err(Error::new(ErrorKind::Invalid, "a page lies within one partition"));
        }
        if bucket.bucket.is_closed(from.partition(view.bits)) {
            return Err(unavailable("the partition is being emptied of an earlier copy; try again"));
        }
        let found = self.compare_with(bucket, from, to, entries)?;
        if let Some(error) = found.unread {
            return Err(error);
        }
        if bucket.bucket.is_damaged_within(from, found.next.unwrap_or(to)) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "a record of the range is damaged and not healed yet",
            ));
        }
        Ok(Reply::Page { cells: found.cells, next: found.next })
    }
}
