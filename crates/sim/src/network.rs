//! The simulated network: one connection per pair of hosts, as TCP would keep it.
//!
//! A connection has two sides, and each learns of its end by itself: a closed one is told soon, a cut one
//! falls silent. While a way is blocked its frames wait, as TCP's do, and arrive late when the silence was
//! short. Every delay is drawn from the seed; time moves when the world says so.
//!
//! Invariant: frames of one connection arrive in order or not at all, and none of an earlier connection. Where
//! a fault wants it, what may be said twice comes once more, late.

mod datagrams;
mod echo;
mod pair;
mod places;
mod strangers;
mod transport;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use slipring_model::{ClusterId, NodeId};
use slipring_transport::Inbox;
use slipring_wire::{Frame, Hello, Message, Reply, Request};
use tokio::sync::oneshot;

use crate::journal::Journal;
use datagrams::{Mailbox, Post};
use pair::Pair;
use places::Places;
use strangers::Strangers;
pub(crate) use transport::SimTransport;

/// A peer not heard of for this long is disconnected, in milliseconds.
const SILENCE_MS: u64 = 2_000;

/// How long a sender waits for the receipt of a packet before it sends it again, in milliseconds.
const RESEND_MS: u64 = 200;
/// The longest such wait: a packet that is lost more often arrives after it.
const RESEND_MS_MAX: u64 = 1_600;

/// What reaches a host.
pub(crate) enum Delivery {
    Dialled(Hello),
    Connected(Hello),
    Disconnected(NodeId),
    Frame { from: NodeId, bytes: Bytes },
    Question { asker: Box<Hello>, answerer: Hello, request: Request, reply: oneshot::Sender<(Hello, Reply)> },
}

/// The network of a run.
pub(crate) struct Network {
    state: Mutex<State>,
    journal: Arc<Journal>,
}

struct State {
    rng: Rng,
    delay_ms: u64,
    ports: Vec<Port>,
    places: Places,
    /// By lower and higher host.
    pairs: BTreeMap<(usize, usize), Pair>,
    /// How many cuts stand between a sender and a receiver.
    blocked: BTreeMap<(usize, usize), u32>,
    slowed: BTreeMap<(usize, usize), u64>,
    /// Packets lost in a hundred.
    lossy: BTreeMap<(usize, usize), u8>,
    /// Frames in a hundred that come twice.
    echoing: BTreeMap<(usize, usize), u8>,
    questions: Vec<Question>,
    post: Post,
    strangers: Strangers,
}

/// Where a host is plugged in.
#[derive(Default)]
struct Port {
    life: Option<Life>,
    /// Whether the machine answers for a process that is gone.
    is_powered: bool,
    is_paused: bool,
    deliveries: Vec<Delivery>,
    mailbox: Option<Arc<Mailbox>>,
}

/// A process that listens.
struct Life {
    hello: Hello,
    inbox: Arc<dyn Inbox>,
    peers: BTreeMap<NodeId, String>,
}

struct Question {
    from: usize,
    to: usize,
    due: u64,
    asker: Hello,
    request: Request,
    reply: oneshot::Sender<(Hello, Reply)>,
}

