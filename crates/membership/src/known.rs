//! Known peers: where members were last seen, kept over restarts, probed for ever while they are gone.
//!
//! A cut may last longer than anybody's memory of who was on the other side. So each address stays listed, and
//! is tried with growing waits up to a limit, until somebody answers there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipring_model::{Moment, NodeId};

/// One peer worth trying again; what a driver keeps on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Where it was.
    pub address: SocketAddr,
    /// Who it was, if anybody ever answered there.
    pub node: Option<NodeId>,
    /// When it was last heard of, in milliseconds since the Unix epoch; 0 if never.
    pub seen_unix_ms: u64,
}

#[derive(Debug)]
struct Entry {
    node: Option<NodeId>,
    seen_unix_ms: u64,
    wait: Duration,
    /// When it is to be tried; `None` while its member is there.
    due: Option<Moment>,
}

/// All known peers.
#[derive(Debug)]
pub(crate) struct KnownPeers {
    entries: BTreeMap<SocketAddr, Entry>,
    /// Those that are to be tried, the earliest first. Invariant: exactly the entries with a `due`.
    turns: BTreeSet<(Moment, SocketAddr)>,
    entries_max: usize,
    wait_min: Duration,
    wait_max: Duration,
    is_changed: bool,
}

impl KnownPeers {
    pub(crate) fn new(entries_max: usize, wait_min: Duration, wait_max: Duration) -> Self {
        Self {
            entries: BTreeMap::new(),
            turns: BTreeSet::new(),
            entries_max,
            wait_min,
            wait_max,
            is_changed: false,
        }
    }

    /// Adds a peer to be tried at once, unless it is listed.
    pub(crate) fn learn(&mut self, peer: KnownPeer, now: Moment) {
        let KnownPeer { address, node, seen_unix_ms } = peer;
        if !self.entries.contains_key(&address) && self.make_room() {
            let entry = Entry { node, seen_unix_ms, wait: self.wait_min, due: Some(now) };
            self.entries.insert(address, entry);
            self.turns.insert((now, address));
            self.is_changed = true;
        }
    }

    /// A member is there, at this address.
    pub(crate) fn seen(&mut self, address: SocketAddr, node: NodeId, unix_ms: u64) {
        if !self.entries.contains_key(&address) && !self.make_room() {
            return;
        }
        let wait = self.wait_min;
        let entry =
            self.entries.entry(address).or_insert(Entry { node: None, seen_unix_ms: 0, wait, due: None });
        self.is_changed |= entry.node != Some(node);
        if let Some(due) = entry.due {
            self.turns.remove(&(due, address));
        }
        *entry = Entry { node: Some(node), seen_unix_ms: unix_ms, wait, due: None };
    }

