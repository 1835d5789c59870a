//! Requests of clients: who coordinates them, and how they run here.
//!
//! Reads run on this node when it is a replica; whatever changes a cell runs on the first healthy replica of
//! its key, so that changes meet in one place while all is well and each has seen those before it.

use std::sync::Arc;

use bytes::Bytes;
use slipring_model::bucket::{EngineKind, OnConflict};
use slipring_model::{BucketPolicy, Error, ErrorKind, Moment, Mutant, NodeId, limits};
use slipring_replication::{
    Quorums, ReadCoordinator, ReadEffect, ReadInput, ReadOutcome, WriteCoordinator, WriteEffect, WriteInput,
    WriteOutcome,
};
use slipring_service::{Access, Cell, Cells};
use slipring_transport::SendError;
use slipring_wire::{Message, Request};
use smallvec::SmallVec;

use crate::bucket::{Executed, Locus, Refusal};
use crate::clients::counted;
use crate::core::Core;
use crate::failure::{damaged, overloaded, too_few, unacknowledged, unavailable, unreachable, unsent};
use crate::handler::Handler;
use crate::heal::is_damage;
use crate::requests::{Asked, Entry, Overwrite, ReplyTo, Timer, Work, WriteEntry, note_asked};
use crate::sync::Waiter;
use crate::view::{BucketView, Place, View};

/// The part of a forwarded request's time that is left for the answer's way back.
const ANSWER_SHARE: u32 = 10;

impl Core {
    /// Takes a request on; its answer goes to `work.reply_to`, now or later.
    pub(crate) fn submit(&self, work: Work) {
        self.submit_avoiding(work, SmallVec::new(), None);
    }

    /// Takes a request to a replica that has not been tried yet; `refusal` is why the last one did nothing.
    pub(crate) fn submit_avoiding(&self, work: Work, tried: SmallVec<[NodeId; 3]>, refusal: Option<Error>) {
        self.budget.serves();
        let Some(view) = self.view() else {
            return self.reply(work.reply_to, Err(unavailable("this node has not joined its cluster yet")));
        };
        let Some((bucket, place)) = view.place(work.bucket, work.position) else {
            let error = Error::new(ErrorKind::Invalid, "there is no such bucket; create it first");
            return self.reply(work.reply_to, Err(error));
        };
        if self.requests.is_full() {
            let error =
                Error::new(ErrorKind::Overloaded, "too many requests are under way on this node; back off");
            return self.reply(work.reply_to, Err(error));
        }
        match self.coordinator(place, &work, (bucket.bucket.policy.engine, &tried)) {
            Some(node) if node == self.me => self.coordinate(&view, bucket, place, work),
            Some(node) => self.forward(work, node, tried, view.epoch()),
            None => {
                let refusal = refusal.or_else(|| self.check_no_rival().err());
                let error = refusal.unwrap_or_else(|| unavailable("no replica of the key can be reached"));
                self.reply(work.reply_to, Err(error));
            }
        }
    }

    fn coordinator(
        &self,
        place: &Place,
        work: &Work,
        (engine, tried): (EngineKind, &[NodeId]),
    ) -> Option<NodeId> {
        let may_serve = self.may_serve();
        let is_free = work.is_forwarded || work.access == Access::Read;
        if place.is_held_by(self.me) && may_serve && is_free && !tried.contains(&self.me) {
            return Some(self.me);
        }
        let is_up = |node: NodeId| if node == self.me { may_serve } else { self.is_reachable(node) };
        let usable = |node: &NodeId| is_up(*node) && !tried.contains(node);
        let best = place.members().find(|node| usable(node) && !self.is_doubtful(*node));
        let has_room = |node: &NodeId| work.access == Access::Read || self.has_room(*node, engine);
        let roomy = place.members().find(|node| usable(node) && !self.is_doubtful(*node) && has_room(node));
        roomy
            .or(best)
            .or_else(|| place.members().find(usable))
            .filter(|node| *node == self.me || !work.is_forwarded)
    }

