//! Who may take part: this node once the cluster has agreed to its start, a peer unless it was rolled back.
//!
//! A data directory that was restored from an older copy has forgotten what it acknowledged. The layout knows
//! every start; a node that comes with an older one, or with a second one of the same number, is refused by
//! its peers and stops as soon as it is shown the later one (`later_start`). Until its start is agreed on it answers for
//! no copy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_consensus::ProposeError;
use slipring_model::{Error, NodeId, limits};
use slipring_ring::{Command, Layout, NodeEntry, NodeState, Refused};
use slipring_wire::Hello;

use crate::core::Core;
use crate::failure::unavailable;

/// The most starts that are known: those of as many members as there may be, and of strangers.
const STARTS_MAX: usize = 2 * limits::NODES_MAX;

/// How long to rest before registering this start is tried again.
const REGISTRATION_REST: Duration = Duration::from_millis(100);

/// What is known of starts.
#[derive(Default)]
pub(crate) struct Muster {
    is_agreed: AtomicBool,
    /// Whether it was leaving, and the cluster has let it go.
    pub(crate) has_left: AtomicBool,
    /// What each peer told of its start.
    starts: Mutex<BTreeMap<NodeId, Told>>,
    refused: Mutex<BTreeSet<NodeId>>,
    has_refused: AtomicBool,
}

/// What a peer told of its start.
struct Told {
    incarnation: u64,
    boot: u64,
    /// Where Redis Cluster clients reach it.
    redis_cluster_address: String,
}

impl Muster {
    /// A peer has told of its start. Where there are too many, those of nodes that are no members make room.
    pub(crate) fn met(&self, hello: &Hello, layout: Option<&Layout>) {
        let mut starts = self.starts.lock();
        if starts.len() >= STARTS_MAX && !starts.contains_key(&hello.node) {
            let Some(layout) = layout else { return };
            starts.retain(|node, _| layout.nodes().contains_key(node));
        }
        let (incarnation, boot) = (hello.incarnation, hello.boot);
        let redis_cluster_address = hello.redis_cluster_address.clone();
        starts.insert(hello.node, Told { incarnation, boot, redis_cluster_address });
    }

    /// Where Redis Cluster clients reach a member; empty where nobody has told. What it told at its latest connection comes
    /// first, as members of older releases leave it out of the layout, unless the layout knows a later start.
    fn redis_cluster_address(&self, member: NodeId, entry: Option<&NodeEntry>) -> String {
        let starts = self.starts.lock();
        let told = starts.get(&member).map(|told| (told.incarnation, &told.redis_cluster_address));
        let listed = entry.map(|entry| (entry.incarnation, &entry.addresses.redis_cluster));
        let latest = match (told, listed) {
            (Some(told), Some(listed)) if listed.0 > told.0 => Some(listed),
            (told, listed) => told.or(listed),
        };
        latest.map(|(_, address)| address.clone()).unwrap_or_default()
    }

    /// Holds the starts of peers against a layout; those that are refused from now on.
    fn review(&self, layout: &Layout) -> Vec<NodeId> {
        let starts = self.starts.lock();
        let is_refused = |(node, told): (&NodeId, &Told)| {
            let entry = layout.nodes().get(node)?;
            entry.is_rolled_back(told.incarnation, told.boot).then_some(*node)
        };
        let refused: BTreeSet<NodeId> = starts.iter().filter_map(is_refused).collect();
        self.has_refused.store(!refused.is_empty(), Ordering::Release);
        let before = std::mem::replace(&mut *self.refused.lock(), refused.clone());
        refused.difference(&before).copied().collect()
    }

    /// Whether the cluster has agreed to this start.
    pub(crate) fn is_agreed(&self) -> bool {
        self.is_agreed.load(Ordering::Acquire)
    }

    /// Whether a peer must not take part.
    pub(crate) fn refuses(&self, peer: NodeId) -> bool {
        self.has_refused.load(Ordering::Acquire) && self.refused.lock().contains(&peer)
    }
}

impl Core {
    /// Whether this node may answer for its copies: its start is agreed on and its clock compared, or it has no others
    /// to agree with.
    pub(crate) fn may_serve(&self) -> bool {
        let is_agreed = self.muster.is_agreed() && self.time.is_compared()
            || self.view.load().as_ref().is_some_and(|view| view.layout.nodes().len() == 1);
        is_agreed && !self.rivals.has_any()
    }

    /// Where Redis Cluster clients reach a member; empty where nobody has told.
    pub(crate) fn redis_cluster_address(&self, node: NodeId) -> String {
        if node == self.me {
            return self.addresses.redis_cluster.clone();
        }
        let view = self.view();
        let entry = view.as_ref().and_then(|view| view.layout.nodes().get(&node));
        self.muster.redis_cluster_address(node, entry)
    }

