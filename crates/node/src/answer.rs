//! Requests of peers: what a replica does for a coordinator, and a node for its cluster.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slipring_consensus::AnswerError;
use slipring_model::{BucketId, Error, ErrorKind, Mutant, NodeId, PartitionId, Position, limits};
use slipring_ring::NodeState;
use slipring_wire::{Reply, Request};

use crate::bucket::Refusal;
use crate::budget::Class;
use crate::core::Core;
use crate::failure::{failed, unavailable};
use crate::later_start::Shown;
use crate::requests::{ReplyTo, Work};
use crate::sync::Waiter;
use crate::view::{BucketView, View};

impl Core {
    /// Answers one request of a peer, inline when it is short.
    pub(crate) fn serve(self: &Arc<Self>, from: NodeId, id: u64, request: Request) {
        if needs_copies(&request)
            && let Err(error) = self.check_may_serve()
        {
            return self.answer(from, id, failed(error));
        }
        if let Some(epoch) = self.must_hear_of(&request) {
            return self.serve_when_adopted(from, id, request, epoch);
        }
        if is_of_a_client(&request) {
            self.budget.serves();
        }
        let is_overwrite = matches!(request, Request::Overwrite { .. });
        let reply = match request {
            Request::Store { bucket, epoch, key, cell } | Request::Overwrite { bucket, epoch, key, cell } => {
                match self.store((from, id, is_overwrite), bucket, epoch, &key, &cell) {
                    Ok(()) => return,
                    Err(refusal) => {
                        self.rooms.refused();
                        self.refusal(refusal)
                    }
                }
            }
            Request::Fetch { bucket, epoch, key } => {
                self.with_cell(bucket, epoch, &key, |bucket, position| {
                    bucket.bucket.cell(position, &key).map(Reply::Cell)
                })
            }
            Request::Digest { bucket, epoch, key } => {
                self.with_cell(bucket, epoch, &key, |bucket, position| {
                    bucket.bucket.digest(position, &key).map(Reply::Digest)
                })
            }
            Request::Execute { bucket, read_acks, write_acks, deadline_ms, request, .. } => {
                let wish = |acks: u8| (acks != 0).then_some(acks);
                let timeout =
                    Duration::from_millis(u64::from(deadline_ms)).min(self.settings.request_timeout());
                let reply_to = ReplyTo::Peer { node: from, id };
                let work = self.work(bucket, request, (wish(read_acks), wish(write_acks)), timeout, reply_to);
                match work {
                    Ok(work) => return self.submit(Work { is_forwarded: true, ..work }),
                    Err((_, error)) => Err(error),
                }
            }
            Request::Scan { bucket, from, to, limit } => self.scan_here(bucket, from, to, limit as usize),
            Request::Count { bucket, partitions } => {
                self.count_here((bucket, Counted::Keys), None, &partitions).map(Reply::Count)
            }
            Request::CountOfCut { bucket, bits, partitions } => {
                self.count_here((bucket, Counted::Keys), Some(bits), &partitions).map(Reply::Count)
            }
            Request::CountEnding { bucket, bits, partitions } => {
                self.count_here((bucket, Counted::Ending), Some(bits), &partitions).map(Reply::Count)
            }
            Request::Moves => Ok(self.moving.taken_over()),
            Request::Clock => Ok(Reply::Clock { wall_us: self.clock.wall_us() }),
            Request::Members => self.members_here(),
            Request::LaterStart { storage, incarnation, boot, signature } => {
                self.look_at_start(&Shown { storage, incarnation, boot, signature });
                Ok(Reply::Done)
            }
            Request::Room { disk, memory } => return self.heard_room(from, disk, memory),
            Request::Goodbye => {
                tracing::info!(peer = %from.short(), "a peer says goodbye; it stays a member");
                Ok(Reply::Done)
            }
            slow => return self.serve_later(from, id, slow),
        };
        self.answer(from, id, reply.unwrap_or_else(failed));
    }