    fn forward(&self, work: Work, to: NodeId, mut tried: SmallVec<[NodeId; 3]>, epoch: u64) {
        tried.push(to);
        let left = work.deadline.since(self.now());
        // The coordinator knows best what came of the request: it is to give up before this node does.
        let left = left - left / ANSWER_SHARE;
        let request = Request::Execute {
            bucket: work.bucket,
            epoch,
            read_acks: work.read_acks.unwrap_or(0),
            write_acks: work.write_acks.unwrap_or(0),
            deadline_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            request: work.request.clone(),
        };
        let deadline = work.deadline;
        let id = self.requests.insert(Entry::Forward { work, to, tried });
        self.requests.arm(deadline, id, Timer::Deadline);
        self.metrics.forwarded.inc();
        if let Err(refusal) = self.queue(to, Message::Request { id, request })
            && let Some(Entry::Forward { work, tried, .. }) = self.requests.remove(id)
        {
            self.submit_avoiding(work, tried, unsent(refusal));
        }
    }

    /// A forwarded request's peer was lost, or its time is up.
    pub(crate) fn forward_failed(&self, work: Work, tried: SmallVec<[NodeId; 3]>, is_late: bool) {
        match work.access {
            Access::Read if !is_late => self.submit_avoiding(work, tried, None),
            Access::Read => self.reply(work.reply_to, Err(unavailable("no replica answered in time"))),
            _ if Mutant::RetryUnknownWrite.is_planted() && !is_late => {
                self.submit_avoiding(work, tried, None)
            }
            Access::BlindWrite | Access::ReadModifyWrite => {
                let message = "the node that coordinated the write did not answer; it may have happened";
                self.reply(work.reply_to, Err(Error::new(ErrorKind::OutcomeUnknown, message)));
            }
        }
    }

    fn coordinate(&self, view: &View, bucket: &BucketView, place: &Place, work: Work) {
        let reads = place.read_quorums(work.read_acks);
        let writes = place.write_quorums(work.write_acks);
        let needed = match work.access {
            Access::Read => [Some(&reads), None],
            Access::BlindWrite => [None, Some(&writes)],
            Access::ReadModifyWrite => [Some(&reads), Some(&writes)],
        };
        let is_up = |node| self.is_reachable(node);
        if let Some(lacking) = needed.into_iter().flatten().find(|quorums| !quorums.is_met(is_up)) {
            return self.reply(work.reply_to, Err(unreachable(lacking.shortfall(is_up))));
        }
        // Known before anything happens here; a node that is overloaded later leaves a write unknown.
        if let Some(lacking) = needed
            .into_iter()
            .flatten()
            .find(|quorums| !quorums.is_met(|node| is_up(node) && self.takes_more(node)))
        {
            let shortfall = lacking.shortfall(|node| is_up(node) && self.takes_more(node));
            return self.reply(work.reply_to, Err(overloaded(shortfall)));
        }
        let is_enough_alone = reads.is_met(|node| node == self.me);
        if work.access == Access::BlindWrite || is_enough_alone && work.access == Access::ReadModifyWrite {
            return self.write(view, bucket, place, work);
        }
        self.read(view, bucket, place, work, (reads, is_enough_alone));
    }

    fn read(
        &self,
        view: &View,
        bucket: &BucketView,
        place: &Place,
        mut work: Work,
        (needed, is_enough_alone): (Quorums, bool),
    ) {
        if !place.is_held_by(self.me) && bucket.bucket.is_closed(work.position.partition(view.bits)) {
            return self
                .pass_on(work, &unavailable("this node is being emptied of an earlier copy of the key"));
        }
        let own = bucket.bucket.cell(work.position, &work.key).and_then(|own| {
            let digest = own.as_deref().map(|bytes| Cell::decode(bytes).map(|cell| cell.digest()));
            Ok((own, digest.transpose().map_err(damaged)?))
        });
        let (own, digest) = match own {
            Ok(own) => own,
            Err(error) if is_damage(&error) => return self.pass_on(work, &error),
            Err(error) => return self.reply(work.reply_to, Err(error)),
        };
        if is_enough_alone && !self.still_holds(view, &work) {
            return self.submit_again(work, view.epoch());
        }
        if is_enough_alone {
            let response = self.execute_on_snapshot(bucket, &work, own.as_deref());
            return self.reply(work.reply_to, response);
        }
        if !work.held.try_set(counted(own.as_ref().map_or(0, Bytes::len))) {
            return self.reply(work.reply_to, Err(self.clients.memory.refusal()));
        }
        let mut others: SmallVec<[NodeId; 3]> = place.others(self.me).collect();
        others.sort_by_key(|node| !self.is_reachable(*node));
        let machine = Box::new(ReadCoordinator::new(self.me, needed, own.zip(digest), others));
        let deadline = work.deadline;
        let id =
            self.requests.insert(Entry::Read { machine, work, epoch: view.epoch(), asked: Asked::new() });
        self.requests.arm(deadline, id, Timer::Deadline);
        self.requests.arm(self.now().after(self.settings.hedge()), id, Timer::Hedge);
        self.drive_read(id, ReadInput::Started);
    }

