//! Where members were met that have moved: each proved its id there, and the layout still has its old address.
//!
//! Invariant: an address that was noted counts only while the layout says of its member what it said then.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use slipring_discovery::StaticSeeds;
use slipring_model::NodeId;
use slipring_ring::{Layout, NodeState};
use tokio::sync::Notify;

/// New addresses of members.
#[derive(Default)]
pub(crate) struct Whereabouts {
    met: Mutex<BTreeMap<NodeId, Met>>,
    /// Told when an address is noted.
    pub(crate) changed: Notify,
}

struct Met {
    address: String,
    /// What the layout said then.
    listed: String,
}

impl Whereabouts {
    /// A node has proven its id at an address; whether that is news of a member that has moved.
    pub(crate) fn note(&self, node: NodeId, address: &str, layout: &Layout) -> bool {
        let member = layout.nodes().get(&node).filter(|entry| entry.role.state != NodeState::Lost);
        let Some(listed) = member.map(|entry| &entry.addresses.peer) else { return false };
        if StaticSeeds::new([address.to_owned()]).is_err() || self.of(node, listed) == address {
            return false;
        }
        let mut met = self.met.lock();
        met.retain(|node, _| layout.nodes().contains_key(node));
        match address == listed {
            true => drop(met.remove(&node)),
            false => {
                drop(met.insert(node, Met { address: address.to_owned(), listed: listed.clone() }));
            }
        }
        drop(met);
        self.changed.notify_one();
        true
    }

    /// Where to reach a member that the layout lists at an address.
    pub(crate) fn of(&self, node: NodeId, listed: &str) -> String {
        let met = self.met.lock();
        let moved = met.get(&node).filter(|met| met.listed == listed);
        moved.map_or(listed, |met| met.address.as_str()).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use slipring_model::ClusterId;
    use slipring_ring::{Addresses, NodeEntry};

    use super::*;
    use crate::view::tests::give_state;
    use crate::wholeness::tests::{entry, layout as layout_of, node};

    fn layout(address: &str) -> Layout {
        let addresses = Addresses { peer: address.to_owned(), ..Addresses::default() };
        Layout::found(ClusterId::default(), 4, (node(1), NodeEntry { addresses, ..entry(1) }))
    }

    #[test]
    fn address_counts_until_the_layout_has_another() {
        let (whereabouts, before) = (Whereabouts::default(), layout("a:1"));
        assert!(whereabouts.note(node(1), "b:2", &before), "it has moved");
        assert!(!whereabouts.note(node(1), "b:2", &before), "that is known");
        assert_eq!(whereabouts.of(node(1), "a:1"), "b:2");
        assert_eq!(whereabouts.of(node(1), "c:3"), "c:3", "the layout knows better by now");
        assert!(whereabouts.note(node(1), "a:1", &before), "it is back");
        assert_eq!(whereabouts.of(node(1), "a:1"), "a:1");
    }

    #[test]
    fn strangers_lost_members_and_bad_addresses_are_not_noted() {
        let (whereabouts, mut layout) = (Whereabouts::default(), layout_of(3));
        assert!(!whereabouts.note(node(4), "b:2", &layout), "it is no member");
        for bad in ["", "b", "b:0"] {
            assert!(!whereabouts.note(node(3), bad, &layout), "{bad}");
        }
        assert!(whereabouts.note(node(3), "b:2", &layout), "it has moved");
        give_state(&mut layout, 3, NodeState::Lost);
        assert!(!whereabouts.note(node(3), "c:3", &layout), "it was given up");
    }
}