    /// Answers what takes longer than a reading task may, or is background work.
    fn serve_later(self: &Arc<Self>, from: NodeId, id: u64, request: Request) {
        let core = Arc::clone(self);
        tokio::spawn(async move {
            let reply = match request {
                Request::Layout(bytes) => core.answer_group(from, bytes).await,
                Request::Roots { bucket, roots } => core.compare_roots(bucket, None, &roots).await,
                Request::RootsOfCut { bucket, bits, roots } => {
                    core.compare_roots(bucket, Some(bits), &roots).await
                }
                Request::Digests { bucket, from, to, entries } => {
                    core.in_its_turn(|| core.compare_page(bucket, from, to, entries)).await
                }
                Request::Pull { bucket, epoch, from, to, entries } => {
                    core.in_its_turn(|| core.hand_over(bucket, epoch, (from, to), entries)).await
                }
                Request::Status => Ok(Reply::Status(core.status_here_json())),
                Request::Clear { bucket, from, to } => core
                    .clear_here(bucket, from, to)
                    .await
                    .map(|(count, next)| Reply::Cleared { count, next }),
                Request::MergeCleared { bucket, epoch, from, to, cells } => {
                    core.merge_cleared((bucket, epoch), (from, to), cells).await
                }
                _ => Err(Error::new(ErrorKind::Internal, "a short request was put off")),
            };
            core.answer(from, id, reply.unwrap_or_else(failed));
        });
    }

    /// Does a piece of background work for a peer, unless its turn comes when nobody waits any more.
    async fn in_its_turn(&self, piece: impl FnOnce() -> Result<Reply, Error>) -> Result<Reply, Error> {
        match tokio::time::timeout(self.settings.request_timeout() * 4, self.budget.run(Class::Asked, piece))
            .await
        {
            Ok(reply) => reply,
            Err(_late) => Err(unavailable("other background work came first; ask again")),
        }
    }

    async fn answer_group(&self, from: NodeId, bytes: Bytes) -> Result<Reply, Error> {
        let group =
            self.group.get().ok_or_else(|| unavailable("the layout group has not started here yet"))?;
        match group.answer(bytes).await {
            Ok(answer) => Ok(Reply::Layout(answer)),
            Err(AnswerError::LeftBehind | AnswerError::Apart { .. }) if self.is_given_up(from) => {
                Ok(Reply::Removed)
            }
            Err(AnswerError::KnewLess) if !self.is_given_up(from) => {
                self.give_up(AnswerError::KnewLess.to_string());
                Err(unavailable(AnswerError::KnewLess.to_string()))
            }
            Err(AnswerError::Apart { goes_on }) => Err(unavailable(self.met_another_recovery(from, goes_on))),
            Err(error) => Err(unavailable(error.to_string())),
        }
    }

    /// Answers a word of the layout group from a node that is no member. Nothing comes of it here; but if the group was
    /// recovered without that node, it is told so.
    pub(crate) fn answer_stranger(self: &Arc<Self>, from: NodeId, id: u64, words: &[u8]) {
        let verdict = self.group.get().map(|group| group.judge(words));
        let is_left_behind =
            matches!(verdict, Some(Err(AnswerError::LeftBehind | AnswerError::Apart { .. })));
        if is_left_behind && self.is_given_up(from) {
            return self.answer(from, id, Reply::Removed);
        }
        if matches!(verdict, Some(Err(AnswerError::NotYet))) {
            self.hearsay.warn_of_recovered(from);
        }
        self.look_for_newer_members();
        self.answer(from, id, failed(self.no_member(from)));
    }

    /// Why a peer is not answered.
    pub(crate) fn no_member(&self, peer: NodeId) -> Error {
        let peer = peer.short();
        unavailable(match self.view() {
            Some(view) => {
                let epoch = view.epoch();
                format!("node {peer} may not ask for that by the layout of epoch {epoch}; try again later")
            }
            None => "this node has not joined its cluster yet; try again later".to_owned(),
        })
    }

    /// The group was recovered twice, apart from each other, and a peer is of the other one: all members of one of
    /// the two stop, before both go on to give the same numbers to different things.
    fn met_another_recovery(&self, peer: NodeId, goes_on: bool) -> String {
        let peer = peer.short();
        if !goes_on {
            self.give_up(format!(
                "`slipring recover` was used twice, apart from each other, and only one of the two clusters may go on: \
                 to keep that of node {peer}, remove this data directory and join it anew; to keep this one, stop the \
                 nodes of the other and start this one again"
            ));
        }
        format!("the layout group was recovered apart from the one of node {peer}")
    }

