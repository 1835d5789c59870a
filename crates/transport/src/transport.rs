//! What the node asks of a transport, and a transport of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use slipring_model::{ClusterId, NodeId};
use slipring_wire::{Hello, Message, Reply, Request};
use thiserror::Error;

/// Carries messages between nodes. Messages to one peer arrive in order or not at all.
pub trait Transport: Send + Sync + 'static {
    /// Queues a message for a peer. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]: the message was not sent and will not be.
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError>;

    /// Whom to keep connected with, and where each can be dialled. A peer that dials from elsewhere is as good.
    fn set_peers(&self, peers: BTreeMap<NodeId, String>);

    /// The cluster this node belongs to from now on; nodes of others are refused.
    fn set_cluster(&self, cluster: ClusterId);

    /// Whether messages to a peer can be sent.
    fn is_connected(&self, peer: NodeId) -> bool;

    /// Whether a peer that is connected takes no more messages now.
    fn is_overloaded(&self, _peer: NodeId) -> bool {
        false
    }

    /// Takes requests back that wait here and have not left for a peer; returns which of `ids` those were.
    fn withdraw(&self, _to: NodeId, _ids: &BTreeSet<u64>) -> BTreeSet<u64> {
        BTreeSet::new()
    }

    /// A peer is known to be there: it is dialled at once, where that was put off.
    fn hasten(&self, _peer: NodeId) {}

    /// Asks one question of whatever node answers at an address.
    fn ask(
        &self,
        address: String,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(Hello, Reply), AskError>>;

    /// Closes every connection and takes no more.
    fn shutdown(&self);
}

/// What arrives, and who comes and goes. Called from the task that reads a connection: it must not block, and
/// nothing more is read from that peer until it returns.
pub trait Inbox: Send + Sync + 'static {
    /// A node that wants to be a peer has dialled this one and said so much of itself, and nothing of it is proven. No
    /// connection need come of it.
    fn dialled(&self, _by: &Hello) {}

    /// A peer is connected. Comes before its first message.
    fn connected(&self, peer: &Hello);

    /// A peer's connection is gone, and with it whatever was on the way. Comes once for each `connected`. `unsent` holds the
    /// ids of the requests that waited here and never left.
    fn disconnected(&self, peer: NodeId, unsent: BTreeSet<u64>);

    /// The messages of one frame, in order.
    fn messages(&self, from: NodeId, messages: Vec<Message>);

    /// A question of a node that is no peer.
    fn asked(&self, hello: &Hello, request: Request) -> BoxFuture<'static, Reply>;
}

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SendError {
    /// There is no connection to the peer.
    #[error("the peer is not connected")]
    NotConnected,
    /// The peer takes messages more slowly than they come.
    #[error("too much waits for the peer already")]
    Overloaded,
}

/// Why a question has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AskError {
    /// Nobody answers at the address.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// What happened.
        reason: String,
    },
    /// Whoever answers there will have nothing to do with this node, or this node with it.
    #[error("{address} cannot be talked with: {reason}")]
    Refused {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer came in time.
    #[error("{address} did not answer in time")]
    TimedOut {
        /// Where.
        address: String,
    },
}
