//! Writes that must win over every value acknowledged before them, whatever the clocks say.
//!
//! A blind write is stamped on top of what its coordinator holds, which may lack a value with a later stamp. Two write
//! quorums share a replica, so one of those that acknowledge knows of that value, and says so instead; the coordinator
//! merges it and, when no quorum can acknowledge the write as it is, runs the request once more on top of it.
//!
//! A write that read a quorum first has seen all that was acknowledged before it began, so whatever wins over it is
//! concurrent: its order is as good as any, and it is never run again, since what it answered would no longer hold.
//!
//! Invariant: the client is answered only by the last run, and an earlier one can no longer be acknowledged: each has
//! an id of its own.

use bytes::Bytes;
use slipring_model::{Dot, Error, ErrorKind, NodeId, Position, limits};
use slipring_replication::{WriteCoordinator, WriteInput};
use slipring_service::Cell;

use crate::bucket::{Locus, Refusal};
use crate::core::Core;
use crate::failure::damaged;
use crate::requests::{Asked, Entry, WriteEntry};
use crate::view::{BucketView, Place, View};

/// A write as it is to be sent once more.
struct Again {
    cell: Bytes,
    dot: Dot,
    /// What the service answered, if it ran again.
    response: Option<Bytes>,
}

impl Core {
    /// A replica holds a value that wins over a write of this node.
    pub(crate) fn overtaken(&self, id: u64, from: NodeId, cell: &Bytes) {
        let awaited = self.requests.with(id, |entry| match entry {
            Entry::Write(write) if write.overwrite.is_some() && write.machine.awaits(from) => {
                (Some((write.bucket, write.key.clone(), write.epoch)), false)
            }
            _ => (None, false),
        });
        let Some((Some((bucket, key, epoch)), _)) = awaited else {
            self.metrics.replies_late.inc();
            return;
        };
        let view = self.view();
        let bucket = view.as_ref().and_then(|view| view.bucket(bucket));
        let merged = bucket.map(|bucket| bucket.bucket.merge(Position::of(&key), &key, cell, epoch));
        self.syncer.mark_dirty();
        let input = match merged {
            // Where the layout has changed, the write is run once more as soon as this node knows.
            Some(Ok(()) | Err(Refusal::Stale)) => WriteInput::Overtaken { from },
            Some(Err(Refusal::Failed(error))) => {
                tracing::warn!(%error, "a value that a replica holds could not be merged here");
                WriteInput::Failed { from }
            }
            None => WriteInput::Failed { from },
        };
        self.drive_write(id, input);
    }

    /// Runs a write once more whose client has no answer yet.
    pub(crate) fn repeat(&self, mut entry: Box<WriteEntry>) {
        let Some(view) = self.view() else { return };
        let placed = view.place(entry.bucket, Position::of(&entry.key));
        let (Some((bucket, place)), Some(overwrite)) = (placed, entry.overwrite.as_mut()) else {
            return self.give_up_overwrite(entry, "the bucket was deleted meanwhile");
        };
        if overwrite.runs >= limits::WRITE_RUNS_MAX {
            return self.give_up_overwrite(entry, "other writes to the key came first again and again");
        }
        overwrite.runs += 1;
        let dot = overwrite.dot;
        self.metrics.writes_repeated.inc();
        let again = match self.run_again(&view, (bucket, place), &entry, dot) {
            Ok(again) => again,
            Err(Refusal::Stale) => return self.repeat_when_adopted(entry, view.epoch_to_wait_for()),
            Err(Refusal::Failed(error)) => return self.give_up_overwrite(entry, &error.message),
        };
        if let (Some(response), Some((_, answer))) = (again.response, entry.answer.as_mut()) {
            *answer = response;
        }
        entry.machine = WriteCoordinator::new(self.me, place.write_quorums(entry.write_acks));
        (entry.asked, entry.cell, entry.epoch) = (Asked::new(), again.cell, view.epoch());
        let deadline = entry.overwrite.as_mut().map(|overwrite| {
            overwrite.dot = again.dot;
            overwrite.deadline
        });
        self.launch(bucket, entry, deadline.unwrap_or_default());
    }

    /// The cell to send now: this node's own, if no older write can win there, else that after another run.
    fn run_again(
        &self,
        view: &View,
        (bucket, place): (&BucketView, &Place),
        entry: &WriteEntry,
        dot: Dot,
    ) -> Result<Again, Refusal> {
        let as_it_is = |cell| Ok(Again { cell, dot, response: None });
        // What this node holds no more says nothing; the others are asked once more.
        let Some(assignment) = place.mine else { return as_it_is(entry.cell.clone()) };
        let position = Position::of(&entry.key);
        let own = bucket.bucket.cell(position, &entry.key)?.unwrap_or_default();
        if Cell::decode(&own).map_err(damaged)?.is_after(dot) {
            return as_it_is(own);
        }
        let request = entry.overwrite.as_ref().map(|overwrite| overwrite.request.clone()).unwrap_or_default();
        let actor = self.actor(assignment);
        let policy = &bucket.bucket.policy;
        let others = self.room_of_others(policy.engine, &place.write_quorums(entry.write_acks));
        let locus = Locus {
            position,
            key: &entry.key,
            actor,
            is_alone: false,
            others,
            wall_ms: self.clock.wall_ms(),
        };
        let handler = self.handler(bucket)?;
        let context = self.context(policy);
        let executed = bucket.bucket.execute(&locus, context, view.epoch(), |context, cells| {
            let response = handler.execute(context, request, cells)?;
            self.unless_clocks_differ(cells, response)
        })?;
        let response = Some(executed.response?);
        Ok(match (executed.cell, executed.overwrite) {
            (Some(cell), Some(dot)) => Again { cell, dot, response },
            _ => Again { cell: own, dot, response },
        })
    }

    fn repeat_when_adopted(&self, entry: Box<WriteEntry>, epoch: u64) {
        let Some(core) = self.handle.upgrade() else { return };
        tokio::spawn(async move {
            let deadline = entry.overwrite.as_ref().map(|overwrite| overwrite.deadline).unwrap_or_default();
            match core.has_adopted(epoch, deadline).await {
                true => core.repeat(entry),
                false => core.give_up_overwrite(entry, "the layout is changing"),
            }
        });
    }

    /// Some replicas hold the write, but nobody can say that it wins.
    fn give_up_overwrite(&self, entry: Box<WriteEntry>, why: &str) {
        let view = self.view();
        let place = view.as_ref().and_then(|view| view.place(entry.bucket, Position::of(&entry.key)));
        let others = place.map(|(_, place)| place.others(self.me).collect::<Vec<_>>()).unwrap_or_default();
        others.into_iter().for_each(|other| self.store_hint(other, entry.bucket, &entry.key));
        if let Some((reply_to, _)) = entry.answer {
            let message = format!("{why}; the write may have happened");
            self.reply(reply_to, Err(Error::new(ErrorKind::OutcomeUnknown, message)));
        }
    }
}