    /// Hands one input to a read under way and does what it asks for.
    pub(crate) fn drive_read(&self, id: u64, input: ReadInput) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            let handled = self.requests.with(id, |entry| {
                let Entry::Read { machine, work, epoch, asked } = entry else { return (None, false) };
                machine.handle(input, &mut effects);
                note_asked(asked, effects.iter().filter_map(ReadEffect::asks));
                let is_over = matches!(effects.last(), Some(ReadEffect::Settle(_)));
                (Some((work.bucket, work.key.clone(), work.position, *epoch)), is_over)
            });
            let Some((Some((bucket, key, position, epoch)), settled)) = handled else { return };
            let Some(view) = self.view() else { return };
            let mut settled = settled;
            for effect in effects {
                let (to, request) = match effect {
                    ReadEffect::Digest { to } => (to, Request::Digest { bucket, epoch, key: key.clone() }),
                    ReadEffect::Fetch { to } => (to, Request::Fetch { bucket, epoch, key: key.clone() }),
                    ReadEffect::Repair { to, cell } => {
                        self.metrics.read_repairs.inc();
                        (to, Request::Store { bucket, epoch, key: key.clone(), cell })
                    }
                    ReadEffect::RepairHere { cell } => {
                        self.metrics.read_repairs.inc();
                        let repaired = self.repair_here(&view, bucket, position, &key, (&cell, epoch));
                        // Fewer replicas than were asked would hold what is answered.
                        if let Err(refusal) = repaired
                            && !Mutant::DecideOnStaleCopy.is_planted()
                            && let Some(Entry::Read { work, .. }) =
                                settled.take().or_else(|| self.requests.remove(id))
                        {
                            return match refusal {
                                Refusal::Stale => self.submit_again(work, view.epoch_to_wait_for()),
                                Refusal::Failed(error) => self.pass_on(work, &error),
                            };
                        }
                        continue;
                    }
                    ReadEffect::Settle(outcome) => {
                        if let Some(Entry::Read { work, .. }) = settled.take() {
                            self.settle_read(work, outcome, epoch);
                        }
                        continue;
                    }
                };
                if let Err(refusal) = self.queue(to, Message::Request { id, request }) {
                    self.requests.note_overload(id, refusal == SendError::Overloaded);
                    inputs.push(ReadInput::Failed { from: to });
                }
            }
        }
    }

    fn repair_here(
        &self,
        view: &View,
        bucket: slipring_model::BucketId,
        position: slipring_model::Position,
        key: &Bytes,
        (cell, epoch): (&Bytes, u64),
    ) -> Result<(), Refusal> {
        let Some(bucket) = view.bucket(bucket) else { return Ok(()) };
        let merged = bucket.bucket.merge(position, key, cell, epoch);
        if let Err(Refusal::Failed(error)) = &merged {
            tracing::warn!(%error, "a read repair could not be stored here");
        }
        self.syncer.mark_dirty();
        merged
    }

    /// `epoch` is the layout the read was made under.
    fn settle_read(&self, work: Work, outcome: ReadOutcome, epoch: u64) {
        let Some(view) = self.view() else { return };
        let Some((bucket, place)) = view.place(work.bucket, work.position) else {
            return self.reply(work.reply_to, Err(unavailable("the bucket was deleted meanwhile")));
        };
        if epoch < place.since && !Mutant::IgnoreFence.is_planted() {
            return self.submit_again(work, view.epoch());
        }
        match (outcome, work.access) {
            (ReadOutcome::TooFew { answered }, _) => {
                let error = if work.is_overloaded { overloaded(answered) } else { too_few(answered) };
                self.reply(work.reply_to, Err(error));
            }
            (ReadOutcome::Answered(cell), Access::Read) => {
                let response = self.execute_on_snapshot(bucket, &work, cell.as_deref());
                self.reply(work.reply_to, response);
            }
            (ReadOutcome::Answered(_), _) => self.write(&view, bucket, place, work),
        }
    }

    fn execute_on_snapshot(
        &self,
        bucket: &BucketView,
        work: &Work,
        cell: Option<&[u8]>,
    ) -> Result<Bytes, Error> {
        let cell = cell.map(Cell::decode).transpose().map_err(damaged)?.unwrap_or_default();
        let context = self.context(&bucket.bucket.policy);
        let mut cells = Cells::new(&cell, context.now_ms);
        self.handler(bucket)?.execute(&context, work.request.clone(), &mut cells)
    }

    fn write(&self, view: &View, bucket: &BucketView, place: &Place, work: Work) {
        let Some(assignment) = place.mine else {
            return self.reply(work.reply_to, Err(unavailable("this node holds no copy of the key")));
        };
        let policy = &bucket.bucket.policy;
        let locus = Locus {
            position: work.position,
            key: &work.key,
            actor: self.actor(assignment),
            is_alone: place.alone().is_some(),
            others: self.room_of_others(policy.engine, &place.write_quorums(work.write_acks)),
            wall_ms: self.clock.wall_ms(),
        };
        let executed = self.handler(bucket).map_err(Refusal::Failed).and_then(|handler| {
            let request = work.request.clone();
            bucket.bucket.execute(&locus, self.context(policy), view.epoch(), |context, cells| {
                let response = handler.execute(context, request, cells)?;
                self.unless_clocks_differ(cells, response)
            })
        });
        let parts = |executed: Executed<_>| {
            let Executed { response, cell, is_changed, overwrite } = executed;
            (response, is_changed, (cell, overwrite))
        };
        match executed.map(parts) {
            Err(Refusal::Stale) => self.submit_again(work, view.epoch_to_wait_for()),
            // The record is damaged here, or this disk takes no more.
            Err(Refusal::Failed(error)) if is_damage(&error) || error.kind == ErrorKind::Unavailable => {
                self.pass_on(work, &error);
            }
            Err(Refusal::Failed(error)) if error.kind == ErrorKind::Overloaded => {
                self.rooms.refused();
                self.metrics.room.writes_refused.inc();
                match self.another_has_room(place, policy.engine) {
                    true => self.pass_on(work, &error),
                    false => self.reply(work.reply_to, Err(error)),
                }
            }
            Err(Refusal::Failed(error)) | Ok((Err(error), ..)) => self.reply(work.reply_to, Err(error)),
            Ok((Ok(response), false, _)) => self.reply(work.reply_to, Ok(response)),
            Ok((Ok(response), true, (cell, overwrite))) => {
                let quorums = place.write_quorums(work.write_acks);
                let overwrite = overwrite.filter(|_| is_ordered(&work, policy, &quorums));
                // Alone, nobody needs it; but the partition may begin to move before the disk has it.
                let cell = cell.or_else(|| bucket.bucket.cell(work.position, &work.key).ok().flatten());
                let entry = WriteEntry {
                    machine: WriteCoordinator::new(self.me, quorums),
                    asked: Asked::new(),
                    bucket: work.bucket,
                    key: work.key,
                    cell: cell.unwrap_or_default(),
                    write_acks: work.write_acks,
                    epoch: view.epoch(),
                    overwrite: overwrite.map(|dot| Overwrite {
                        dot,
                        request: work.request,
                        deadline: work.deadline,
                        runs: 1,
                    }),
                    answer: Some((work.reply_to, response)),
                };
                self.launch(bucket, Box::new(entry), work.deadline);
            }
        }
    }

    /// Sends a write that is applied here on its way.
    pub(crate) fn launch(&self, bucket: &BucketView, entry: Box<WriteEntry>, deadline: Moment) {
        self.syncer.mark_dirty();
        let id = self.requests.insert(Entry::Write(entry));
        self.requests.arm(deadline, id, Timer::Deadline);
        self.drive_write(id, WriteInput::Started);
        self.persist(bucket, Waiter::Write(id));
    }

    /// Tells `waiter` once what was applied is as durable as the bucket promises.
    pub(crate) fn persist(&self, bucket: &BucketView, waiter: Waiter) {
        let waits = bucket.bucket.policy.durability == slipring_model::bucket::Durability::Fsync;
        if waits && !Mutant::AckBeforeSync.is_planted() {
            self.syncer.wait(waiter);
        } else {
            self.persisted(waiter);
        }
    }

    /// Hands one input to a write under way and does what it asks for.
    pub(crate) fn drive_write(&self, id: u64, input: WriteInput) {
        self.with_write(id, |entry, effects| entry.machine.handle(input, effects));
    }

    /// Does something to a write under way, and what its machine asks for then.
    pub(crate) fn with_write(&self, id: u64, change: impl FnOnce(&mut WriteEntry, &mut Vec<WriteEffect>)) {
        let mut effects = Vec::new();
        let handled = self.requests.with(id, |entry| {
            let Entry::Write(write) = entry else { return (None, false) };
            change(write, &mut effects);
            note_asked(&mut write.asked, effects.iter().filter_map(WriteEffect::asks));
            let is_over = matches!(effects.last(), Some(WriteEffect::Finish | WriteEffect::Repeat));
            let settles = effects.iter().any(|effect| matches!(effect, WriteEffect::Settle(_)));
            let answer = if settles { write.answer.take() } else { None };
            // Once the client has its answer, order is settled.
            let is_overwrite = write.overwrite.is_some() && !write.machine.is_settled();
            let sent = (write.bucket, write.key.clone(), write.cell.clone(), write.epoch);
            (Some((sent, answer, is_overwrite)), is_over)
        });
        let Some((Some(((bucket, key, cell, epoch), mut answer, is_overwrite)), removed)) = handled else {
            return;
        };
        let mut removed = removed;
        let mut failed: SmallVec<[NodeId; 3]> = SmallVec::new();
        for effect in effects {
            match effect {
                WriteEffect::Send { to } => {
                    let (key, cell) = (key.clone(), cell.clone());
                    let request = match is_overwrite {
                        true => Request::Overwrite { bucket, epoch, key, cell },
                        false => Request::Store { bucket, epoch, key, cell },
                    };
                    if !self.send(to, Message::Request { id, request }) {
                        failed.push(to);
                    }
                }
                WriteEffect::StoreHint { intended } => self.store_hint(intended, bucket, &key),
                WriteEffect::Settle(outcome) => {
                    if let Some((reply_to, response)) = answer.take() {
                        self.reply(reply_to, settled(outcome, response));
                    }
                }
                WriteEffect::Remind => {
                    self.requests.arm(self.now().after(self.settings.hedge()), id, Timer::Hedge);
                }
                WriteEffect::Repeat => {
                    if let Some(Entry::Write(entry)) = removed.take() {
                        self.repeat(entry);
                    }
                }
                WriteEffect::Finish => {}
            }
        }
        failed.into_iter().rev().for_each(|from| self.drive_write(id, WriteInput::Failed { from }));
    }

    /// Answers a client, here or through the peer that forwarded its request.
    pub(crate) fn reply(&self, to: ReplyTo, result: Result<Bytes, Error>) {
        if let Err(error) = &result {
            self.metrics.count_error(error.kind);
        }
        match to {
            ReplyTo::Client(asker) => asker.answer(result, &self.clients.memory),
            ReplyTo::Peer { node, id } => {
                let reply = match result {
                    Ok(response) => slipring_wire::Reply::Executed(response),
                    Err(error) => crate::failure::failed(error),
                };
                self.answer(node, id, reply);
            }
        }
    }

    pub(crate) fn handler(&self, bucket: &BucketView) -> Result<&Arc<dyn Handler>, Error> {
        self.handlers.get(bucket.bucket.policy.service.as_str()).ok_or_else(|| {
            let message = format!("this node does not run the service \"{}\"", bucket.bucket.policy.service);
            Error::new(ErrorKind::Invalid, message)
        })
    }

    /// Whether this node runs a service, so that a bucket of it can be made here.
    pub(crate) fn check_runs(&self, service: &str) -> Result<(), Error> {
        if self.handlers.contains_key(service) {
            return Ok(());
        }
        let shown: String = service.chars().take(limits::BUCKET_NAME_BYTES_MAX).collect();
        let services: Vec<_> = self.handlers.keys().copied().collect();
        let message = format!(
            "this node does not run the service \"{shown}\"; nothing was made: choose one of {}",
            services.join(", ")
        );
        Err(Error::new(ErrorKind::Invalid, message))
    }
}

/// Whether a write may be run once more so that it wins over every value acknowledged before it. Where any number
/// of acknowledgements is enough, nothing tells of those values; where clients resolve conflicts, none wins.
fn is_ordered(work: &Work, policy: &BucketPolicy, quorums: &Quorums) -> bool {
    work.access == Access::BlindWrite && policy.on_conflict == OnConflict::Latest && quorums.overlap()
}

fn settled(outcome: WriteOutcome, response: Bytes) -> Result<Bytes, Error> {
    match outcome {
        WriteOutcome::Stored => Ok(response),
        WriteOutcome::Unknown { acked } if Mutant::TimeOutIsFailure.is_planted() => {
            Err(unavailable(format!("{acked} acknowledged in time")))
        }
        WriteOutcome::Unknown { acked } => Err(unacknowledged(acked)),
    }
}
