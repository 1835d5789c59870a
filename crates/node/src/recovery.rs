//! Recovery: what this node missed while it was away, or while a peer could not reach it.
//!
//! Whenever a connection with a peer comes about, both compare all that they share, as in any exchange. Until that
//! is done once, the two are not in step: one of them may lack what hints had no room for. A node that has just
//! started asks for clients when it is in step with every peer that it could reach. What moves to a node is not
//! compared here: its move brings it.
//!
//! Invariant: two nodes in step hold the same of every write that was applied on either before they connected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::{Mutant, NodeId, limits};
use tokio::sync::Notify;

use crate::core::Core;
use crate::view::View;

/// How long to rest when not everything could be compared.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// A peer that could not be reached for so long after this node's start is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connections with one peer so far, and how many there had been when all was compared.
#[derive(Clone, Copy, Debug, Default)]
struct Meetings {
    connected: u64,
    compared: Option<u64>,
}

/// With whom this node is in step.
#[derive(Default)]
pub(crate) struct Recovery {
    peers: Mutex<BTreeMap<NodeId, Meetings>>,
    wake: Notify,
    /// Whether this node has caught up since its start. What comes later is not its start's affair.
    is_over: AtomicBool,
}

impl Recovery {
    /// A connection with a peer has come about.
    pub(crate) fn met(&self, peer: NodeId) {
        let mut peers = self.peers.lock();
        if peers.len() < limits::NODES_MAX || peers.contains_key(&peer) {
            peers.entry(peer).or_default().connected += 1;
        }
        self.wake.notify_one();
    }

    /// How often a connection with a peer has come about.
    fn connected(&self, peer: NodeId) -> u64 {
        self.peers.lock().get(&peer).map_or(0, |meetings| meetings.connected)
    }

    /// All that is shared with a peer has been compared since the connection of this number came about.
    fn compared(&self, peer: NodeId, connected: u64) {
        let mut peers = self.peers.lock();
        peers.entry(peer).or_default().compared = Some(connected);
    }

    /// Forgets peers that are no members; one that becomes a member is compared with then.
    fn forget_others(&self, view: &View) {
        self.peers.lock().retain(|peer, _| view.layout.nodes().contains_key(peer));
    }

    /// Whether all that is shared with a peer has been compared since the two were last connected.
    fn is_in_step(&self, peer: NodeId) -> bool {
        self.peers.lock().get(&peer).is_some_and(|meetings| meetings.compared == Some(meetings.connected))
    }
}

impl Core {
    /// Compares with whoever has been connected anew, for ever.
    pub(crate) async fn run_recovery(self: Arc<Self>) {
        loop {
            tokio::select! {
                biased;
                () = self.recovery.wake.notified() => {}
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
            let is_open = self.may_serve() && !Mutant::SkipExchange.is_planted();
            let Some(view) = self.view().filter(|view| is_open && self.has_registered(view)) else {
                continue;
            };
            self.recovery.forget_others(&view);
            for peer in self.out_of_step(&view).into_iter().filter(|peer| self.is_reachable(*peer)) {
                let connected = self.recovery.connected(peer);
                if self.compare_with_peer(&view, peer).await {
                    self.recovery.compared(peer, connected);
                }
            }
            // Noted there, also when nobody asks.
            let _ = self.check_caught_up();
        }
    }

    /// Compares everything shared with a peer; `false` when not everything could be.
    async fn compare_with_peer(&self, view: &View, peer: NodeId) -> bool {
        for bucket in view.buckets() {
            match self.exchange(view, peer, bucket, |place| place.is_held_by_both(self.me, peer)).await {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    tracing::warn!(peer = %peer.short(), %error, "an exchange after a connection broke off");
                    return false;
                }
            }
        }
        true
    }

    /// Whether a view is as new as this node's start, or there is nobody to have made a newer one.
    fn has_registered(&self, view: &View) -> bool {
        let own = view.layout.nodes().get(&self.me);
        view.layout.nodes().len() == 1
            || own.is_some_and(|entry| (entry.incarnation, entry.boot) == (self.incarnation, self.boot))
    }

    /// The members that share partitions with this node and cannot be reached, or have not been compared with since
    /// the two were last connected.
    pub(crate) fn out_of_step(&self, view: &View) -> Vec<NodeId> {
        let others = view.layout.nodes().keys().filter(|node| **node != self.me);
        let is_in_step = |node: NodeId| self.recovery.is_in_step(node) && self.is_reachable(node);
        let mut behind: Vec<NodeId> = others.copied().filter(|node| !is_in_step(*node)).collect();
        if behind.is_empty() {
            return behind;
        }
        let places = || view.buckets().flat_map(|bucket| &bucket.places);
        behind.retain(|node| places().any(|place| place.is_held_by_both(self.me, *node)));
        behind
    }

    /// A peer that this node waits for before its start is over: not one that stays away.
    fn awaited(&self, view: &View) -> Option<NodeId> {
        let is_patient = self.began.elapsed() < PATIENCE;
        self.out_of_step(view).into_iter().find(|peer| is_patient || self.is_reachable(*peer))
    }

    /// Whether this node has what it missed before its start.
    ///
    /// # Errors
    /// What it waits for.
    pub(crate) fn check_caught_up(&self) -> Result<(), String> {
        if self.recovery.is_over.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(view) = self.view().filter(|view| self.has_registered(view)) else {
            return Err("this node does not know the newest layout yet".to_owned());
        };
        match self.awaited(&view) {
            None => {
                // What comes later changes nothing: somebody may have been told.
                if !self.recovery.is_over.swap(true, Ordering::AcqRel) {
                    tracing::info!("this node has caught up since its start");
                }
                Ok(())
            }
            Some(peer) if self.is_reachable(peer) => Err(format!(
                "this node's copies have not been compared with those of node {} since its start",
                peer.short()
            )),
            Some(peer) => Err(format!("node {} has not been reached since this node's start", peer.short())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    #[test]
    fn a_peer_is_in_step_once_compared_and_no_more_when_connected_anew() {
        let recovery = Recovery::default();
        assert!(!recovery.is_in_step(PEER), "it was never connected");
        recovery.met(PEER);
        let first = recovery.connected(PEER);
        assert!(!recovery.is_in_step(PEER));
        recovery.compared(PEER, first);
        assert!(recovery.is_in_step(PEER));
        recovery.met(PEER);
        assert!(!recovery.is_in_step(PEER));
    }

    #[test]
    fn a_comparison_that_a_new_connection_overtook_does_not_count() {
        let recovery = Recovery::default();
        recovery.met(PEER);
        let began_under = recovery.connected(PEER);
        recovery.met(PEER);
        recovery.compared(PEER, began_under);
        assert!(!recovery.is_in_step(PEER));
    }
}
