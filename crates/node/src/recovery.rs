//! Recovery: what this node missed while it was away, or while a peer could not reach it.
//!
//! Whenever a connection with a peer comes about, both compare all that they share, as in any exchange. Until that
//! is done once, the two are not in step: one of them may lack what hints had no room for. A node that has just
//! started asks for clients when it is in step with every peer that it could reach. What moves to a node is not
//! compared while it does: its move brings it. But what was written between that and a connection may lack there; so
//! two that will share what moves, and were connected anew meanwhile, compare again once nothing moves any more.
//!
//! Invariant: two nodes in step hold the same of every write that was applied on either before they connected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::{Mutant, NodeId, limits};
use slipring_ring::Replica;
use tokio::sync::Notify;

use crate::budget::Class;
use crate::core::Core;
use crate::view::View;

/// How long to rest when not everything could be compared.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// A peer that could not be reached for so long after this node's start is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// The connections with one peer so far, and the moment when all was compared.
#[derive(Clone, Copy, Debug, Default)]
struct Meetings {
    connected: u64,
    compared: Option<Compared>,
}

/// When a comparison began.
#[derive(Clone, Copy, Debug)]
struct Compared {
    /// How many connections there had been.
    connected: u64,
    /// How often all moves had ended by then, where something that moves was left out.
    left_out: Option<u64>,
}

/// With whom this node is in step.
#[derive(Default)]
pub(crate) struct Recovery {
    peers: Mutex<BTreeMap<NodeId, Meetings>>,
    wake: Notify,
    /// How often it has come about that nothing moves any more.
    settled: AtomicU64,
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

    /// A new view is in force: all that moved may have arrived.
    pub(crate) fn adopted(&self, before: &View, now: &View) {
        if before.layout.is_moving() && !now.layout.is_moving() {
            self.settled.fetch_add(1, Ordering::AcqRel);
            self.wake.notify_one();
        }
    }

    /// A comparison with a peer that begins now. Asked before the view that it is made under is looked up.
    fn begin(&self, peer: NodeId) -> Compared {
        let settled = self.settled.load(Ordering::Acquire);
        let connected = self.peers.lock().get(&peer).map_or(0, |meetings| meetings.connected);
        Compared { connected, left_out: Some(settled) }
    }

    /// All that is shared with a peer under this view has been compared since then.
    fn compared(&self, view: &View, me: NodeId, peer: NodeId, begun: Compared) {
        let left_out = begun.left_out.filter(|_| will_share_more(view, me, peer));
        self.peers.lock().entry(peer).or_default().compared = Some(Compared { left_out, ..begun });
    }

    /// Forgets peers that are no members; one that becomes a member is compared with then.
    fn forget_others(&self, view: &View) {
        self.peers.lock().retain(|peer, _| view.layout.nodes().contains_key(peer));
    }