impl Network {
    pub(crate) fn new(seed: u64, hosts: usize, journal: Arc<Journal>) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x6e65_7477_6f72_6b00);
        let delay_ms = rng.u64(1..25);
        let all = (0..hosts).flat_map(|low| (low + 1..hosts).map(move |high| (low, high)));
        let state = State {
            rng,
            delay_ms,
            ports: (0..hosts).map(|_| Port::default()).collect(),
            places: Places::new(hosts),
            pairs: all.map(|pair| (pair, Pair::default())).collect(),
            blocked: BTreeMap::new(),
            slowed: BTreeMap::new(),
            lossy: BTreeMap::new(),
            echoing: BTreeMap::new(),
            questions: Vec::new(),
            post: Post::new(seed),
            strangers: Strangers::new(seed),
        };
        Self { state: Mutex::new(state), journal }
    }

    /// Plugs a process in.
    pub(crate) fn attach(self: &Arc<Self>, host: usize, hello: Hello, inbox: Arc<dyn Inbox>) -> SimTransport {
        self.state.lock().port(host).life = Some(Life { hello, inbox, peers: BTreeMap::new() });
        SimTransport::new(Arc::clone(self), host)
    }

    /// A process is gone; with `keeps_power` its machine says so to its peers.
    pub(crate) fn detach(&self, host: usize, keeps_power: bool) {
        let mut state = self.state.lock();
        *state.port(host) = Port { is_powered: keeps_power, ..Port::default() };
        let lost: usize = state.pairs_of(host).map(|(_, pair, side)| pair.end(side)).sum();
        self.journal.count("frames lost", lost as u64);
    }

    /// A machine has power.
    pub(crate) fn power_on(&self, host: usize) {
        self.state.lock().port(host).is_powered = true;
    }

    pub(crate) fn set_paused(&self, host: usize, is_paused: bool) {
        self.state.lock().port(host).is_paused = is_paused;
    }

    /// Blocks one way between two hosts, on top of what blocks it already.
    pub(crate) fn block(&self, from: usize, to: usize) {
        *self.state.lock().blocked.entry((from, to)).or_default() += 1;
    }

    /// Takes one block away.
    pub(crate) fn unblock(&self, from: usize, to: usize) {
        if let Some(count) = self.state.lock().blocked.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    /// Makes one way slower by so many milliseconds.
    pub(crate) fn slow(&self, from: usize, to: usize, by_ms: u64) {
        self.state.lock().slowed.insert((from, to), by_ms);
    }

    /// Loses so many in a hundred packets of one way.
    pub(crate) fn lose(&self, from: usize, to: usize, percent: u8) {
        self.state.lock().lossy.insert((from, to), percent);
    }

    /// Lets so many in a hundred frames of one way come twice.
    pub(crate) fn double(&self, from: usize, to: usize, percent: u8) {
        self.state.lock().echoing.insert((from, to), percent);
    }

    /// Lets strangers speak to a host, under these ids, until then.
    pub(crate) fn visit(&self, host: usize, nodes: Vec<NodeId>, until: u64) {
        self.state.lock().strangers.visit(host, nodes, until);
    }

    /// Takes every block, slowness, loss and doubling away.
    pub(crate) fn heal(&self) {
        let mut state = self.state.lock();
        state.blocked.clear();
        state.slowed.clear();
        state.lossy.clear();
        state.echoing.clear();
        state.strangers.leave();
    }

    /// Breaks the connection of two hosts, if there is one; `a` learns of it at once.
    pub(crate) fn reset(&self, a: usize, b: usize) {
        let mut state = self.state.lock();
        let (pair, side) = state.pair(a, b);
        if pair.is_up(side) {
            self.journal.count("resets", 1);
            state.close(a, b, &self.journal, "reset");
        }
    }

    /// Moves the network to the present: connections come and go, frames arrive.
    pub(crate) fn step(&self) {
        let mut state = self.state.lock();
        let pairs: Vec<(usize, usize)> = state.pairs.keys().copied().collect();
        for (low, high) in pairs {
            state.step_side(low, high, &self.journal);
            state.step_side(high, low, &self.journal);
            state.connect(low, high, &self.journal);
        }
        state.hear_strangers(self.journal.now_ms(), &self.journal);
        state.ask(self.journal.now_ms());
        state.deliver_datagrams(self.journal.now_ms());
    }

    /// What has reached a host, and its inbox; nothing while no process listens.
    pub(crate) fn deliveries(&self, host: usize) -> Option<(Arc<dyn Inbox>, Vec<Delivery>)> {
        let mut state = self.state.lock();
        let port = state.port(host);
        let inbox = Arc::clone(&port.life.as_ref()?.inbox);
        Some((inbox, std::mem::take(&mut port.deliveries)))
    }

    /// Sends off what a host has said, one frame per peer.
    pub(crate) fn flush(&self, host: usize) {
        let now = self.journal.now_ms();
        let mut state = self.state.lock();
        let Some(cluster) = state.port(host).life.as_ref().map(|life| life.hello.cluster) else { return };
        for peer in (0..state.ports.len()).filter(|peer| *peer != host) {
            if !state.pair(host, peer).0.is_speaking(usize::from(host > peer)) {
                continue;
            }
            let delay = state.delay(host, peer) + state.resending(host, peer, &self.journal);
            let (pair, side) = state.pair(host, peer);
            if let Some(bytes) = pair.send(side, cluster.unwrap_or_default(), now + delay) {
                self.journal.mark(host, peer, &bytes);
                self.journal.count("frames", 1);
                state.strangers.overhear(host, &bytes);
                state.echo((host, peer), now + delay, &bytes, &self.journal);
            }
        }
    }
}

