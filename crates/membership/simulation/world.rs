//! Many machines on simulated time and a simulated network: drawn delays, loss, cuts, pauses, deaths.
//!
//! A paused node's datagrams and timers wait; when it goes on, overdue timers come before waiting datagrams, which
//! is the harder order. A run is a seed.
#![allow(dead_code, reason = "each test and each bench uses its own part of the world")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use slipring_membership::{
    ClusterKey, Effect, Input, Keyring, KnownPeer, Liveness, Membership, Metadata, Settings, Start, Timer,
    Zone,
};
use slipring_model::{ClusterId, Moment, NodeId};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const KEY: ClusterKey = ClusterKey([9; 32]);

/// What the network does to datagrams.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) delay_min: Duration,
    /// The mean of what comes on top of the shortest delay, exponentially drawn.
    pub(crate) delay_mean: Duration,
    /// The share of datagrams that is lost.
    pub(crate) loss: f64,
}

impl Network {
    pub(crate) fn lan() -> Self {
        Self { delay_min: Duration::from_micros(200), delay_mean: Duration::from_millis(1), loss: 0.01 }
    }
}

#[derive(Debug)]
enum Event {
    Expired { node: usize, life: u64, timer: Timer },
    Datagram { node: usize, from: SocketAddr, bytes: Vec<u8> },
    StreamAsked { asker: usize, life: u64, target: usize, token: u64, until: u64 },
    StreamAnswered { node: usize, life: u64, token: u64, is_reachable: bool },
    Starved { node: usize, pause: Duration, period: Duration },
}

impl Event {
    /// Who must run for it to happen, and whether it waits behind the timers of the same moment.
    fn place(&self) -> (usize, u8) {
        match self {
            Self::Expired { node, .. } => (*node, 0),
            Self::Datagram { node, .. } | Self::StreamAnswered { node, .. } => (*node, 1),
            Self::StreamAsked { target, .. } => (*target, 1),
            Self::Starved { node, .. } => (*node, 2),
        }
    }
}

/// One node: its machine while it lives, and what it keeps on disk.
pub(crate) struct Node {
    pub(crate) machine: Option<Membership>,
    pub(crate) start: u64,
    pub(crate) kept: Vec<KnownPeer>,
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    paused_until: u64,
}

/// Something a machine said about a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) at: Moment,
    pub(crate) node: usize,
    pub(crate) effect: Effect,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) settings: Settings,
    pub(crate) network: Network,
    /// Pairs between which nothing gets through in this direction.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
    /// Nodes that no datagram reaches, though streams do.
    pub(crate) deaf: BTreeSet<usize>,
    pub(crate) notes: Vec<Note>,
    /// Times that a node declared another one down that was living.
    pub(crate) false_downs: u64,
    /// A hash of every datagram sent, with its moment.
    pub(crate) trace: u64,
    queue: BTreeMap<(u64, u8, u64), Event>,
    order: u64,
    rng: Rng,
}

pub(crate) fn id(node: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(node as u64).to_be_bytes());
    NodeId(bytes)
}

pub(crate) fn address(node: usize) -> SocketAddr {
    let [_, _, high, low] = (node as u32).to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7_946))
}

fn index(node: &NodeId) -> usize {
    u64::from_be_bytes(node.0[..8].try_into().unwrap()) as usize
}

fn index_of(address: SocketAddr) -> usize {
    match address {
        SocketAddr::V4(address) => {
            let [_, _, high, low] = address.ip().octets();
            usize::from(u16::from_be_bytes([high, low]))
        }
        SocketAddr::V6(_) => usize::MAX,
    }
}

pub(crate) fn keys() -> Keyring {
    Keyring::new(CLUSTER, &KEY, None)
}

impl World {
    pub(crate) fn new(seed: u64, settings: Settings) -> Self {
        Self {
            now: 0,
            nodes: Vec::new(),
            settings,
            network: Network::lan(),
            cuts: BTreeSet::new(),
            deaf: BTreeSet::new(),
            notes: Vec::new(),
            false_downs: 0,
            trace: 0,
            queue: BTreeMap::new(),
            order: 0,
            rng: Rng::with_seed(seed),
        }
    }