    /// A member is gone from this address: try it again soon.
    pub(crate) fn lost(&mut self, address: SocketAddr, node: NodeId, now: Moment) {
        if let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.node == Some(node)) {
            if let Some(due) = entry.due {
                self.turns.remove(&(due, address));
            }
            let due = now.after(self.wait_min);
            entry.wait = self.wait_min;
            entry.due = Some(due);
            self.turns.insert((due, address));
        }
    }

    /// A member has moved away from this address.
    pub(crate) fn moved(&mut self, address: SocketAddr, node: NodeId) {
        if self.entries.get(&address).is_some_and(|entry| entry.node == Some(node)) {
            self.remove(&address);
            self.is_changed = true;
        }
    }

    /// Forgets the peers that are known to be somebody who is not wanted.
    pub(crate) fn retain(&mut self, is_wanted: impl Fn(&NodeId) -> bool) {
        let named = |entry: &Entry| entry.node.is_some_and(|node| !is_wanted(&node));
        let out: Vec<SocketAddr> =
            self.entries.iter().filter(|(_, entry)| named(entry)).map(|(address, _)| *address).collect();
        for address in out {
            self.is_changed |= self.remove(&address);
        }
    }

    /// Up to `most` peers whose time has come; each waits longer until its next time.
    pub(crate) fn take_due(
        &mut self,
        now: Moment,
        most: usize,
        rng: &mut fastrand::Rng,
    ) -> Vec<(SocketAddr, Option<NodeId>)> {
        let mut taken = Vec::new();
        while taken.len() < most {
            let Some((due, address)) = self.turns.first().copied() else { break };
            if due > now {
                break;
            }
            self.turns.remove(&(due, address));
            let Some(entry) = self.entries.get_mut(&address) else { continue };
            let next = now.after(entry.wait.mul_f64(0.75 + rng.f64() / 2.0));
            taken.push((address, entry.node));
            entry.due = Some(next);
            entry.wait = entry.wait.saturating_mul(2).min(self.wait_max);
            self.turns.insert((next, address));
        }
        taken
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.turns.first().map(|(due, _)| *due)
    }

    /// The list, if it has changed since it was last taken.
    pub(crate) fn take_changed(&mut self) -> Option<Vec<KnownPeer>> {
        std::mem::take(&mut self.is_changed).then(|| self.list())
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.is_changed
    }

    pub(crate) fn list(&self) -> Vec<KnownPeer> {
        let peer = |(address, entry): (&SocketAddr, &Entry)| KnownPeer {
            address: *address,
            node: entry.node,
            seen_unix_ms: entry.seen_unix_ms,
        };
        self.entries.iter().map(peer).collect()
    }

    /// Whether there is room, if need be in the place of the peer that has been gone for longest.
    fn make_room(&mut self) -> bool {
        if self.entries.len() < self.entries_max {
            return true;
        }
        let gone = self.entries.iter().filter(|(_, entry)| entry.due.is_some());
        let oldest = gone.min_by_key(|(_, entry)| entry.seen_unix_ms).map(|(address, _)| *address);
        oldest.is_some_and(|address| self.remove(&address))
    }

    fn remove(&mut self, address: &SocketAddr) -> bool {
        let Some(entry) = self.entries.remove(address) else { return false };
        if let Some(due) = entry.due {
            self.turns.remove(&(due, *address));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn peers(entries_max: usize) -> KnownPeers {
        KnownPeers::new(entries_max, Duration::from_secs(1), Duration::from_secs(60))
    }

    #[test]
    fn a_lost_peer_is_tried_for_ever_at_most_so_rarely_until_it_is_seen() {
        let (mut peers, mut rng) = (peers(4), fastrand::Rng::with_seed(1));
        peers.seen(address(1), NodeId([1; 32]), 7);
        assert_eq!(peers.next_due(), None);
        peers.lost(address(1), NodeId([1; 32]), Moment(0));
        let (mut now, mut waits) = (Moment(0), Vec::new());
        for _ in 0..50 {
            let due = peers.next_due().unwrap();
            waits.push(due.since(now));
            now = due;
            assert_eq!(peers.take_due(now, 9, &mut rng), [(address(1), Some(NodeId([1; 32])))]);
        }
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(75)));
        assert!(waits.iter().skip(8).all(|wait| *wait >= Duration::from_secs(45)));
        peers.seen(address(1), NodeId([1; 32]), 8);
        assert_eq!(peers.next_due(), None);
    }

    #[test]
    fn the_list_is_bounded_and_the_longest_gone_makes_room() {
        let mut peers = peers(2);
        for (port, seen_unix_ms) in [(1, 50), (2, 40), (3, 60)] {
            peers.learn(KnownPeer { address: address(port), node: None, seen_unix_ms }, Moment(0));
        }
        let ports: Vec<u16> = peers.list().iter().map(|peer| peer.address.port()).collect();
        assert_eq!(ports, [1, 3]);
        peers.seen(address(1), NodeId([1; 32]), 70);
        peers.seen(address(3), NodeId([3; 32]), 70);
        peers.seen(address(4), NodeId([4; 32]), 80);
        assert_eq!(peers.list().len(), 2, "those who are there keep their place");
        assert!(peers.take_changed().is_some());
        assert!(peers.take_changed().is_none());
    }
}
