//! The simulated network: connections, delays, cuts. Frames go through their real encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use slipring_model::{ClusterId, NodeId};
use slipring_transport::{AskError, Inbox, SendError, Transport};
use slipring_wire::{Frame, Hello, Message, Reply, Request};
use tokio::sync::oneshot;

/// A cut connection is noticed after so many milliseconds of silence.
const SILENCE_MS: u64 = 2_000;
/// A broken connection is made anew after so many milliseconds.
const RECONNECT_MS: u64 = 100;

/// Something on its way to a host.
pub(crate) enum Delivery {
    Connected(Hello),
    Disconnected(NodeId),
    Frame { from: NodeId, bytes: bytes::Bytes },
    Question { hello: Box<Hello>, request: Request, answer: oneshot::Sender<(Hello, Reply)> },
}

/// The network, shared by all hosts.
#[derive(Clone)]
pub(crate) struct Network(Arc<Mutex<State>>);

struct State {
    now_ms: u64,
    rng: fastrand::Rng,
    extra_delay_ms: u64,
    hosts: Vec<Option<Plugged>>,
    addresses: BTreeMap<String, usize>,
    /// Due time, order, receiver.
    on_the_way: BTreeMap<(u64, u64), (usize, Delivery)>,
    sent: u64,
    /// When the last message of a direction arrives: those after it do not overtake it.
    last: BTreeMap<(usize, usize), u64>,
    cuts: BTreeSet<(usize, usize)>,
    /// Connected pairs, lower host first; since when it is cut.
    links: BTreeMap<(usize, usize), Option<u64>>,
    /// Pairs that broke, and when they may be connected again.
    broken: BTreeMap<(usize, usize), u64>,
}

struct Plugged {
    hello: Hello,
    cluster: Option<ClusterId>,
    inbox: Arc<dyn Inbox>,
    peers: BTreeSet<NodeId>,
}

impl Network {
    pub(crate) fn new(seed: u64, hosts: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            now_ms: 0,
            rng: fastrand::Rng::with_seed(seed),
            extra_delay_ms: 0,
            hosts: (0..hosts).map(|_| None).collect(),
            addresses: (0..hosts).map(|host| (address(host), host)).collect(),
            on_the_way: BTreeMap::new(),
            sent: 0,
            last: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links: BTreeMap::new(),
            broken: BTreeMap::new(),
        })))
    }

    /// A transport for a host that starts.
    pub(crate) fn plug(&self, host: usize, hello: Hello, inbox: Arc<dyn Inbox>) -> Arc<dyn Transport> {
        let cluster = hello.cluster;
        let plugged = Plugged { hello, cluster, inbox, peers: BTreeSet::new() };
        if let Some(slot) = self.0.lock().hosts.get_mut(host) {
            *slot = Some(plugged);
        }
        Arc::new(SimTransport { network: self.clone(), host })
    }

    /// A host is gone: its connections break and nothing reaches it any more.
    pub(crate) fn unplug(&self, host: usize) {
        let mut state = self.0.lock();
        let pairs: Vec<(usize, usize)> =
            state.links.keys().copied().filter(|(one, other)| *one == host || *other == host).collect();
        pairs.into_iter().for_each(|pair| state.break_link(pair));
        if let Some(slot) = state.hosts.get_mut(host) {
            *slot = None;
        }
        state.on_the_way.retain(|_, (to, _)| *to != host);
    }

    pub(crate) fn cut(&self, from: usize, to: usize) {
        self.0.lock().cuts.insert((from, to));
    }

    pub(crate) fn heal(&self, from: usize, to: usize) {
        self.0.lock().cuts.remove(&(from, to));
    }

    pub(crate) fn delay(&self, by_ms: u64) {
        self.0.lock().extra_delay_ms = by_ms;
    }

    pub(crate) fn reset(&self, one: usize, other: usize) {
        let pair = (one.min(other), one.max(other));
        let mut state = self.0.lock();
        if state.links.contains_key(&pair) {
            state.break_link(pair);
        }
    }

    /// Moves time on and makes and breaks connections.
    pub(crate) fn tick(&self, now_ms: u64) {
        let mut state = self.0.lock();
        state.now_ms = now_ms;
        let hosts = state.hosts.len();
        for one in 0..hosts {
            for other in one + 1..hosts {
                state.tend((one, other));
            }
        }
    }

    /// What has arrived at a host.
    pub(crate) fn arrived(&self, host: usize) -> Vec<Delivery> {
        let mut state = self.0.lock();
        let now_ms = state.now_ms;
        let due: Vec<(u64, u64)> = state
            .on_the_way
            .range(..(now_ms + 1, 0))
            .filter(|(_, (to, _))| *to == host)
            .map(|(key, _)| *key)
            .collect();
        due.into_iter()
            .filter_map(|key| state.on_the_way.remove(&key))
            .map(|(_, delivery)| delivery)
            .collect()
    }

    pub(crate) fn inbox(&self, host: usize) -> Option<Arc<dyn Inbox>> {
        self.0.lock().hosts.get(host)?.as_ref().map(|plugged| Arc::clone(&plugged.inbox))
    }

    pub(crate) fn hello(&self, host: usize) -> Option<Hello> {
        self.0.lock().hosts.get(host)?.as_ref().map(Plugged::greeting)
    }
}