impl State {
    fn port(&mut self, host: usize) -> &mut Port {
        self.ports.get_mut(host).expect("every host has a port")
    }

    /// The pair of two hosts, and which side of it `host` is.
    fn pair(&mut self, host: usize, peer: usize) -> (&mut Pair, usize) {
        let key = (host.min(peer), host.max(peer));
        (self.pairs.get_mut(&key).expect("every two hosts are a pair"), usize::from(host > peer))
    }

    /// Every pair of a host: the other one, the pair, and which side of it `host` is.
    fn pairs_of(&mut self, host: usize) -> impl Iterator<Item = (usize, &mut Pair, usize)> {
        self.pairs.iter_mut().filter_map(move |(key, pair)| match *key {
            (low, high) if low == host => Some((high, pair, 0)),
            (low, high) if high == host => Some((low, pair, 1)),
            _ => None,
        })
    }

    fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.get(&(from, to)).is_some_and(|count| *count > 0)
    }

    /// Whether a process is there and running.
    fn is_listening(&self, host: usize) -> bool {
        self.ports.get(host).is_some_and(|port| port.life.is_some() && !port.is_paused)
    }

    fn delay(&mut self, from: usize, to: usize) -> u64 {
        let slow = self.slowed.get(&(from, to)).copied().unwrap_or(0);
        self.rng.u64(1..=self.delay_ms) + slow
    }

    /// How long it takes to send a packet again until it is not lost: the wait doubles each time, as TCP's does.
    fn resending(&mut self, from: usize, to: usize, journal: &Journal) -> u64 {
        let percent = self.lossy.get(&(from, to)).copied().unwrap_or(0).min(95);
        let (mut waited, mut wait) = (0, RESEND_MS);
        while percent > 0 && wait <= RESEND_MS_MAX && self.rng.u8(..100) < percent {
            journal.count("packets lost", 1);
            waited += wait;
            wait *= 2;
        }
        waited
    }

    /// Lets a frame come once more, if this way does so.
    fn echo(&mut self, (from, to): (usize, usize), due: u64, frame: &Bytes, journal: &Journal) {
        let percent = self.echoing.get(&(from, to)).copied().unwrap_or(0);
        if percent == 0 || self.rng.u8(..100) >= percent {
            return;
        }
        if let Some(bytes) = echo::echo(frame) {
            let due = due + self.rng.u64(echo::LATER_MS);
            let (pair, side) = self.pair(from, to);
            pair.echo(side, due, bytes);
            journal.count("frames doubled", 1);
        }
    }

    /// What `host` hears of `peer` by now: frames, the end of the connection, or for too long nothing.
    fn step_side(&mut self, host: usize, peer: usize, journal: &Journal) {
        let now = journal.now_ms();
        let (is_open, is_listening) = (!self.is_blocked(peer, host), self.is_listening(host));
        let (is_peer_listening, is_peer_powered) = (self.is_listening(peer), self.port(peer).is_powered);
        let notice = now + self.delay(peer, host);
        let (pair, side) = self.pair(host, peer);
        if !pair.is_up(side) {
            return;
        }
        let is_peer_up = pair.is_up(1 - side);
        if is_open && is_peer_listening && is_peer_up {
            pair.heard(side, now);
        }
        if !is_listening {
            return;
        }
        let frames = if is_open { pair.arrived(side, now) } else { Vec::new() };
        let is_told = is_open && is_peer_powered && !is_peer_up && pair.is_notice_due(side, now, notice);
        let is_silent = now.saturating_sub(pair.heard_at(side)) > SILENCE_MS;
        let from = pair.peer(side);
        self.port(host).deliveries.extend(frames.into_iter().map(|bytes| Delivery::Frame { from, bytes }));
        if is_told || is_silent {
            self.close(host, peer, journal, if is_told { "closed by the peer" } else { "silent" });
        }
    }

    /// Ends `host`'s side of its connection with `peer`.
    fn close(&mut self, host: usize, peer: usize, journal: &Journal, why: &str) {
        let redial_at = journal.now_ms() + self.rng.u64(50..400);
        let (pair, side) = self.pair(host, peer);
        let node = pair.peer(side);
        pair.redial_at(redial_at);
        journal.count("frames lost", pair.end(side) as u64);
        journal.count("disconnects", 1);
        journal.note(format_args!("host {host} lost its connection with host {peer}: {why}"));
        self.port(host).deliveries.push(Delivery::Disconnected(node));
    }

    /// Connects two hosts when both can and one wants to.
    fn connect(&mut self, low: usize, high: usize, journal: &Journal) {
        let now = journal.now_ms();
        let is_open = !self.is_blocked(low, high) && !self.is_blocked(high, low);
        let is_possible = self.is_listening(low) && self.is_listening(high) && is_open;
        if !is_possible || !self.pair(low, high).0.is_free(now) {
            return;
        }
        let greeting = |state: &mut Self, host: usize| {
            let life = state.port(host).life.as_ref().expect("it listens");
            (Hello::decode(&life.hello.encode()).expect("its own encoding"), life.peers.clone())
        };
        let ((low_hello, low_peers), (high_hello, high_peers)) = (greeting(self, low), greeting(self, high));
        let (low_address, high_address) = (self.places.address(low), self.places.address(high));
        let meets = |peers: &BTreeMap<NodeId, String>, node, address| peers.get(&node) == Some(address);
        if !meets(&low_peers, high_hello.node, &high_address)
            && !meets(&high_peers, low_hello.node, &low_address)
        {
            if self.pair(low, high).0.is_dial_due(now) {
                let dials =
                    |peers: &BTreeMap<NodeId, String>, address| peers.values().any(|at| at == address);
                if dials(&low_peers, &high_address) {
                    self.port(high).deliveries.push(Delivery::Dialled(low_hello));
                }
                if dials(&high_peers, &low_address) {
                    self.port(low).deliveries.push(Delivery::Dialled(high_hello));
                }
            }
            return;
        }
        journal.count("connects", 1);
        journal.note(format_args!("host {low} and host {high} are connected"));
        self.pair(low, high).0.open(now, low_hello.node, high_hello.node);
        self.port(low).deliveries.push(Delivery::Connected(high_hello));
        self.port(high).deliveries.push(Delivery::Connected(low_hello));
    }

    /// Hands over the questions that are due; one that cannot be asked is dropped, which tells its asker.
    fn ask(&mut self, now: u64) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.questions).into_iter().partition(|asked| asked.due <= now);
        self.questions = later;
        for Question { from, to, asker, request, reply, .. } in due {
            let is_open = !self.is_blocked(from, to) && !self.is_blocked(to, from) && self.is_listening(to);
            let port = self.port(to);
            if let Some(life) = port.life.as_ref().filter(|_| is_open) {
                let answerer = life.hello.clone();
                let asker = Box::new(asker);
                port.deliveries.push(Delivery::Question { asker, answerer, request, reply });
            }
        }
    }
}

/// A message as it comes out of a frame that it was put into.
fn through_a_frame(message: Message) -> Option<Message> {
    let frame = Frame::new(ClusterId::default(), 0, vec![message]);
    Frame::decode(frame.encode()).expect("its own encoding").messages.pop()
}
