//! Requests that meet a change of the layout: they wait until this node knows of it, and go on under it.

use std::sync::Arc;

use slipring_model::{Moment, NodeId, Position};
use slipring_replication::WriteEffect;
use slipring_wire::Request;
use smallvec::SmallVec;

use crate::core::Core;
use crate::failure::{failed, unavailable};
use crate::requests::{Work, WriteEntry};
use crate::view::View;

impl Core {
    /// Takes a request on anew once this node works with the layout `epoch`; nothing of it has been done.
    pub(crate) fn submit_again(&self, work: Work, epoch: u64) {
        let Some(core) = self.handle.upgrade() else { return };
        self.metrics.requests_restarted.inc();
        tokio::spawn(async move {
            match core.has_adopted(epoch, work.deadline).await {
                true => core.submit_avoiding(work, SmallVec::new(), None),
                false => {
                    let error = unavailable("the layout is changing; nothing was done, try again");
                    core.reply(work.reply_to, Err(error));
                }
            }
        });
    }

    /// Whether this node works with the layout `epoch` before `deadline`.
    pub(crate) async fn has_adopted(&self, epoch: u64, deadline: Moment) -> bool {
        let left = deadline.since(self.now());
        let mut adopted = self.adopted.subscribe();
        let waited = tokio::time::timeout(left, adopted.wait_for(|known| *known >= epoch)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// Whether this node's copy of a key is still the one that it was in `view`: what was read of it counts.
    pub(crate) fn still_holds(&self, view: &View, work: &Work) -> bool {
        let now = self.view.load();
        let place = now.as_ref().and_then(|now| now.place(work.bucket, work.position));
        place.is_some_and(|(_, place)| place.still_counts(view.epoch()))
    }

    /// Sends a write's cell to a replica again once this node works with the layout `epoch`.
    pub(crate) fn send_again(&self, id: u64, to: NodeId, epoch: u64) {
        let Some(core) = self.handle.upgrade() else { return };
        tokio::spawn(async move {
            let mut adopted = core.adopted.subscribe();
            let limit = core.settings.request_timeout();
            let waited = tokio::time::timeout(limit, adopted.wait_for(|known| *known >= epoch)).await;
            if matches!(waited, Ok(Ok(_))) {
                let Some(view) = core.view() else { return };
                core.with_write(id, |entry, effects| {
                    regroup(&view, entry, effects);
                    let is_sent = effects.contains(&WriteEffect::Send { to });
                    if !is_sent {
                        entry.machine.resend(to, effects);
                    }
                });
            }
        });
    }

    /// Writes under way count the quorums of a new view from now on.
    pub(crate) fn regroup_writes(&self, view: &View) {
        for id in self.requests.ids() {
            self.with_write(id, |entry, effects| regroup(view, entry, effects));
        }
    }

    /// Serves a peer's request once this node works with the layout it was made under.
    pub(crate) fn serve_when_adopted(self: &Arc<Self>, from: NodeId, id: u64, request: Request, epoch: u64) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            let mut adopted = core.adopted.subscribe();
            let limit = core.settings.request_timeout();
            match tokio::time::timeout(limit, adopted.wait_for(|known| *known >= epoch)).await {
                Ok(Ok(_)) => core.serve(from, id, request),
                _ => core.answer(from, id, failed(unavailable("this node does not know that layout yet"))),
            }
        });
    }
}

fn regroup(view: &View, entry: &mut WriteEntry, effects: &mut Vec<WriteEffect>) {
    let Some((_, place)) = view.place(entry.bucket, Position::of(&entry.key)) else { return };
    if entry.epoch >= view.epoch() {
        return;
    }
    if place.since > entry.epoch {
        // What must be first in order is asked for once more: a replica that acknowledged it before may have heard
        // since of a value that wins over it.
        let is_repeated = entry.overwrite.is_some() && entry.machine.repeat(effects);
        if !is_repeated {
            entry.machine.regroup(place.write_quorums(entry.write_acks), effects);
        }
    }
    entry.epoch = view.epoch();
}

#[cfg(test)]
mod tests {
    use slipring_model::{BucketId, PartitionId};
    use slipring_replication::WriteCoordinator;

    use super::*;
    use crate::view::tests::{create_bucket, join, node, settled, view_of};

    #[test]
    fn a_write_counts_the_quorums_of_a_move_that_began_after_it_and_no_earlier_one() {
        let mut layout = settled(3);
        join(&mut layout, 4);
        create_bucket(&mut layout, "later");
        let (id, holders) =
            layout.moves().find(|(id, _)| id.table == slipring_ring::TableId(3)).expect("a move");
        let since = holders.since;
        assert!(since < layout.epoch());
        let position = PartitionId(id.partition).start(layout.bits());
        let keys = (0..64_u8).map(|byte| vec![byte]);
        let key = keys.into_iter().find(|key| Position::of(key).partition(1) == position.partition(1));
        let key = bytes::Bytes::from(key.expect("one of 64"));
        let view = view_of(&layout, 1);
        let meet = |epoch| {
            let before = view_of(&settled(3), 1);
            let (_, place) = before.place(BucketId(0), position).expect("it is held");
            let mut entry = WriteEntry {
                machine: WriteCoordinator::new(node(1), place.write_quorums(None)),
                asked: crate::requests::Asked::new(),
                bucket: BucketId(0),
                key: key.clone(),
                cell: bytes::Bytes::new(),
                write_acks: None,
                epoch,
                overwrite: None,
                answer: None,
            };
            let mut effects = Vec::new();
            regroup(&view, &mut entry, &mut effects);
            (effects, entry.epoch)
        };
        let sent = vec![WriteEffect::Send { to: node(4) }];
        assert_eq!(meet(since - 1), (sent, layout.epoch()));
        assert_eq!(meet(since), (vec![], layout.epoch()), "it was begun under this move");
        assert_eq!(meet(layout.epoch() + 1), (vec![], layout.epoch() + 1), "it knows more than the view");
    }
}