    /// Holds the starts of peers against a layout, and shows those whose start is not their latest that one.
    pub(crate) fn review_starts(&self, layout: &Layout) {
        for peer in self.muster.review(layout) {
            self.show_start(peer, layout);
        }
    }

    pub(crate) fn check_may_serve(&self) -> Result<(), Error> {
        if self.may_serve() {
            return Ok(());
        }
        self.check_no_rival()?;
        Err(unavailable("the cluster has not agreed to this node's start yet; try another node, or again"))
    }

    /// This node has started since from a later copy of its directory, as it has signed itself.
    pub(crate) fn was_rolled_back(&self) {
        if let Err(error) = crate::identity::retire(&self.meta) {
            tracing::error!(%error, "the directory could not be marked as rolled back");
        }
        self.give_up(
            "the cluster has seen another start of this node that is no earlier: either this data directory was rolled \
             back to an older copy, or a copy of it is in use elsewhere (`slipring status` tells at which address); \
             see that only one is used, and start this one again only as a new node, with an empty directory"
                .to_owned(),
        );
    }

    /// The cluster has let this node go. Where it was leaving, its work is done.
    pub(crate) fn was_removed(&self) {
        let is_leaving = self.view().is_some_and(|view| {
            let own = view.layout.nodes().get(&self.me);
            own.is_some_and(|entry| entry.role.state == NodeState::Leaving)
        });
        self.end(
            "this node is no member of its cluster any more; remove its data directory and join as a new node"
                .to_owned(),
            is_leaving,
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
            signature: self.sign_start(),
        };
        loop {
            match self.propose_to_group(command.clone()).await {
                Ok(_) => return self.muster.is_agreed.store(true, Ordering::Release),
                Err(ProposeError::Unavailable(_) | ProposeError::Unknown(_)) => {}
                // One peer's word. It does not serve; what it stops for is the later start itself.
                Err(ProposeError::Refused(Refused::RolledBack { .. })) => {}
                Err(ProposeError::Refused(Refused::UnknownNode { .. })) => return self.was_removed(),
                Err(ProposeError::Refused(refused)) => {
                    return self.give_up(format!("the cluster refused this start: {refused}"));
                }
            }
            tokio::time::sleep(REGISTRATION_REST).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use slipring_model::{StorageId, Versions};
    use slipring_ring::Addresses;

    use super::*;
    use crate::wholeness::tests::{entry, layout, node};

    fn hello(node: NodeId, incarnation: u64) -> Hello {
        let (storage, versions) = (StorageId::default(), Versions::UNTOLD);
        let (cluster, peer_address) = (None, String::new());
        Hello {
            versions,
            cluster,
            node,
            storage,
            incarnation,
            boot: 1,
            peer_address,
            is_question: false,
            redis_cluster_address: format!("told:{incarnation}"),
        }
    }

    #[test]
    fn cluster_address_of_a_member_is_that_of_its_latest_start() {
        let listed = |incarnation| {
            let redis_cluster = format!("listed:{incarnation}");
            let addresses = Addresses { redis_cluster, ..Addresses::default() };
            NodeEntry { incarnation, addresses, ..entry(2) }
        };
        let muster = Muster::default();
        let of = |entry: Option<&NodeEntry>| muster.redis_cluster_address(node(2), entry);
        assert_eq!([of(None), of(Some(&listed(1)))], ["", "listed:1"]);
        muster.met(&hello(node(2), 2), None);
        assert_eq!([None, Some(&listed(1)), Some(&listed(2))].map(of), ["told:2"; 3]);
        assert_eq!(of(Some(&listed(3))), "listed:3", "it has restarted and is not connected yet");
        muster.met(&hello(node(2), 3), None);
        assert_eq!(of(Some(&listed(3))), "told:3");
    }

    #[test]
    fn a_member_that_was_rolled_back_is_refused_however_many_strangers_were_met_before() {
        let (muster, layout) = (Muster::default(), layout(3));
        muster.met(&hello(node(2), 1), Some(&layout));
        for stranger in 0..2 * STARTS_MAX {
            let mut bytes = [0xff; 32];
            bytes[..8].copy_from_slice(&stranger.to_be_bytes());
            muster.met(&hello(NodeId(bytes), 1), Some(&layout));
            assert!(muster.starts.lock().len() <= STARTS_MAX);
        }
        assert!(muster.starts.lock().contains_key(&node(2)), "members are never forgotten");
        muster.met(&hello(node(3), 0), Some(&layout));
        assert_eq!(muster.review(&layout), [node(3)]);
        assert!(muster.review(&layout).is_empty(), "it was refused before");
        assert!(muster.refuses(node(3)));
        assert!(!muster.refuses(node(2)));
    }
}
