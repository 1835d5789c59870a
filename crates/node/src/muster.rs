//! Who may take part: this node once the cluster has agreed to its start, a peer unless it was rolled back.
//!
//! A data directory that was restored from an older copy has forgotten what it acknowledged. The layout knows
//! every start; a node that comes with an older one, or with a second one of the same number, is refused by
//! its peers and stops as soon as it hears of it. Until its start is agreed on it answers for no copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_consensus::ProposeError;
use slipring_model::{Error, NodeId, limits};
use slipring_ring::{Command, Layout, Refused};
use slipring_wire::Hello;

use crate::core::Core;
use crate::failure::unavailable;

/// How long to rest before registering this start is tried again.
const REGISTRATION_REST: Duration = Duration::from_millis(100);

/// What is known of starts.
#[derive(Default)]
pub(crate) struct Muster {
    is_agreed: AtomicBool,
    /// Incarnation and boot of each peer, as it told them.
    starts: Mutex<BTreeMap<NodeId, (u64, u64)>>,
    refused: Mutex<BTreeSet<NodeId>>,
    has_refused: AtomicBool,
}

impl Muster {
    /// A peer has told of its start.
    pub(crate) fn met(&self, hello: &Hello) {
        let mut starts = self.starts.lock();
        if starts.len() < limits::NODES_MAX || starts.contains_key(&hello.node) {
            starts.insert(hello.node, (hello.incarnation, hello.boot));
        }
    }

    /// Holds the starts of peers against a layout.
    pub(crate) fn review(&self, layout: &Layout) {
        let starts = self.starts.lock();
        let is_refused = |(node, (incarnation, boot)): (&NodeId, &(u64, u64))| {
            let entry = layout.nodes().get(node)?;
            entry.is_rolled_back(*incarnation, *boot).then_some(*node)
        };
        let refused: BTreeSet<NodeId> = starts.iter().filter_map(is_refused).collect();
        self.has_refused.store(!refused.is_empty(), Ordering::Release);
        *self.refused.lock() = refused;
    }

    /// Whether a peer must not take part.
    pub(crate) fn refuses(&self, peer: NodeId) -> bool {
        self.has_refused.load(Ordering::Acquire) && self.refused.lock().contains(&peer)
    }
}

impl Core {
    /// Whether this node may answer for its copies: its start is agreed on, or there is nobody to agree with.
    pub(crate) fn may_serve(&self) -> bool {
        self.muster.is_agreed.load(Ordering::Acquire)
            || self.view.load().as_ref().is_some_and(|view| view.layout.nodes().len() == 1)
    }

    pub(crate) fn check_may_serve(&self) -> Result<(), Error> {
        if self.may_serve() {
            return Ok(());
        }
        Err(unavailable("the cluster has not agreed to this node's start yet; try another node, or again"))
    }

    /// The cluster has seen a later start of this node.
    pub(crate) fn was_rolled_back(&self) {
        if let Err(error) = crate::identity::retire(&self.meta) {
            tracing::error!(%error, "the directory could not be marked as rolled back");
        }
        self.give_up(
            "the cluster has seen a later start of this node: its data directory was rolled back to an older \
             copy and must not be used; remove it and join as a new node"
                .to_owned(),
        );
    }

    /// The cluster has let this node go.
    pub(crate) fn was_removed(&self) {
        self.give_up(
            "this node is no member of its cluster any more; remove its data directory and join as a new node"
                .to_owned(),
        );
    }

    /// Tells the cluster of this start: incarnation and addresses. Tries until it is agreed.
    pub(crate) async fn run_registration(self: Arc<Self>) {
        let command = Command::UpdateNode {
            node: self.me,
            storage: self.identity.storage,
            incarnation: self.incarnation,
            boot: self.boot,
            addresses: self.addresses.clone(),
            versions: self.settings.versions,
        };
        loop {
            match self.propose_to_group(command.clone()).await {
                Ok(_) => return self.muster.is_agreed.store(true, Ordering::Release),
                Err(ProposeError::Unavailable(_) | ProposeError::Unknown(_)) => {}
                Err(ProposeError::Refused(Refused::UnknownNode { .. })) => return self.was_removed(),
                Err(ProposeError::Refused(Refused::RolledBack { .. })) => return self.was_rolled_back(),
                Err(ProposeError::Refused(refused)) => {
                    return self.give_up(format!("the cluster refused this start: {refused}"));
                }
            }
            tokio::time::sleep(REGISTRATION_REST).await;
        }
    }
}