    /// Whether all that is shared with a peer has been compared since the two were last connected.
    fn is_in_step(&self, peer: NodeId) -> bool {
        let settled = self.settled.load(Ordering::Acquire);
        let is_current = |meetings: &Meetings| {
            meetings.compared.is_some_and(|compared| {
                compared.connected == meetings.connected
                    && compared.left_out.is_none_or(|left_out| left_out == settled)
            })
        };
        self.peers.lock().get(&peer).is_some_and(is_current)
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
                let begun = self.recovery.begin(peer);
                let Some(view) = self.view() else { continue };
                if self.compare_with_peer(&view, peer).await {
                    self.recovery.compared(&view, self.me, peer, begun);
                }
            }
            // Noted there, also when nobody asks.
            let _ = self.check_caught_up();
        }
    }

    /// Compares everything shared with a peer; `false` when not everything could be.
    async fn compare_with_peer(&self, view: &View, peer: NodeId) -> bool {
        for bucket in view.buckets() {
            match self
                .exchange(view, (peer, Class::Recovery), bucket, |place| place.is_held_by_both(self.me, peer))
                .await
            {
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

/// Whether anything moves that both nodes are to hold and do not both hold yet.
fn will_share_more(view: &View, me: NodeId, peer: NodeId) -> bool {
    let are_both = |replicas: &[Replica]| {
        [me, peer].iter().all(|node| replicas.iter().any(|replica| replica.node == *node))
    };
    view.layout.moves().any(|(_, holders)| are_both(holders.target()) && !are_both(&holders.replicas))
}

#[cfg(test)]
mod tests {
    use slipring_ring::Layout;

    use super::*;
    use crate::view::tests::{arrive, join, node, settled, view_of};

    const PEER: NodeId = NodeId([1; 32]);

    #[test]
    fn a_peer_is_in_step_once_compared_and_no_more_when_connected_anew() {
        let (recovery, view) = (Recovery::default(), view_of(&settled(2), 2));
        assert!(!recovery.is_in_step(PEER), "it was never connected");
        recovery.met(PEER);
        let first = recovery.begin(PEER);
        assert!(!recovery.is_in_step(PEER));
        recovery.compared(&view, node(2), PEER, first);
        assert!(recovery.is_in_step(PEER));
        recovery.met(PEER);
        assert!(!recovery.is_in_step(PEER));
    }

    #[test]
    fn a_comparison_that_a_new_connection_overtook_does_not_count() {
        let (recovery, view) = (Recovery::default(), view_of(&settled(2), 2));
        recovery.met(PEER);
        let begun = recovery.begin(PEER);
        recovery.met(PEER);
        recovery.compared(&view, node(2), PEER, begun);
        assert!(!recovery.is_in_step(PEER));
    }

    /// Three nodes and a fourth that joins: while partitions move to it, and once they have arrived.
    fn joined_by_four() -> (Layout, Layout) {
        let mut moving = settled(3);
        join(&mut moving, 4);
        let mut over = moving.clone();
        arrive(&mut over);
        (moving, over)
    }

    #[test]
    fn what_has_moved_is_compared_by_those_who_were_connected_meanwhile() {
        let (moving, over) = joined_by_four();
        let pairs = [(1, 4), (4, 1), (2, 4), (4, 2), (3, 4), (4, 3)];
        let mut are_sharing = 0;
        for (me, peer) in pairs {
            let (moving, over) = (view_of(&moving, me), view_of(&over, me));
            let (me, peer, recovery) = (node(me), node(peer), Recovery::default());
            recovery.met(peer);
            recovery.compared(&moving, me, peer, recovery.begin(peer));
            assert!(recovery.is_in_step(peer), "there is no more to compare yet");
            let overtaken = recovery.begin(peer);
            recovery.adopted(&moving, &over);
            let places = || over.buckets().flat_map(|bucket| &bucket.places);
            let is_sharing = places().any(|place| place.is_held_by_both(me, peer));
            assert_eq!(recovery.is_in_step(peer), !is_sharing, "what was left out is here now");
            recovery.compared(&moving, me, peer, overtaken);
            assert_eq!(recovery.is_in_step(peer), !is_sharing, "it was left out again");
            recovery.compared(&over, me, peer, recovery.begin(peer));
            assert!(recovery.is_in_step(peer));
            recovery.adopted(&moving, &over);
            assert!(recovery.is_in_step(peer), "it was compared when all was here");
            are_sharing += u8::from(is_sharing);
        }
        assert!(are_sharing > 0);
    }

    #[test]
    fn who_was_connected_before_anything_moved_compares_nothing_anew_and_who_shares_no_more_does_not_either()
    {
        let (before, (moving, over)) = (view_of(&settled(3), 4), joined_by_four());
        for (me, peer, compared_under) in [(4, 1, &before), (1, 2, &view_of(&moving, 1))] {
            let recovery = Recovery::default();
            recovery.met(node(peer));
            recovery.compared(compared_under, node(me), node(peer), recovery.begin(node(peer)));
            recovery.adopted(&view_of(&moving, me), &view_of(&over, me));
            assert!(recovery.is_in_step(node(peer)), "{me} with {peer}");
        }
    }
}
