//! The transport over gRPC: one bidirectional stream per pair of nodes, many messages per frame.
//!
//! Every node dials every peer it has no connection with. Of two connections of a pair, the one dialled by
//! the node with the lower id stays. Frames are encoded once, by `wire`; gRPC carries them as plain bytes.
//!
//! Invariant: `connected` and `disconnected` of a peer alternate, beginning with `connected`, which comes only once the
//! peer has proven who it is.

mod client;
mod codec;
mod handshake;
mod lobby;
mod server;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use slipring_model::{ClusterId, NodeId, limits};
use slipring_wire::{Greeting, Hello, Message, Nonce, Reply, Request};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use client::Failed;
use lobby::Lobby;

use crate::identity::{Identity, NodeKey};
use crate::link::Link;
use crate::transport::{AskError, Inbox, SendError, Transport};

/// How connections are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// An idle connection shows this often that it lives.
    pub ping: Duration,
    /// A peer not heard of for this long is disconnected.
    pub silence: Duration,
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// The first and the longest rest between two attempts to dial a peer.
    pub redial: (Duration, Duration),
    /// Connections that the port has places for; half of them at most are those of nodes that are no members.
    pub connections_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping: Duration::from_millis(500),
            silence: Duration::from_secs(2),
            connect: Duration::from_secs(2),
            redial: (Duration::from_millis(50), Duration::from_secs(2)),
            connections_max: limits::PEER_CONNECTIONS_MAX,
        }
    }
}

/// Peers over gRPC.
pub struct GrpcTransport(Arc<Shared>);

/// What all connections of a node share.
pub(crate) struct Shared {
    settings: Settings,
    hello: Hello,
    key: Arc<NodeKey>,
    nonces: Arc<dyn Fn() -> Nonce + Send + Sync>,
    /// Those that have connected and are no members.
    lobby: Arc<Lobby>,
    cluster: OnceLock<ClusterId>,
    inbox: Arc<dyn Inbox>,
    /// The address to dial from; the system chooses when absent.
    dials_from: Option<IpAddr>,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    stopping: watch::Sender<bool>,
}

#[derive(Default)]
struct Peer {
    address: Option<String>,
    link: Option<Arc<Link>>,
    dialler: Option<JoinHandle<()>>,
    /// Ends a dialler's rest.
    hastened: Arc<Notify>,
}

impl GrpcTransport {
    /// Accepts peers on `listener` and introduces this node as `identity` says. Dials from the address listened on, so that
    /// peers and what lies between see a host with several addresses under the one it is known by.
    #[must_use]
    pub fn start(
        settings: Settings,
        listener: TcpListener,
        identity: Identity,
        inbox: Arc<dyn Inbox>,
    ) -> Self {
        let Identity { hello, key, nonces } = identity;
        let cluster = hello.cluster.map(OnceLock::from).unwrap_or_default();
        // Members have the rest of the places.
        let guests_max = limits::GUESTS_MAX.min(settings.connections_max / 2);
        let shared = Arc::new(Shared {
            settings,
            hello,
            key,
            nonces,
            lobby: Arc::new(Lobby::new(guests_max)),
            cluster,
            inbox,
            dials_from: listener.local_addr().ok().and_then(|address| source(address.ip())),
            peers: Mutex::default(),
            stopping: watch::Sender::new(false),
        });
        tokio::spawn(server::run(Arc::clone(&shared), listener));
        Self(shared)
    }
}

/// The address to dial from for one who listens on `address`. Nobody dials from all addresses, and from plain
/// loopback other machines could not be reached.
fn source(address: IpAddr) -> Option<IpAddr> {
    let is_plain = address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST;
    (!is_plain && !address.is_unspecified()).then_some(address)
}

/// Why two nodes cannot talk; either side tells the other.
fn strangers(one: &Hello, other: &Hello) -> String {
    let (older, newer) =
        if one.versions.newest < other.versions.newest { (one, other) } else { (other, one) };
    format!(
        "node {} speaks versions {} of the protocol and node {} speaks {}: upgrade the first by way of a release that \
         speaks versions of both",
        older.node.short(),
        older.versions,
        newer.node.short(),
        newer.versions,
    )
}

impl Shared {
    /// A greeting for a new connection.
    fn greeting(&self, is_question: bool) -> Greeting {
        let hello = Hello { cluster: self.cluster.get().copied(), is_question, ..self.hello.clone() };
        Greeting { hello, nonce: Some((self.nonces)()) }
    }

    /// Whether connections with a node are kept.
    fn is_member(&self, node: NodeId) -> bool {
        self.peers.lock().get(&node).is_some_and(|peer| peer.address.is_some())
    }

    fn cluster(&self) -> ClusterId {
        self.cluster.get().copied().unwrap_or_default()
    }

    /// Ends guests that have stayed too long; those that are members by now are guests no more.
    fn let_members_through(&self) {
        self.lobby.sweep(|node| self.is_member(node));
    }

