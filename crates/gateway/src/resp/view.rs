//! What a port shows of the cluster: one server with all keys, or one node of a Redis Cluster with the keys of its slots.
//!
//! Invariant: over all nodes that answer, the cluster views show every key once, as each slot has one master.

use slipring_model::BucketId;
use slipring_node::Region;

use super::run::Session;
use super::slots::SlotTable;

/// What a port shows of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// One server that holds all keys.
    #[default]
    Plain,
    /// One node of a Redis Cluster. It counts, lists and clears the keys of the slots that it is listed as master of;
    /// commands that name keys take any.
    Cluster,
}

impl View {
    /// How HELLO and INFO call it.
    pub(crate) fn mode(self) -> &'static str {
        match self {
            Self::Plain => "standalone",
            Self::Cluster => "cluster",
        }
    }
}

impl Session {
    /// The part of the ring that commands on all keys are about.
    pub(crate) fn region(&self) -> Region {
        match self.view {
            View::Plain => Region::whole(),
            View::Cluster => {
                let table = SlotTable::new(&self.node, &self.node.layout(), self.bucket);
                Region::of_slots(table.slots_of(self.node.id()))
            }
        }
    }

    /// The buckets that it shows: cluster clients see one.
    pub(crate) fn buckets(&self) -> Vec<BucketId> {
        match self.view {
            View::Plain => self.node.layout().buckets().keys().copied().collect(),
            View::Cluster => vec![self.bucket],
        }
    }

    /// Writes why a command of Redis Cluster is not for this port; whether it is not.
    pub(crate) fn refuses_cluster(&mut self) -> bool {
        if self.view == View::Cluster {
            return false;
        }
        let disabled = "ERR This instance has cluster support disabled";
        match self.node.addresses().redis_cluster.as_str() {
            "" => self.writer.error(disabled),
            address => {
                self.writer.error(&format!("{disabled}: this node serves cluster clients at {address}"));
            }
        }
        true
    }
}
