//! Members that this node's own layout does not have yet.
//!
//! A node that was away may come back to a cluster that is led by a node which joined in the meantime. It takes no word of
//! the layout group from a stranger; so it asks the members that it knows of, and believes what they say of a layout
//! that is newer than its own. That gives no member more authority than it has: any may bring a newer layout.
//! Where all of those are lost for good, the operator names the member to believe.
//!
//! Invariant: only members by this node's own layout are asked, at most once in [`REST`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::{NodeId, limits};
use slipring_ring::NodeState;
use slipring_wire::{Reply, Request};

use crate::core::Core;
use crate::failure::unavailable;

/// The rest after the members were asked.
const REST: Duration = Duration::from_millis(300);
/// How long they have to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What members say.
#[derive(Default)]
pub(crate) struct Hearsay {
    told: Mutex<Told>,
    /// A member by the word of the operator.
    named: Option<NodeId>,
    is_asking: AtomicBool,
    has_warned: AtomicBool,
}

/// The members of the newest layout that was told of.
#[derive(Default)]
struct Told {
    epoch: u64,
    nodes: BTreeMap<NodeId, String>,
}

impl Hearsay {
    /// Nothing but that the operator names a member.
    pub(crate) fn new(named: Option<NodeId>) -> Self {
        Self { named, ..Self::default() }
    }

    /// Whether a node is a member by a layout newer than `epoch`, or by the operator's word.
    pub(crate) fn has(&self, node: NodeId, epoch: u64) -> bool {
        if self.named == Some(node) {
            return true;
        }
        let told = self.told.lock();
        told.epoch > epoch && told.nodes.contains_key(&node)
    }

    /// The members of a layout newer than `epoch`, and where they are reached.
    pub(crate) fn newer_than(&self, epoch: u64) -> BTreeMap<NodeId, String> {
        let told = self.told.lock();
        if told.epoch > epoch { told.nodes.clone() } else { BTreeMap::new() }
    }

    /// Tells the operator once of a node that speaks for a recovered group and is no member here.
    pub(crate) fn warn_of_recovered(&self, node: NodeId) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                node = %node,
                "a node that this node's layout does not have says that the layout group was recovered; if you ran \
                 `slipring recover` for it, start this node with --follow and its full id"
            );
        }
    }

    fn note(&self, epoch: u64, nodes: Vec<(NodeId, String)>) {
        let mut told = self.told.lock();
        if epoch > told.epoch {
            *told = Told { epoch, nodes: nodes.into_iter().take(limits::NODES_MAX).collect() };
        }
    }
}

impl Core {
    /// Says who is a member.
    pub(crate) fn members_here(&self) -> Result<Reply, slipring_model::Error> {
        let view =
            self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet; try again"))?;
        let members = view.layout.nodes().iter().filter(|(_, entry)| entry.role.state != NodeState::Lost);
        let reached = |node: &NodeId, listed: &str| (*node, self.whereabouts.of(*node, listed));
        let nodes = members.map(|(node, entry)| reached(node, &entry.addresses.peer)).collect();
        Ok(Reply::Members { epoch: view.epoch(), nodes })
    }

    /// A node that is no member by this node's layout has asked for something: the layout may be an old one.
    pub(crate) fn look_for_newer_members(&self) {
        let (Some(core), Some(view)) = (self.handle.upgrade(), self.view()) else { return };
        if self.hearsay.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(async move {
            let others = view.layout.nodes().iter().filter(|(node, entry)| {
                **node != core.me && entry.role.state != NodeState::Lost && core.is_reachable(**node)
            });
            let asked = others.map(|(node, _)| core.ask(*node, Request::Members, PATIENCE));
            for reply in futures::future::join_all(asked).await {
                if let Some(Reply::Members { epoch, nodes }) = reply {
                    core.hearsay.note(epoch, nodes);
                }
            }
            core.meet_newer_members();
            tokio::time::sleep(REST).await;
            core.hearsay.is_asking.store(false, Ordering::Release);
        });
    }

    fn meet_newer_members(self: &Arc<Self>) {
        let Some(view) = self.view() else { return };
        if !self.hearsay.newer_than(view.epoch()).is_empty() {
            tracing::info!(epoch = view.epoch(), "other members know of a newer layout");
            self.meet_peers(&view.layout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layouts_newer_than_the_own_one_tell_of_members() {
        let (hearsay, node, other) = (Hearsay::default(), NodeId([1; 32]), NodeId([2; 32]));
        assert!(!hearsay.has(node, 0));
        hearsay.note(7, vec![(node, "host:1".to_owned())]);
        assert!(hearsay.has(node, 6) && !hearsay.has(node, 7) && !hearsay.has(other, 6));
        hearsay.note(6, vec![(other, "host:2".to_owned())]);
        assert!(!hearsay.has(other, 5), "a newer one was told of before");
        assert_eq!(hearsay.newer_than(6).len(), 1);
        assert!(hearsay.newer_than(7).is_empty());
    }

    #[test]
    fn operator_names_one_member() {
        let (named, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let hearsay = Hearsay::new(Some(named));
        assert!(hearsay.has(named, u64::MAX) && !hearsay.has(other, 0));
    }
}