    /// The version to use with a node that says this of itself, if a connection with it may stand. A question may
    /// be asked of this node itself: discovery does not know who asks.
    fn check(&self, peer: &Hello, is_question: bool) -> Result<u8, Failed> {
        match (self.cluster.get(), peer.cluster) {
            (Some(ours), Some(theirs)) if *ours != theirs => Err(Failed::Refused(format!(
                "node {} belongs to cluster {}, this one to {}",
                peer.node.short(),
                theirs.short(),
                ours.short()
            ))),
            _ if peer.node == self.hello.node && !is_question => {
                Err(Failed::Unreachable("the node at that address is this one".to_owned()))
            }
            _ => {
                let agreed = self.hello.versions.agree(peer.versions);
                agreed.ok_or_else(|| Failed::Refused(strangers(&self.hello, peer)))
            }
        }
    }

    /// Takes a new connection in; `false` when another one of the pair stays instead.
    fn establish(&self, link: &Arc<Link>) -> bool {
        let keeps_ours = self.hello.node < link.peer.node;
        let replaced = {
            let mut peers = self.peers.lock();
            let peer = peers.entry(link.peer.node).or_default();
            let stays = |known: &Arc<Link>| {
                known.is_ours == keeps_ours
                    && link.is_ours != keeps_ours
                    && known.peer.incarnation == link.peer.incarnation
                    && !known.is_closed()
            };
            if peer.link.as_ref().is_some_and(stays) {
                return false;
            }
            peer.link.replace(Arc::clone(link))
        };
        if let Some(known) = replaced {
            self.inbox.disconnected(link.peer.node, known.close_and_drain());
        }
        self.inbox.connected(&link.peer);
        true
    }

    /// A connection has ended.
    fn ended(&self, link: &Arc<Link>) {
        let unsent = link.close_and_drain();
        let mut peers = self.peers.lock();
        let Some(peer) = peers.get_mut(&link.peer.node) else { return };
        if peer.link.as_ref().is_some_and(|known| Arc::ptr_eq(known, link)) {
            peer.link = None;
            if peer.address.is_none() {
                peers.remove(&link.peer.node);
            }
            drop(peers);
            self.inbox.disconnected(link.peer.node, unsent);
        }
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        let peers = self.peers.lock();
        peers.get(&peer).and_then(|peer| peer.link.as_ref()).is_some_and(|link| !link.is_closed())
    }

    fn address(&self, peer: NodeId) -> Option<String> {
        self.peers.lock().get(&peer).and_then(|peer| peer.address.clone())
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError> {
        let link = self.0.peers.lock().get(&to).and_then(|peer| peer.link.clone());
        link.ok_or(SendError::NotConnected)?.push(message)
    }

    fn set_peers(&self, addresses: BTreeMap<NodeId, String>) {
        let mut peers = self.0.peers.lock();
        for (node, peer) in peers.iter_mut().filter(|(node, _)| !addresses.contains_key(node)) {
            tracing::info!(peer = %node.short(), "is a member no more");
            peer.address = None;
            if let Some(dialler) = peer.dialler.take() {
                dialler.abort();
            }
        }
        for (node, address) in addresses {
            let peer = peers.entry(node).or_default();
            let before = peer.address.replace(address);
            if before.is_some() && before != peer.address {
                peer.hastened.notify_one();
            }
            if peer.dialler.is_none() {
                let dialler = client::keep_dialling(Arc::clone(&self.0), node, Arc::clone(&peer.hastened));
                peer.dialler = Some(tokio::spawn(dialler));
            }
        }
    }

    fn set_cluster(&self, cluster: ClusterId) {
        self.0.cluster.get_or_init(|| cluster);
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.0.is_connected(peer)
    }

    fn is_overloaded(&self, peer: NodeId) -> bool {
        let link = self.0.peers.lock().get(&peer).and_then(|peer| peer.link.clone());
        link.is_some_and(|link| link.is_full())
    }

    fn withdraw(&self, to: NodeId, ids: &BTreeSet<u64>) -> BTreeSet<u64> {
        let link = self.0.peers.lock().get(&to).and_then(|peer| peer.link.clone());
        link.map_or_else(BTreeSet::new, |link| link.withdraw(ids))
    }

    fn hasten(&self, peer: NodeId) {
        if let Some(peer) = self.0.peers.lock().get(&peer) {
            peer.hastened.notify_one();
        }
    }

    fn ask(
        &self,
        address: String,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(Hello, Reply), AskError>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let asking = client::ask(&shared, &address, request);
            match tokio::time::timeout(deadline, asking).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(Failed::Refused(reason))) => Err(AskError::Refused { address, reason }),
                Ok(Err(Failed::Unreachable(reason))) => Err(AskError::Unreachable { address, reason }),
                Err(_) => Err(AskError::TimedOut { address }),
            }
        })
    }

    fn shutdown(&self) {
        self.0.stopping.send_replace(true);
        let links: Vec<Arc<Link>> = {
            let mut peers = self.0.peers.lock();
            peers.values_mut().filter_map(|peer| peer.dialler.take()).for_each(|dialler| dialler.abort());
            peers.values().filter_map(|peer| peer.link.clone()).collect()
        };
        links.iter().for_each(|link| link.close());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_from_the_address_listened_on_unless_that_would_reach_nobody() {
        let from = |text: &str| source(text.parse().expect("an address")).map(|address| address.to_string());
        assert_eq!(from("127.0.0.11").as_deref(), Some("127.0.0.11"));
        assert_eq!(from("10.0.0.7").as_deref(), Some("10.0.0.7"));
        for text in ["0.0.0.0", "::", "127.0.0.1", "::1"] {
            assert_eq!(from(text), None, "{text}");
        }
    }
}
