//! What this node waits for: requests under way, each with its machine, and the timers that end them.
//!
//! Invariant: an entry is removed exactly once; whoever removes it answers its client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use slipring_model::{BucketId, Dot, Error, ErrorKind, Moment, Mutant, NodeId, Position, limits};
use slipring_replication::{ReadCoordinator, WriteCoordinator};
use slipring_service::Access;
use slipring_wire::Reply;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::clients::{ClientMemory, Held, counted};

const SHARDS: usize = 16;

/// One client request, wherever it was received.
pub(crate) struct Work {
    pub(crate) bucket: BucketId,
    pub(crate) key: Bytes,
    pub(crate) position: Position,
    pub(crate) access: Access,
    pub(crate) request: Bytes,
    pub(crate) read_acks: Option<u8>,
    pub(crate) write_acks: Option<u8>,
    pub(crate) began: Moment,
    pub(crate) deadline: Moment,
    pub(crate) is_forwarded: bool,
    pub(crate) reply_to: ReplyTo,
    /// Memory for what was read for it here.
    pub(crate) held: Held,
    /// Whether a node refused its part because too much is under way there.
    pub(crate) is_overloaded: bool,
}

/// Who waits for the answer.
pub(crate) enum ReplyTo {
    /// A client of this node.
    Client(Asker),
    /// A peer that forwarded its client's request.
    Peer { node: NodeId, id: u64 },
}

/// A client's end of a request.
pub(crate) struct Asker {
    pub(crate) sender: oneshot::Sender<Answer>,
    /// Whether the request changes nothing.
    pub(crate) is_read: bool,
}

/// What a client gets, and the memory held for it.
pub(crate) type Answer = (Result<Bytes, Error>, Held);

impl Asker {
    /// Answers the client, if there is memory for the answer until it is taken.
    pub(crate) fn answer(self, result: Result<Bytes, Error>, memory: &ClientMemory) {
        let mut held = memory.held();
        let bytes = result.as_ref().map_or(0, Bytes::len);
        let result = match held.try_set(counted(bytes)) {
            true => result,
            false if self.is_read => Err(memory.refusal()),
            false => {
                let message = "the request was run, but clients have too many bytes in flight for its answer";
                Err(Error::new(ErrorKind::OutcomeUnknown, message))
            }
        };
        // A client that is gone needs no answer.
        drop(self.sender.send((result, held)));
    }
}
/// The peers that were asked for something.
pub(crate) type Asked = SmallVec<[NodeId; 3]>;

/// A request under way.
pub(crate) enum Entry {
    /// Under the layout `epoch`.
    Read {
        machine: Box<ReadCoordinator>,
        work: Work,
        epoch: u64,
        /// Whose replies count.
        asked: Asked,
    },
    Write(Box<WriteEntry>),
    Forward {
        work: Work,
        to: NodeId,
        tried: SmallVec<[NodeId; 3]>,
    },
    Ask {
        to: NodeId,
        reply: oneshot::Sender<Option<Reply>>,
    },
}

impl Entry {
    /// The peer whose reply this is, if it was asked.
    pub(crate) fn asked(&self, from: NodeId) -> Option<NodeId> {
        let asked = match self {
            Self::Read { asked, .. } => asked.as_slice(),
            Self::Write(write) => write.asked.as_slice(),
            Self::Forward { to, .. } | Self::Ask { to, .. } => std::slice::from_ref(to),
        };
        let trusted = if Mutant::TrustUnaskedReply.is_planted() { asked.first() } else { None };
        asked.iter().find(|node| **node == from).or(trusted).copied()
    }
}

/// Notes peers that are asked now.
pub(crate) fn note_asked(asked: &mut Asked, peers: impl Iterator<Item = NodeId>) {
    for peer in peers {
        if !asked.contains(&peer) {
            asked.push(peer);
        }
    }
}

