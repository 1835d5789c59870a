//! Who is there: the membership machine, run on this node's socket, clock and meta store.
//!
//! `driver` owns the machine and does what it asks for, `listing` tells it who the layout names and where each
//! is, `keeper` keeps what must outlive the process. What the rest of the node sees is [`Gossip`]: how each
//! member is believed to be, since when, and a few counters.
//!
//! Invariant: nothing here changes who holds what, nor whether a connected peer is asked.

mod datagrams;
mod driver;
mod keeper;
mod listing;
mod metrics;
mod secret;
mod standing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_membership::{Counters, Membership, Metadata};
use slipring_model::{Moment, NodeId};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use datagrams::{Datagrams, UdpDatagrams};
pub(crate) use metrics::GossipMetrics;
pub use secret::{ClusterSecret, InvalidSecret};
pub use standing::{GossipStatus, MemberState, MemberStatus};

use crate::core::Core;
use standing::Standings;

/// Words to the driver that may wait; more than this from connections are dropped: probes notice as well.
const WORDS_MAX: usize = 1_024;
/// How long a node that stops waits until others know it.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the rest of the node tells the driver.
enum Word {
    /// A connection with a peer has come about.
    Met(NodeId),
    /// What came of a probe over a stream.
    StreamProbed { token: u64, is_reachable: bool },
    /// The layout names these nodes; and what this node tells of its own layout.
    Listed(BTreeMap<NodeId, Option<SocketAddr>>, Metadata),
    /// The node stops; the sender is dropped when the others know it.
    Leave(oneshot::Sender<()>),
}

/// What the machine runs on.
pub(crate) struct Means {
    pub(crate) datagrams: Arc<dyn Datagrams>,
    pub(crate) seed: u64,
}

/// What the machine counted, and its health.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    counters: Counters,
    health_score: u32,
    layout_epoch_heard: u64,
}

/// What the node knows of who is there, and its way to the driver.
pub(crate) struct Gossip {
    words: mpsc::Sender<Word>,
    /// Taken by the driver.
    inbox: Mutex<Option<mpsc::Receiver<Word>>>,
    standings: Mutex<Standings>,
    /// Whether any member is in doubt: most requests need to know no more.
    has_doubts: AtomicBool,
    tally: Mutex<Tally>,
}

impl Default for Gossip {
    fn default() -> Self {
        let (words, inbox) = mpsc::channel(WORDS_MAX);
        Self {
            words,
            inbox: Mutex::new(Some(inbox)),
            standings: Mutex::default(),
            has_doubts: AtomicBool::new(false),
            tally: Mutex::default(),
        }
    }
}

impl Gossip {
    /// A connection with a peer has come about: it is there, whatever was believed.
    pub(crate) fn met(&self, peer: NodeId) {
        // A full channel means a busy driver, and probes will find the same out.
        let _ = self.words.try_send(Word::Met(peer));
    }

    /// How a member is believed to be; nothing where no gossip runs.
    pub(crate) fn member(&self, node: NodeId, now: Moment) -> Option<MemberStatus> {
        self.standings.lock().get(node, now)
    }

    /// Whether a member did not answer the last probe made of it, or is gone.
    pub(crate) fn doubts(&self, peer: NodeId) -> bool {
        self.has_doubts.load(Ordering::Acquire) && self.standings.lock().is_in_doubt(peer)
    }

    /// What gossip counted; nothing where none runs.
    pub(crate) fn status(&self) -> Option<GossipStatus> {
        let is_running = self.inbox.lock().is_none();
        is_running.then(|| GossipStatus::new(*self.tally.lock()))
    }

    /// Looks at one member again, or at all.
    fn look(&self, machine: &Membership, node: Option<NodeId>, now: Moment) {
        let mut standings = self.standings.lock();
        match node {
            Some(node) => standings.look_at(machine, node, now),
            None => standings.take_stock(machine, now),
        }
        let [_, suspected, gone] = standings.census();
        self.has_doubts.store(suspected + gone > 0, Ordering::Release);
    }

    fn tally(&self) -> Tally {
        *self.tally.lock()
    }
}

impl Core {
    /// The tasks of gossip; none without the cluster's key.
    pub(crate) fn spawn_gossip(self: &Arc<Self>, means: Means) -> Vec<JoinHandle<()>> {
        let Some(keys) = self.gossip_keys() else {
            tracing::warn!(
                "this node has no cluster key, so it takes no part in gossip: the cluster's key is set in the \
                 configuration of its other nodes; set the same here"
            );
            return Vec::new();
        };
        let Some(words) = self.gossip.inbox.lock().take() else { return Vec::new() };
        let (keeper, kept) = keeper::channel(&self.meta);
        vec![
            tokio::spawn(listing::run(Arc::clone(self), Arc::clone(&means.datagrams))),
            tokio::spawn(driver::run(Arc::clone(self), means, keys, words, keeper)),
            tokio::spawn(keeper::run(Arc::clone(self), kept)),
        ]
    }

    /// Tells the others that this node stops; the future ends when some of them know, or after a short while.
    pub(crate) fn leave_gossip(&self) -> impl Future<Output = ()> + Send + use<> {
        let (left, others_know) = oneshot::channel();
        let is_running = self.gossip.inbox.lock().is_none();
        let is_told = is_running && self.gossip.words.try_send(Word::Leave(left)).is_ok();
        async move {
            if is_told {
                // Either way the node stops: others will find out by probing.
                let _ = tokio::time::timeout(FAREWELL, others_know).await;
            }
        }
    }

    /// Members believed to be alive, suspected and gone, this node not among them.
    pub(crate) fn gossip_census(&self) -> [u64; 3] {
        self.gossip.standings.lock().census()
    }

    pub(crate) fn count_gossip(&self) {
        self.metrics.gossip.set(&self.gossip.tally(), self.gossip_census());
    }
}