    /// Whether the cluster goes on without a node.
    fn is_given_up(&self, node: NodeId) -> bool {
        self.view().is_some_and(|view| {
            let entry = view.layout.nodes().get(&node);
            entry.is_none_or(|entry| entry.role.state == NodeState::Lost)
        })
    }

    /// A client request as work, its key and access told by its bucket's service.
    pub(crate) fn work(
        &self,
        bucket: BucketId,
        request: Bytes,
        acks: (Option<u8>, Option<u8>),
        timeout: Duration,
        reply_to: ReplyTo,
    ) -> Result<Work, (ReplyTo, Error)> {
        let described = self.known_bucket(bucket).and_then(|(view, bucket)| {
            let view = view.bucket(bucket).ok_or_else(no_bucket)?;
            self.handler(view)?.describe(&request)
        });
        let (key, access) = match described {
            Ok(described) => described,
            Err(error) => return Err((reply_to, error)),
        };
        Ok(Work {
            bucket,
            position: Position::of(&key),
            key,
            access,
            request,
            read_acks: acks.0,
            write_acks: acks.1,
            began: self.now(),
            deadline: self.now().after(timeout),
            is_forwarded: false,
            reply_to,
            held: self.clients.memory.held(),
            is_overloaded: false,
        })
    }

    fn known_bucket(&self, bucket: BucketId) -> Result<(Arc<View>, BucketId), Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        Ok((view, bucket))
    }

    fn store(
        &self,
        (from, id, is_overwrite): (NodeId, u64, bool),
        bucket: BucketId,
        epoch: u64,
        key: &Bytes,
        cell: &Bytes,
    ) -> Result<(), Refusal> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let position = Position::of(key);
        let (bucket, place) = view.place(bucket, position).ok_or_else(no_bucket)?;
        if place.mine.is_none() {
            return Err(Refusal::Stale);
        }
        if key.len() > limits::KEY_BYTES_MAX {
            return Err(Error::new(ErrorKind::Invalid, "the key is longer than 4096 bytes").into());
        }
        if !Mutant::AckBeforeStored.is_planted() {
            let winning = bucket.bucket.merge_and_look(position, key, cell, epoch)?;
            self.syncer.mark_dirty();
            if let Some(cell) = winning.filter(|_| is_overwrite && !Mutant::IgnoreOvertaken.is_planted()) {
                self.answer(from, id, Reply::Overtaken { cell });
                return Ok(());
            }
        }
        self.persist(bucket, Waiter::Peer { node: from, id });
        Ok(())
    }

    fn refusal(&self, refusal: Refusal) -> Result<Reply, Error> {
        match refusal {
            Refusal::Stale => {
                Ok(Reply::Stale { epoch: self.view().map_or(0, |view| view.epoch_to_wait_for()) })
            }
            Refusal::Failed(error) => Err(error),
        }
    }

    /// Reads a cell; what was read counts only when the partition is then still the one that was asked for.
    fn with_cell(
        &self,
        bucket: BucketId,
        epoch: u64,
        key: &Bytes,
        read: impl FnOnce(&BucketView, Position) -> Result<Reply, Error>,
    ) -> Result<Reply, Error> {
        let position = Position::of(key);
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let (bucket_view, place) = view.place(bucket, position).ok_or_else(no_bucket)?;
        if place.mine.is_none() {
            return self.refusal(Refusal::Stale);
        }
        let partition = position.partition(view.bits);
        if bucket_view.bucket.is_closed(partition) {
            return Err(unavailable("the partition is being emptied of an earlier copy; try again"));
        }
        let reply = read(bucket_view, position)?;
        let is_stale = self
            .view
            .load()
            .as_ref()
            .and_then(|view| view.place(bucket, position))
            .is_none_or(|(_, place)| epoch < place.since && !Mutant::IgnoreFence.is_planted());
        if is_stale { self.refusal(Refusal::Stale) } else { Ok(reply) }
    }

    fn scan_here(
        &self,
        bucket: BucketId,
        from: Position,
        to: Position,
        limit: usize,
    ) -> Result<Reply, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let (bucket, place) = view.place(bucket, from).ok_or_else(no_bucket)?;
        if !place.is_held_by(self.me) {
            return Err(unavailable("this node does not hold the whole partition; ask another replica"));
        }
        let limit = limit.clamp(1, limits::PAGE_RECORDS_MAX);
        let (end, behind) = within_partition(from, to, view.bits);
        let (keys, next) = bucket.bucket.keys(from..=end, limit, self.agreed_ms())?;
        Ok(Reply::Keys { keys, next: next.or(behind) })
    }

    /// How many keys some partitions hold here, of `1 << bits`; of as many as the cluster was founded with when
    /// that is not told.
    pub(crate) fn count_here(
        &self,
        (bucket, counted): (BucketId, Counted),
        bits: Option<u8>,
        partitions: &[u16],
    ) -> Result<u64, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let bucket = view.bucket(bucket).ok_or_else(no_bucket)?;
        let bits = bits.unwrap_or(view.layout.bits_founded());
        if !(1..=limits::PARTITION_BITS_MAX).contains(&bits) {
            return Err(Error::new(ErrorKind::Invalid, "the ring cannot be cut into so many partitions"));
        }
        if partitions.len() > 1 << bits {
            return Err(Error::new(ErrorKind::Invalid, "there are not so many partitions to count"));
        }
        let known = || partitions.iter().filter(|partition| u32::from(**partition) < 1 << bits);
        if known().any(|partition| !bucket.bucket.counts(PartitionId(*partition), bits)) {
            return Err(unavailable(STILL_COUNTING));
        }
        let now_ms = self.agreed_ms();
        let count = |partition: &u16| match counted {
            Counted::Keys => bucket.bucket.live(PartitionId(*partition), bits, now_ms),
            Counted::Ending => bucket.bucket.ending(PartitionId(*partition), bits, now_ms),
        };
        Ok(known().map(count).sum())
    }
}

