//! Handing a partition over to a node that takes it over, page by page.

use bytes::Bytes;
use slipring_model::{BucketId, Error, ErrorKind, Mutant, NodeId, Position};
use slipring_wire::{Reply, Request};

use crate::answer::no_bucket;
use crate::core::Core;
use crate::failure::unavailable;
use crate::view::{Place, View};

impl Core {
    /// The layout a request must wait for, if this node does not know it yet.
    pub(crate) fn must_hear_of(&self, request: &Request) -> Option<u64> {
        must_hear_of(self.view.load().as_ref()?, *self.adopted.borrow(), request)
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
        if !may_hand_over(place, self.me, epoch) {
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

/// The layout a request must wait for on a node that works with `view` and whose fences stand as of `adopted`.
fn must_hear_of(view: &View, adopted: u64, request: &Request) -> Option<u64> {
    let (bucket, epoch, position, is_move) = match request {
        Request::Store { bucket, epoch, key, .. }
        | Request::Overwrite { bucket, epoch, key, .. }
        | Request::Fetch { bucket, epoch, key }
        | Request::Digest { bucket, epoch, key } => (*bucket, *epoch, Position::of(key), false),
        Request::MergeCleared { bucket, epoch, from, .. } => (*bucket, *epoch, *from, false),
        Request::Pull { bucket, epoch, from, .. } => (*bucket, *epoch, *from, true),
        _ => return None,
    };
    let is_held = view.place(bucket, position).is_some_and(|(_, place)| place.mine.is_some());
    // Its fences must stand, too, before anything is handed over.
    let known = if is_move { adopted } else { view.epoch() };
    let must_wait = !is_held || is_move && !Mutant::SkipBarrier.is_planted();
    (epoch > known && must_wait).then_some(epoch)
}

/// Whether `me` has all of a partition to give to one who asks under the layout `epoch`.
fn may_hand_over(place: &Place, me: NodeId, epoch: u64) -> bool {
    (epoch >= place.since || Mutant::IgnoreFence.is_planted()) && place.is_held_by(me)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{give_state, node, place, settled, view_of};

    #[test]
    fn a_request_waits_for_a_layout_that_may_change_the_answer() {
        let mut layout = settled(4);
        give_state(&mut layout, 4, slipring_ring::NodeState::Drained);
        crate::view::tests::arrive(&mut layout);
        let epoch = layout.epoch();
        let (holder, drained) = (view_of(&layout, 1), view_of(&layout, 4));
        let (bucket, key, cell) = (BucketId(0), Bytes::from_static(b"k"), Bytes::new());
        let single = |epoch| {
            let (key, cell) = (key.clone(), cell.clone());
            [
                Request::Store { bucket, epoch, key: key.clone(), cell },
                Request::Fetch { bucket, epoch, key: key.clone() },
                Request::Digest { bucket, epoch, key },
            ]
        };
        for request in single(epoch + 1) {
            assert_eq!(must_hear_of(&holder, epoch, &request), None, "what is held can be told");
            assert_eq!(must_hear_of(&drained, epoch, &request), Some(epoch + 1));
        }
        for request in single(epoch) {
            assert_eq!(must_hear_of(&drained, epoch, &request), None);
        }
        let (from, to) = (Position(0), Position(9));
        let pull = |epoch| Request::Pull { bucket, epoch, from, to, entries: vec![] };
        assert_eq!(must_hear_of(&holder, epoch - 1, &pull(epoch)), Some(epoch), "its fences must stand");
        assert_eq!(must_hear_of(&holder, epoch, &pull(epoch)), None);
        assert_eq!(must_hear_of(&drained, epoch - 1, &Request::Moves), None);
    }

    #[test]
    fn only_a_replica_with_everything_hands_over_and_only_to_who_knows_of_the_move() {
        let place = place(&[1, 2], Some(&[2, 3]));
        assert_eq!([4, 5, 6].map(|epoch| may_hand_over(&place, node(1), epoch)), [false, true, true]);
        assert!(!may_hand_over(&place, node(3), 6));
    }
}