    /// A cluster of `count` nodes that all know the first three, run until every view is complete.
    pub(crate) fn cluster(seed: u64, settings: Settings, count: usize) -> Self {
        let mut world = Self::new(seed, settings);
        for _ in 0..count {
            world.add();
        }
        let complete = world.run_until(Duration::from_secs(300), |world| world.is_complete());
        assert!(complete.is_some(), "{count} nodes did not find each other");
        world.run(Duration::from_secs(10));
        world.notes.clear();
        world
    }

    /// Adds a node that knows the first three, and starts it.
    pub(crate) fn add(&mut self) -> usize {
        let node = self.nodes.len();
        let seeds = (0..3).filter(|seed| *seed != node);
        let kept =
            seeds.map(|seed| KnownPeer { address: address(seed), node: None, seen_unix_ms: 0 }).collect();
        self.nodes.push(Node { machine: None, start: 0, kept, sent: 0, sent_bytes: 0, paused_until: 0 });
        self.start(node);
        node
    }

    /// Starts a node, or starts it anew with the list it kept.
    pub(crate) fn start(&mut self, node: usize) {
        self.nodes[node].start += 1;
        let start = Start {
            node: id(node),
            address: address(node),
            start: self.nodes[node].start,
            metadata: Metadata { layout_epoch: 1, layout_hash: 1, zone: Zone::new("a").unwrap() },
            keys: keys(),
            known_peers: self.nodes[node].kept.clone(),
            zero_unix_ms: 1_700_000_000_000,
        };
        let rng = Rng::with_seed(self.rng.u64(..));
        let machine = Membership::new(start, self.settings.clone(), rng).unwrap();
        self.nodes[node].machine = Some(machine);
        self.nodes[node].paused_until = 0;
        self.input(node, Input::Started);
    }

    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].machine = None;
    }

    pub(crate) fn pause(&mut self, node: usize, pause: Duration) {
        self.nodes[node].paused_until = self.now + pause.as_micros() as u64;
    }

    /// Pauses a node for `pause` in each `period`, beginning at a drawn moment.
    pub(crate) fn starve(&mut self, node: usize, pause: Duration, period: Duration) {
        let at = self.now + self.rng.u64(..period.as_micros() as u64);
        self.push(at, Event::Starved { node, pause, period });
    }

    /// Cuts all ways between the nodes before `border` and the others.
    pub(crate) fn cut_at(&mut self, border: usize) {
        for left in 0..border {
            for right in border..self.nodes.len() {
                self.cuts.extend([(left, right), (right, left)]);
            }
        }
    }

    pub(crate) fn machine(&self, node: usize) -> &Membership {
        self.nodes[node].machine.as_ref().expect("the node lives")
    }

    pub(crate) fn liveness(&self, observer: usize, subject: usize) -> Option<Liveness> {
        self.machine(observer).liveness(&id(subject))
    }

    /// Whether each living node believes exactly the living ones to be there.
    pub(crate) fn is_complete(&self) -> bool {
        let living = self.nodes.iter().filter(|node| node.machine.is_some()).count();
        self.nodes.iter().filter_map(|node| node.machine.as_ref()).all(|machine| {
            let present = machine.members().filter(|(_, liveness)| !liveness.is_gone());
            let (mut count, mut is_right) = (1, true);
            for (member, _) in present {
                count += 1;
                is_right &= self.nodes[index(&member.node)].machine.is_some();
            }
            is_right && count == living
        })
    }

    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs for at most `time`; how long it took until `is_done`, which is asked every 100 ms.
    pub(crate) fn run_until(&mut self, time: Duration, is_done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let began = self.now;
        let end = began + time.as_micros() as u64;
        while self.now < end {
            if is_done(self) {
                return Some(Duration::from_micros(self.now - began));
            }
            let stop = (self.now + 100_000).min(end);
            while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= stop) {
                let ((at, _, _), event) = entry.remove_entry();
                self.now = at;
                self.happen(event);
            }
            self.now = stop;
        }
        is_done(self).then_some(time)
    }

    fn happen(&mut self, event: Event) {
        let (node, _) = event.place();
        let resumes = self.nodes[node].paused_until;
        if resumes > self.now {
            return self.push(resumes, event);
        }
        match event {
            Event::Expired { node, life, timer } if life == self.nodes[node].start => {
                self.input(node, Input::Expired(timer));
            }
            Event::StreamAnswered { node, life, token, is_reachable } if life == self.nodes[node].start => {
                self.input(node, Input::StreamProbed { token, is_reachable });
            }
            Event::Expired { .. } | Event::StreamAnswered { .. } => {}
            Event::Datagram { node, from, bytes } => self.input(node, Input::Datagram { from, bytes }),
            Event::StreamAsked { asker, life, target, token, until } => {
                let is_cut = self.cuts.contains(&(asker, target)) || self.cuts.contains(&(target, asker));
                let is_reachable = self.nodes[target].machine.is_some() && !is_cut && self.now < until;
                let at = self.now + self.delay();
                let at = if is_reachable { at } else { at.max(until) };
                self.push(at, Event::StreamAnswered { node: asker, life, token, is_reachable });
            }
            Event::Starved { node, pause, period } => {
                self.pause(node, pause);
                let at = self.now + period.as_micros() as u64;
                self.push(at, Event::Starved { node, pause, period });
            }
        }
    }

    /// Hands one input to a machine and carries out what follows.
    pub(crate) fn input(&mut self, node: usize, input: Input) {
        let Some(machine) = self.nodes[node].machine.as_mut() else { return };
        let mut effects = Vec::new();
        machine.handle(Moment(self.now), input, &mut effects);
        for effect in effects {
            self.carry_out(node, effect);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        let life = self.nodes[node].start;
        match effect {
            Effect::Send { to, bytes } => self.send(node, to, bytes),
            Effect::Arm { timer, at } => self.push(at.0.max(self.now), Event::Expired { node, life, timer }),
            Effect::ProbeStream { token, address, within, .. } => {
                let until = self.now + within.as_micros() as u64;
                let at = self.now + self.delay();
                let target = index_of(address);
                self.push(at, Event::StreamAsked { asker: node, life, target, token, until });
            }
            Effect::Persist(list) => self.nodes[node].kept = list,
            Effect::StartRaised(start) => {
                self.nodes[node].start = start;
                self.note(node, effect);
                self.revive_timers(node, life);
            }
            Effect::Down(ref subject) => {
                self.false_downs += u64::from(self.nodes[index(subject)].machine.is_some());
                self.note(node, effect);
            }
            Effect::Departed => {
                self.kill(node);
                self.note(node, effect);
            }
            _ => self.note(node, effect),
        }
    }

    fn note(&mut self, node: usize, effect: Effect) {
        self.notes.push(Note { at: Moment(self.now), node, effect });
    }

    /// Timers belong to a life, which the world names by its start; a raised start is the same life.
    fn revive_timers(&mut self, raised: usize, before: u64) {
        let after = self.nodes[raised].start;
        for event in self.queue.values_mut() {
            if let Event::Expired { node, life, .. } | Event::StreamAnswered { node, life, .. } = event
                && *node == raised
                && *life == before
            {
                *life = after;
            }
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        assert!(bytes.len() <= slipring_membership::DATAGRAM_BYTES_MAX);
        self.nodes[from].sent += 1;
        self.nodes[from].sent_bytes += bytes.len() as u64;
        let tail = bytes.last_chunk::<8>().map_or(0, |tail| u64::from_be_bytes(*tail));
        self.trace = (self.trace ^ self.now ^ tail).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        let target = index_of(to);
        let is_lost = self.rng.f64() < self.network.loss;
        let at = self.now + self.delay();
        if target < self.nodes.len()
            && !is_lost
            && !self.cuts.contains(&(from, target))
            && !self.deaf.contains(&target)
        {
            self.push(at, Event::Datagram { node: target, from: address(from), bytes });
        }
    }

    fn delay(&mut self) -> u64 {
        let drawn = -(1.0 - self.rng.f64()).ln() * self.network.delay_mean.as_micros() as f64;
        self.network.delay_min.as_micros() as u64 + drawn as u64
    }

    fn push(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at, event.place().1, self.order), event);
    }
}