/// How far a range lies in the partition it begins in, and where the rest of it begins. Who has not heard of a split
/// asks for more than a partition, and this node need not hold the rest.
pub(crate) fn within_partition(from: Position, to: Position, bits: u8) -> (Position, Option<Position>) {
    let end = from.partition(bits).end(bits).min(to);
    (end, (end < to).then(|| Position(end.0 + 1)))
}

/// Which keys are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// All with a value.
    Keys,
    /// Those whose values will expire.
    Ending,
}

/// Why a count is not told.
pub(crate) const STILL_COUNTING: &str = "a replica still counts its keys after its start; try again";

pub(crate) fn no_bucket() -> Error {
    Error::new(ErrorKind::Unavailable, "this node does not know that bucket yet")
}

/// Whether a client may be waiting for the answer.
fn is_of_a_client(request: &Request) -> bool {
    matches!(
        request,
        Request::Store { .. } | Request::Overwrite { .. } | Request::Fetch { .. } | Request::Digest { .. }
    )
}

/// Whether a request is answered from this node's copies of data.
fn needs_copies(request: &Request) -> bool {
    match request {
        Request::Store { .. }
        | Request::Overwrite { .. }
        | Request::Fetch { .. }
        | Request::Digest { .. }
        | Request::Execute { .. }
        | Request::Scan { .. }
        | Request::Count { .. }
        | Request::CountOfCut { .. }
        | Request::CountEnding { .. }
        | Request::Clear { .. }
        | Request::MergeCleared { .. }
        | Request::Roots { .. }
        | Request::RootsOfCut { .. }
        | Request::Digests { .. }
        | Request::Pull { .. } => true,
        Request::Layout(_)
        | Request::Join(_)
        | Request::Introduce(_)
        | Request::Status
        | Request::Goodbye
        | Request::Clock
        | Request::Moves
        | Request::Members
        | Request::LaterStart { .. }
        | Request::Room { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_with_its_partition_and_the_rest_is_asked_for_anew() {
        let half = 1 << 63;
        let within = |from, to, bits| {
            let (end, rest) = within_partition(Position(from), Position(to), bits);
            (end.0, rest.map(|position| position.0))
        };
        assert_eq!(within(7, half - 1, 1), (half - 1, None), "both know the same cut");
        assert_eq!(
            within(7, half - 1, 2),
            (half / 2 - 1, Some(half / 2)),
            "the asker does not know of a split"
        );
        assert_eq!(within(7, half / 2 - 1, 1), (half / 2 - 1, None), "this node does not");
        assert_eq!(within(half + 1, u64::MAX, 1), (u64::MAX, None));
    }
}
