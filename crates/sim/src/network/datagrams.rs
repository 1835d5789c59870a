//! Datagrams on the simulated network: lost, late, out of order and doubled, as UDP may have it.
//!
//! They go through the same cuts, slowness and loss as the connections, and some are lost on a healthy way too.
//! Their draws are their own, so that what is gossiped does not change what happens to connections.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use slipring_node::Datagrams;
use tokio::sync::Notify;

use super::{Network, State};

/// Lost, doubled and straggling datagrams in a thousand, on a healthy way.
const LOST: u32 = 10;
const DOUBLED: u32 = 10;
const STRAGGLING: u32 = 20;
/// How much later a straggler arrives at most, in milliseconds.
const STRAGGLE_MS: u64 = 120;
/// What a socket keeps for a process that does not read.
const MAILBOX_DATAGRAMS_MAX: usize = 256;

type Datagram = (SocketAddr, Vec<u8>);

/// A host's socket.
#[derive(Default)]
pub(super) struct Mailbox {
    arrived: Mutex<VecDeque<Datagram>>,
    wake: Notify,
}

/// Datagrams on their way, by time of arrival and the order in which they were sent.
pub(super) struct Post {
    rng: Rng,
    sent: u64,
    travelling: BTreeMap<(u64, u64), (usize, usize, Vec<u8>)>,
}

/// One process's socket.
pub(crate) struct SimDatagrams {
    network: Arc<Network>,
    host: usize,
    mailbox: Arc<Mailbox>,
}

impl Post {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed ^ 0x0064_6174_6167_7261), sent: 0, travelling: BTreeMap::new() }
    }

    fn chance(&mut self, in_a_thousand: u32) -> bool {
        self.rng.u32(..1_000) < in_a_thousand
    }

    fn put(&mut self, due: u64, from: usize, to: usize, bytes: Vec<u8>) {
        self.sent += 1;
        self.travelling.insert((due, self.sent), (from, to, bytes));
    }

    /// Loses what is on its way from and to a host.
    pub(super) fn forget(&mut self, host: usize) {
        self.travelling.retain(|_, (from, to, _)| *from != host && *to != host);
    }
}

impl Network {
    /// Opens a socket for a process.
    pub(crate) fn open_socket(self: &Arc<Self>, host: usize) -> SimDatagrams {
        let mailbox = Arc::new(Mailbox::default());
        self.state.lock().port(host).mailbox = Some(Arc::clone(&mailbox));
        SimDatagrams { network: Arc::clone(self), host, mailbox }
    }
}

impl State {
    /// Sends a datagram on its way, or loses it.
    fn post(&mut self, now: u64, from: usize, to: usize, bytes: &[u8]) {
        let lossy = u32::from(self.lossy.get(&(from, to)).copied().unwrap_or(0)) * 10;
        if self.is_blocked(from, to) || self.post.chance(lossy.max(LOST)) {
            return;
        }
        let slow = self.slowed.get(&(from, to)).copied().unwrap_or(0);
        for _ in 0..1 + u32::from(self.post.chance(DOUBLED)) {
            let late = if self.post.chance(STRAGGLING) { self.post.rng.u64(..STRAGGLE_MS) } else { 0 };
            let due = now + self.post.rng.u64(1..=self.delay_ms) + slow + late;
            self.post.put(due, from, to, bytes.to_vec());
        }
    }

    /// Puts what has arrived by now into its mailboxes; what finds none, or a full one, is lost.
    pub(super) fn deliver_datagrams(&mut self, now: u64) {
        let later = self.post.travelling.split_off(&(now + 1, 0));
        for (from, to, bytes) in std::mem::replace(&mut self.post.travelling, later).into_values() {
            let Some(mailbox) = self.port(to).mailbox.clone() else { continue };
            let from = self.places.socket(from);
            let mut arrived = mailbox.arrived.lock();
            if arrived.len() < MAILBOX_DATAGRAMS_MAX {
                arrived.push_back((from, bytes));
                mailbox.wake.notify_one();
            }
        }
    }
}

impl Datagrams for SimDatagrams {
    fn send_to(&self, to: SocketAddr, bytes: &[u8]) {
        let now = self.network.journal.now_ms();
        let mut state = self.network.state.lock();
        // A process that was detached from the network speaks to nobody.
        let is_mine = |mailbox: &Arc<Mailbox>| Arc::ptr_eq(mailbox, &self.mailbox);
        let is_attached = state.port(self.host).mailbox.as_ref().is_some_and(is_mine);
        if let Some(to) = state.places.at_socket(to).filter(|_| is_attached) {
            self.network.journal.mark(self.host, to, bytes);
            self.network.journal.count("datagrams", 1);
            state.post(now, self.host, to, bytes);
        }
    }

    fn recv(&self) -> BoxFuture<'_, (SocketAddr, Vec<u8>)> {
        Box::pin(async {
            loop {
                let arrived = self.mailbox.arrived.lock().pop_front();
                if let Some(datagram) = arrived {
                    return datagram;
                }
                self.mailbox.wake.notified().await;
            }
        })
    }

    fn resolve(&self, address: String) -> BoxFuture<'static, Option<SocketAddr>> {
        let places = &self.network.state.lock().places;
        let found = places.at(&address).map(|host| places.socket(host));
        Box::pin(async move { found })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Places;
    use super::*;
    use crate::journal::Journal;

    fn network(seed: u64) -> (Arc<Journal>, Arc<Network>) {
        let journal = Arc::new(Journal::default());
        (Arc::clone(&journal), Arc::new(Network::new(seed, 2, journal)))
    }

    fn exchange(seed: u64, prepare: impl Fn(&Network)) -> Vec<u8> {
        let (journal, network) = network(seed);
        prepare(&network);
        let (here, there) = (network.open_socket(0), network.open_socket(1));
        for number in 0..200 {
            here.send_to(Places::new(2).socket(1), &[number]);
            journal.advance_to(journal.now_ms() + 5);
            network.step();
        }
        journal.advance_to(journal.now_ms() + 1_000);
        network.step();
        let arrived = there.mailbox.arrived.lock();
        assert!(arrived.iter().all(|(from, _)| *from == Places::new(2).socket(0)));
        arrived.iter().map(|(_, bytes)| bytes.first().copied().expect("a byte")).collect()
    }

    #[test]
    fn some_are_lost_some_doubled_some_out_of_order_and_a_seed_repeats() {
        let arrived = exchange(7, |_| {});
        let mut numbers = arrived.clone();
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.len() < 200 && numbers.len() > 180, "{} of 200 arrived", numbers.len());
        assert!(arrived.len() > numbers.len(), "none was doubled");
        assert!(!arrived.is_sorted(), "all came in order");
        assert_eq!(arrived, exchange(7, |_| {}));
        assert_ne!(arrived, exchange(8, |_| {}));
    }

    #[test]
    fn a_blocked_way_lets_none_through_and_a_lossy_one_few() {
        assert_eq!(exchange(7, |network| network.block(0, 1)), Vec::<u8>::new());
        let few = exchange(7, |network| network.lose(0, 1, 80));
        assert!(few.len() > 10 && few.len() < 80, "{} arrived", few.len());
    }
}
