//! What every part of a running node shares.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use slipring_consensus::LayoutGroup;
use slipring_membership::ClusterKey;
use slipring_model::{Actor, ClusterId, Moment, Mutant, NodeId};
use slipring_ring::Addresses;
use slipring_service::Context;
use slipring_storage::{Engine, MetaStore};
use slipring_transport::{SendError, Transport};
use slipring_wire::{Message, Reply, Request};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::clocks::AgreedTime;
use crate::forming::{Acquaintance, Rivals};
use crate::gossip::{ClusterSecret, Gossip};
use crate::handler::Handler;
use crate::health::Health;
use crate::hearsay::Hearsay;
use crate::hints::HintLog;
use crate::identity::Identity;
use crate::metrics::Metrics;
use crate::moving::Moving;
use crate::muster::Muster;
use crate::recovery::Recovery;
use crate::requests::{Entry, Requests, Timer};
use crate::room::Rooms;
use crate::settings::Settings;
use crate::sync::Syncer;
use crate::view::View;
use crate::whereabouts::Whereabouts;

/// The state of one node. Its parts are behind short locks that are never held across a wait.
pub(crate) struct Core {
    /// This very node.
    pub(crate) handle: Weak<Core>,
    pub(crate) settings: Settings,
    pub(crate) me: NodeId,
    pub(crate) incarnation: u64,
    /// Drawn at this start.
    pub(crate) boot: u64,
    pub(crate) identity: Identity,
    pub(crate) addresses: Addresses,
    pub(crate) cluster: OnceLock<ClusterId>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) time: AgreedTime,
    pub(crate) began: Instant,
    pub(crate) meta: MetaStore,
    pub(crate) disk: Arc<dyn Engine>,
    pub(crate) memory: Arc<dyn Engine>,
    pub(crate) handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
    pub(crate) view: ArcSwapOption<View>,
    /// The epoch whose fences all stand here.
    pub(crate) adopted: watch::Sender<u64>,
    pub(crate) moving: Moving,
    pub(crate) acquaintance: Acquaintance,
    pub(crate) rivals: Rivals,
    pub(crate) muster: Muster,
    pub(crate) hearsay: Hearsay,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) recovery: Recovery,
    pub(crate) gossip: Gossip,
    pub(crate) health: Health,
    /// The cluster's secret, when an operator has set one.
    pub(crate) secret: Option<ClusterSecret>,
    /// The cluster's key that its founder drew, when none is set.
    pub(crate) cluster_key: OnceLock<ClusterKey>,
    pub(crate) transport: OnceLock<Arc<dyn Transport>>,
    pub(crate) group: OnceLock<LayoutGroup>,
    pub(crate) requests: Requests,
    pub(crate) rooms: Rooms,
    pub(crate) syncer: Syncer,
    pub(crate) hints: HintLog,
    pub(crate) budget: Budget,
    pub(crate) clients: Clients,
    pub(crate) metrics: Metrics,
    /// Set once, with the reason, when the node must not go on.
    pub(crate) stop: watch::Sender<Option<String>>,
}

impl Core {
    /// The node's monotonic time.
    pub(crate) fn now(&self) -> Moment {
        Moment::default().after(self.began.elapsed())
    }

    pub(crate) fn view(&self) -> Option<Arc<View>> {
        self.view.load_full()
    }

    pub(crate) fn actor(&self, assignment: u64) -> Actor {
        let incarnation = if Mutant::ReuseDots.is_planted() { 0 } else { self.incarnation };
        Actor { assignment, incarnation }
    }

    pub(crate) fn context(&self, policy: &slipring_model::BucketPolicy) -> Context {
        Context {
            now_ms: self.agreed_ms(),
            random: 0,
            default_ttl_ms: policy.ttl_ms.map(std::num::NonZeroU64::get),
            keeps_siblings: policy.on_conflict == slipring_model::bucket::OnConflict::Siblings,
        }
    }

    /// Queues a message for a peer; `false` when it was not and will not be sent.
    pub(crate) fn send(&self, to: NodeId, message: Message) -> bool {
        self.queue(to, message).is_ok()
    }

    /// Queues a message for a peer, or tells why it was not and will not be sent.
    pub(crate) fn queue(&self, to: NodeId, message: Message) -> Result<(), SendError> {
        self.transport.get().ok_or(SendError::NotConnected)?.send(to, message)
    }

    /// Whether a node takes more messages than wait for it already; always so for this one.
    pub(crate) fn takes_more(&self, node: NodeId) -> bool {
        node == self.me || self.transport.get().is_some_and(|transport| !transport.is_overloaded(node))
    }

    pub(crate) fn answer(&self, to: NodeId, id: u64, reply: Reply) {
        if !self.send(to, Message::Reply { id, reply }) {
            self.metrics.replies_dropped.inc();
        }
    }

    /// Whether requests can be sent to a node.
    pub(crate) fn is_reachable(&self, node: NodeId) -> bool {
        let is_connected = || self.transport.get().is_some_and(|transport| transport.is_connected(node));
        node == self.me || is_connected() && !self.muster.refuses(node)
    }

    /// Asks a peer and waits for its answer; `None` when none came in time.
    pub(crate) async fn ask(&self, to: NodeId, request: Request, timeout: Duration) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        let id = self.requests.insert(Entry::Ask { to, reply });
        self.requests.arm(self.now().after(timeout), id, Timer::Deadline);
        if !self.send(to, Message::Request { id, request }) {
            self.requests.remove(id);
            return None;
        }
        answer.await.ok().flatten()
    }

    /// Ends the node with a reason that its owner is told.
    pub(crate) fn give_up(&self, reason: String) {
        self.end(reason, false);
    }

    /// Ends the node, unless something has ended it before; whether it is as was asked.
    pub(crate) fn end(&self, reason: String, has_left: bool) {
        self.stop.send_if_modified(|stop| {
            let is_first = stop.is_none();
            if is_first {
                match has_left {
                    true => tracing::info!(%reason, "the node stops"),
                    false => tracing::error!(%reason, "the node stops"),
                }
                self.muster.has_left.store(has_left, std::sync::atomic::Ordering::Release);
                *stop = Some(reason);
            }
            is_first
        });
    }
}