/// A write whose change is applied here and on its way to the other replicas.
pub(crate) struct WriteEntry {
    pub(crate) machine: WriteCoordinator,
    /// Whose replies count.
    pub(crate) asked: Asked,
    pub(crate) bucket: BucketId,
    pub(crate) key: Bytes,
    pub(crate) cell: Bytes,
    /// The acknowledgements the request itself asks for.
    pub(crate) write_acks: Option<u8>,
    /// The layout whose quorums the machine counts.
    pub(crate) epoch: u64,
    /// How it is run once more, if it must win over every value acknowledged before it.
    pub(crate) overwrite: Option<Overwrite>,
    /// Taken when the client is answered.
    pub(crate) answer: Option<(ReplyTo, Bytes)>,
}

/// A write that replaces all there is and depends on nothing, so that it may be run more than once.
pub(crate) struct Overwrite {
    /// The dot of its last run.
    pub(crate) dot: Dot,
    pub(crate) request: Bytes,
    pub(crate) deadline: Moment,
    /// How often it has been run.
    pub(crate) runs: u8,
}

/// Why a timer was armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A read's answer is late, or that of a replica which could still acknowledge a write.
    Hedge,
    /// The request's time is up.
    Deadline,
}

/// All requests under way.
pub(crate) struct Requests {
    shards: [Mutex<BTreeMap<u64, Entry>>; SHARDS],
    timers: Mutex<BTreeSet<(Moment, u64, Timer)>>,
    last_id: AtomicU64,
    count: AtomicUsize,
}

impl Requests {
    /// Ids begin beyond those of every earlier start: a late reply to a former process must find nobody.
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            timers: Mutex::default(),
            last_id: AtomicU64::new(incarnation << 40),
            count: AtomicUsize::new(0),
        }
    }

    /// How many requests are under way.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether no more requests should be begun.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= limits::REQUESTS_IN_FLIGHT_MAX
    }

    /// Keeps an entry and gives it an id.
    pub(crate) fn insert(&self, entry: Entry) -> u64 {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.shard(id).insert(id, entry);
        id
    }

    /// Removes an entry; `None` when it has been already.
    pub(crate) fn remove(&self, id: u64) -> Option<Entry> {
        let removed = self.shard(id).remove(&id);
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Runs `change` on an entry under its lock; the entry is removed when `change` says so.
    pub(crate) fn with<R>(
        &self,
        id: u64,
        change: impl FnOnce(&mut Entry) -> (R, bool),
    ) -> Option<(R, Option<Entry>)> {
        let mut shard = self.shard(id);
        let (result, is_over) = change(shard.get_mut(&id)?);
        let removed = if is_over { shard.remove(&id) } else { None };
        if removed.is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        Some((result, removed))
    }

    /// Remembers that a node was too busy for its part of a read.
    pub(crate) fn note_overload(&self, id: u64, is_overloaded: bool) {
        if is_overloaded {
            self.with(id, |entry| match entry {
                Entry::Read { work, .. } => (work.is_overloaded = true, false),
                _ => ((), false),
            });
        }
    }

    /// Arms a timer for an entry. A timer of an entry that is gone by then means nothing.
    pub(crate) fn arm(&self, at: Moment, id: u64, timer: Timer) {
        self.timers.lock().insert((at, id, timer));
    }

    /// Takes the timers due by `now`, earliest first.
    pub(crate) fn due(&self, now: Moment) -> Vec<(u64, Timer)> {
        let mut timers = self.timers.lock();
        let later = timers.split_off(&(Moment(now.0 + 1), 0, Timer::Hedge));
        let due = std::mem::replace(&mut *timers, later);
        due.into_iter().map(|(_, id, timer)| (id, timer)).collect()
    }

    /// The ids of all entries, in order.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> =
            self.shards.iter().flat_map(|shard| shard.lock().keys().copied().collect::<Vec<_>>()).collect();
        ids.sort_unstable();
        ids
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.shards.get(id as usize % SHARDS).expect("an index modulo the length is in range").lock()
    }
}

/// The error for a client whose answer was dropped: the node is stopping.
pub(crate) fn dropped() -> Error {
    Error::new(
        ErrorKind::OutcomeUnknown,
        "the node stopped before the request was answered; it may have happened",
    )
}
