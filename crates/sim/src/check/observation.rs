//! What hosts showed of the layout and its group, noted whenever it changed.

use std::sync::Arc;

use slipring_consensus::GroupStatus;
use slipring_node::Node;
use slipring_ring::Layout;

/// What one host showed from one moment on.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The host; one with new disks is another, a hundred further on.
    pub host: usize,
    /// Which of its processes.
    pub life: u64,
    /// Since when, in milliseconds since the run began.
    pub at_ms: u64,
    /// The layout it works with.
    pub layout: Arc<Layout>,
    /// Its view of the layout group.
    pub group: Option<GroupStatus>,
}

/// All of them, in the order of their times.
#[derive(Debug, Default)]
pub struct Observations {
    all: Vec<Observation>,
    /// Where the last one of each host is.
    last: std::collections::BTreeMap<usize, usize>,
}

impl Observations {
    /// Looks at a node and notes what is new.
    pub(crate) fn look(&mut self, host: usize, life: u64, at_ms: u64, node: &Node) {
        self.note(Observation { host, life, at_ms, layout: node.layout(), group: node.layout_group() });
    }

    /// Notes what is new.
    pub fn note(&mut self, seen: Observation) {
        let last = self.last.get(&seen.host).and_then(|last| self.all.get(*last));
        let is_known = last.is_some_and(|last| {
            last.life == seen.life && Arc::ptr_eq(&last.layout, &seen.layout) && last.group == seen.group
        });
        if !is_known {
            self.last.insert(seen.host, self.all.len());
            self.all.push(seen);
        }
    }

    /// All of them, in the order of their times.
    #[must_use]
    pub fn all(&self) -> &[Observation] {
        &self.all
    }
}

#[cfg(test)]
pub(super) mod samples {
    use slipring_model::{ClusterId, NodeId, StorageId, Versions};
    use slipring_ring::{Addresses, Command, NodeEntry, NodeState, Role};

    use super::*;

    /// A layout of one node at this epoch.
    pub(crate) fn layout(epoch: u64, zone: &str) -> Arc<Layout> {
        let entry = NodeEntry {
            storage: StorageId::default(),
            incarnation: 1,
            boot: 1,
            raft_id: 1,
            addresses: Addresses::default(),
            role: Role { zone: zone.to_owned(), weight: 100, state: NodeState::Active },
            versions: Versions::UNTOLD,
            signature: None,
        };
        let mut layout = Layout::found(ClusterId::default(), 4, (NodeId([1; 32]), entry));
        for index in 1..epoch {
            let name = format!("bucket-{index}").parse().expect("the name is valid");
            let policy = slipring_model::BucketPolicy::durable();
            layout.apply(index + 1, &Command::CreateBucket { name, policy }).expect("there is room");
        }
        assert_eq!(layout.epoch(), epoch);
        Arc::new(layout)
    }

    pub(crate) fn seen(host: usize, at_ms: u64, layout: Arc<Layout>) -> Observation {
        Observation { host, life: 1, at_ms, layout, group: None }
    }

    #[test]
    fn only_what_is_new_is_noted() {
        let mut observations = Observations::default();
        let first = layout(1, "a");
        observations.note(seen(0, 1, Arc::clone(&first)));
        observations.note(seen(1, 1, Arc::clone(&first)));
        observations.note(seen(0, 2, Arc::clone(&first)));
        assert_eq!(observations.all().len(), 2);
        observations.note(seen(0, 3, layout(2, "a")));
        observations.note(Observation { life: 2, ..seen(1, 3, first) });
        assert_eq!(observations.all().len(), 4);
    }
}
