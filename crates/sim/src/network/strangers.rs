//! Hosts that are no members and speak the protocol: they say whatever a node may say, and know what is asked on the wire.
//!
//! An id is proven by its key, so a stranger speaks under its own. It asks for what only members may ask for, answers
//! what others were asked, in time and with their numbers, and says again what it heard the layout group say.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use fastrand::Rng;
use slipring_apps::KV;
use slipring_apps::kv;
use slipring_model::{BucketId, ClusterId, NodeId, Position, Signature};
use slipring_service::Service;
use slipring_wire::{Frame, Hello, Message, Reply, Request};

use super::{Delivery, State};
use crate::journal::Journal;

/// How many of the requests that a host has made lately are known.
const OVERHEARD_MAX: usize = 32;
/// In so many of a hundred steps a stranger says something.
const TALKATIVE: u8 = 30;
/// Requests that one has said nothing to lately are answered in one go.
const ANSWERS_AT_ONCE: usize = 8;

/// Those who speak to one host.
struct Visit {
    until: u64,
    /// Under which ids.
    nodes: Vec<NodeId>,
    /// What the host has asked others.
    asked: VecDeque<u64>,
    /// What it has said to the layout group.
    words: VecDeque<Bytes>,
}

/// All of them.
pub(super) struct Strangers {
    rng: Rng,
    visits: BTreeMap<usize, Visit>,
}

impl Strangers {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed ^ 0x7374_7261_6e67_6572), visits: BTreeMap::new() }
    }

    pub(super) fn visit(&mut self, host: usize, nodes: Vec<NodeId>, until: u64) {
        let (asked, words) = Default::default();
        self.visits.insert(host, Visit { until, nodes, asked, words });
    }

    pub(super) fn leave(&mut self) {
        self.visits.clear();
    }

    /// A frame that a host sends to another one.
    pub(super) fn overhear(&mut self, host: usize, frame: &Bytes) {
        let Some(visit) = self.visits.get_mut(&host) else { return };
        let frame = Frame::decode(frame.clone()).expect("a node's own frame");
        for message in frame.messages {
            let Message::Request { id, request } = message else { continue };
            visit.asked.push_back(id);
            if let Request::Layout(words) = request {
                visit.words.push_back(words);
            }
        }
        visit.asked.drain(..visit.asked.len().saturating_sub(OVERHEARD_MAX));
        visit.words.drain(..visit.words.len().saturating_sub(OVERHEARD_MAX));
    }

    /// Ends visits that are over.
    fn end(&mut self, now: u64) {
        self.visits.retain(|_, visit| visit.until > now);
    }

    /// What a stranger says to a host now.
    fn say(&mut self, host: usize, hello: &Hello) -> Option<(NodeId, Vec<Message>)> {
        let rng = &mut self.rng;
        let visit = self.visits.get_mut(&host)?;
        if rng.u8(..100) >= TALKATIVE {
            return None;
        }
        let from = rng.choice(visit.nodes.iter().copied())?;
        let mut messages = Vec::new();
        let count = visit.asked.len().min(ANSWERS_AT_ONCE);
        for id in visit.asked.drain(..count).chain([0]) {
            messages.push(Message::Reply { id, reply: reply(rng) });
        }
        let words = visit.words.pop_front().unwrap_or_default();
        messages.push(Message::Request { id: rng.u64(..), request: request(rng, hello, words) });
        Some((from, messages))
    }
}

impl State {
    /// Lets strangers connect, say something, and go.
    pub(super) fn hear_strangers(&mut self, now: u64, journal: &Journal) {
        self.strangers.end(now);
        for host in self.strangers.visits.keys().copied().collect::<Vec<_>>() {
            if !self.is_listening(host) {
                continue;
            }
            let Some(life) = self.ports.get(host).and_then(|port| port.life.as_ref()) else { continue };
            let own = life.hello.clone();
            let Some((from, messages)) = self.strangers.say(host, &own) else { continue };
            journal.count("messages of strangers", messages.len() as u64);
            let hello = Hello { node: from, incarnation: 1, boot: 1, ..own };
            let bytes = Frame::new(ClusterId::default(), 0, messages).encode();
            let said =
                [Delivery::Connected(hello), Delivery::Frame { from, bytes }, Delivery::Disconnected(from)];
            self.port(host).deliveries.extend(said);
        }
    }
}

/// A reply of any kind.
fn reply(rng: &mut Rng) -> Reply {
    match rng.u8(..16) {
        0..=3 => Reply::Stored,
        4..=6 => Reply::Digest(None),
        7 => Reply::Cell(None),
        8 => Reply::Executed(Bytes::new()),
        9 => Reply::Stale { epoch: u64::MAX },
        10 => Reply::Removed,
        11 => Reply::RolledBack,
        12 => Reply::Roots(Vec::new()),
        13 => Reply::TakenOver(Vec::new()),
        14 => Reply::Page { cells: Vec::new(), next: None },
        _ => Reply::Done,
    }
}

/// A request of any kind that would do harm.
fn request(rng: &mut Rng, hello: &Hello, words: Bytes) -> Request {
    let (bucket, epoch) = (BucketId(rng.u32(..5)), u64::MAX);
    let key = Bytes::from(format!("register-{}", rng.u8(..8)));
    let (from, to) = (Position(0), Position(u64::MAX));
    match rng.u8(..9) {
        0..=2 => {
            let (value, expiry) = (Bytes::from_static(b"of a stranger"), kv::Expiry::Default);
            let condition = kv::Condition::Always;
            let set = kv::Request::Set { key, value, expiry, condition, returns_previous: false, seen: None };
            let (request, deadline_ms) = (KV.encode_request(&set), 1_000);
            Request::Execute { bucket, epoch: 0, read_acks: 0, write_acks: 0, deadline_ms, request }
        }
        3 => Request::Store { bucket, epoch, key, cell: words },
        4 => Request::Pull { bucket, epoch, from, to, entries: Vec::new() },
        5 => Request::Digests { bucket, from, to, entries: vec![(key, 1)] },
        6 => Request::Goodbye,
        7 => {
            let Hello { storage, incarnation, boot, .. } = hello.clone();
            let signature = Signature::default();
            Request::LaterStart { storage, incarnation: incarnation + 1, boot, signature }
        }
        _ => Request::Layout(words),
    }
}