impl Plugged {
    fn greeting(&self) -> Hello {
        Hello { cluster: self.cluster, ..self.hello.clone() }
    }
}

impl State {
    fn plugged(&self, host: usize) -> Option<&Plugged> {
        self.hosts.get(host)?.as_ref()
    }

    fn host_of(&self, node: NodeId) -> Option<usize> {
        self.hosts.iter().position(|slot| slot.as_ref().is_some_and(|plugged| plugged.hello.node == node))
    }

    fn is_cut(&self, (one, other): (usize, usize)) -> bool {
        self.cuts.contains(&(one, other)) || self.cuts.contains(&(other, one))
    }

    fn tend(&mut self, pair: (usize, usize)) {
        let now_ms = self.now_ms;
        let is_cut = self.is_cut(pair);
        match self.links.get_mut(&pair) {
            Some(since) if is_cut => {
                let since = *since.get_or_insert(now_ms);
                if now_ms >= since + SILENCE_MS {
                    self.break_link(pair);
                }
            }
            Some(since) => *since = None,
            None if is_cut || self.broken.get(&pair).is_some_and(|until| now_ms < *until) => {}
            None => self.connect(pair),
        }
    }

    fn connect(&mut self, pair: (usize, usize)) {
        let (Some(one), Some(other)) = (self.plugged(pair.0), self.plugged(pair.1)) else { return };
        let knows = one.peers.contains(&other.hello.node) || other.peers.contains(&one.hello.node);
        if !knows || one.cluster != other.cluster {
            return;
        }
        let (to_other, to_one) = (one.greeting(), other.greeting());
        self.links.insert(pair, None);
        self.put(pair.0, self.now_ms, Delivery::Connected(to_one));
        self.put(pair.1, self.now_ms, Delivery::Connected(to_other));
    }

    fn break_link(&mut self, pair: (usize, usize)) {
        self.links.remove(&pair);
        self.broken.insert(pair, self.now_ms + RECONNECT_MS);
        let ends = [(pair.0, pair.1), (pair.1, pair.0)];
        for (to, from) in ends {
            let Some(peer) = self.plugged(from).map(|plugged| plugged.hello.node) else { continue };
            self.on_the_way.retain(|_, (receiver, delivery)| {
                !(*receiver == to && matches!(delivery, Delivery::Frame { from, .. } if *from == peer))
            });
            self.last.remove(&(from, to));
            self.put(to, self.now_ms, Delivery::Disconnected(peer));
        }
    }

    fn put(&mut self, to: usize, at_ms: u64, delivery: Delivery) {
        self.sent += 1;
        self.on_the_way.insert((at_ms, self.sent), (to, delivery));
    }

    fn arrival(&mut self, from: usize, to: usize) -> u64 {
        let delay = self.rng.u64(1..5) + self.rng.u64(0..=self.extra_delay_ms);
        let at = (self.now_ms + delay).max(self.last.get(&(from, to)).copied().unwrap_or(0));
        self.last.insert((from, to), at);
        at
    }
}

/// One host's end of the network.
struct SimTransport {
    network: Network,
    host: usize,
}

impl Transport for SimTransport {
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError> {
        let mut state = self.network.0.lock();
        let receiver = state.host_of(to).ok_or(SendError::NotConnected)?;
        let pair = (self.host.min(receiver), self.host.max(receiver));
        if !state.links.contains_key(&pair) {
            return Err(SendError::NotConnected);
        }
        let me = state.plugged(self.host).ok_or(SendError::NotConnected)?;
        let (from, cluster) = (me.hello.node, me.cluster.unwrap_or_default());
        if state.cuts.contains(&(self.host, receiver)) {
            return Ok(());
        }
        let bytes = Frame::new(cluster, 0, vec![message]).encode();
        let at = state.arrival(self.host, receiver);
        state.put(receiver, at, Delivery::Frame { from, bytes });
        Ok(())
    }

    fn set_peers(&self, peers: BTreeMap<NodeId, String>) {
        if let Some(Some(plugged)) = self.network.0.lock().hosts.get_mut(self.host) {
            plugged.peers = peers.into_keys().collect();
        }
    }

    fn set_cluster(&self, cluster: ClusterId) {
        if let Some(Some(plugged)) = self.network.0.lock().hosts.get_mut(self.host) {
            plugged.cluster = Some(cluster);
        }
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        let state = self.network.0.lock();
        state
            .host_of(peer)
            .is_some_and(|other| state.links.contains_key(&(self.host.min(other), self.host.max(other))))
    }

    fn ask(
        &self,
        address: String,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(Hello, Reply), AskError>> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.network.0.lock();
        let to = state.addresses.get(&address).copied();
        if let (Some(to), Some(hello)) = (to, state.plugged(self.host).map(Plugged::greeting)) {
            let at = state.arrival(self.host, to);
            state.put(to, at, Delivery::Question { hello: Box::new(hello), request, answer });
        }
        drop(state);
        Box::pin(async move {
            match tokio::time::timeout(deadline, answered).await {
                Ok(Ok(answer)) => Ok(answer),
                _ => Err(AskError::TimedOut { address }),
            }
        })
    }

    fn shutdown(&self) {
        self.network.unplug(self.host);
    }
}

/// Where a host is reached.
pub(crate) fn address(host: usize) -> String {
    format!("host-{host}:1")
}
