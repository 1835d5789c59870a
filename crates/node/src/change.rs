//! Objections to changes of nodes' roles: what an operator must mean before it is done.
//!
//! A change is objected to when copies would be missing afterwards that are not missing now, when a node that
//! answers is to be counted as lost, and when so many replicas of a partition would be lost that writes which
//! they acknowledged may be gone.

use slipring_model::{Error, ErrorKind, NodeId, PartitionId};
use slipring_ring::{Change, Layout, NodeChange, NodeState};

use crate::core::Core;

impl Core {
    /// Why some changes should not be made without the operator's word; nothing when they do no harm.
    ///
    /// # Errors
    /// `Conflict` when they cannot be made at all.
    pub(crate) fn objection(&self, layout: &Layout, changes: &[Change]) -> Result<Option<String>, Error> {
        let is_up = |node: NodeId| self.is_reachable(node) && !self.gossip.doubts(node);
        let next =
            layout.with(changes).map_err(|error| Error::new(ErrorKind::Conflict, error.to_string()))?;
        Ok(answers_though_lost(changes, is_up)
            .or_else(|| loses_writes(layout, &next))
            .or_else(|| misses_copies(layout, &next, is_up)))
    }
}

fn answers_though_lost(changes: &[Change], is_up: impl Fn(NodeId) -> bool) -> Option<String> {
    let is_lost =
        |change: &&Change| change.change == NodeChange::State(NodeState::Lost) && is_up(change.node);
    let node = changes.iter().find(is_lost)?.node.short();
    Some(format!("node {node} answers, and its data would be given up: remove it without --lost"))
}

/// Whether so many replicas of a partition are given up that acknowledged writes may have been theirs alone.
fn loses_writes(layout: &Layout, next: &Layout) -> Option<String> {
    let is_lost = |layout: &Layout, node: &NodeId| {
        layout.nodes().get(node).is_none_or(|entry| entry.role.state == NodeState::Lost)
    };
    let mut partitions = 0_u64;
    for (id, bucket) in layout.buckets() {
        for partition in (0..layout.partition_count()).map(PartitionId) {
            let replicas = layout.replicas(*id, partition);
            let lost = |of: &Layout| replicas.iter().filter(|replica| is_lost(of, &replica.node)).count();
            let quorum = bucket.policy.quorum(replicas.len() as u8);
            // Who asks for one acknowledgement has said that one loss may cost writes, while a copy is left.
            let bearable = usize::from(quorum.w.max(2)).min(replicas.len());
            partitions += u64::from(lost(next) >= bearable && lost(next) > lost(layout));
        }
    }
    (partitions > 0).then(|| format!("{partitions} partitions may lose writes that were acknowledged"))
}

fn misses_copies(layout: &Layout, next: &Layout, is_up: impl Fn(NodeId) -> bool) -> Option<String> {
    let (before, after) = (layout.missing_copies(&is_up), next.missing_copies(&is_up));
    (after > before).then(|| {
        format!(
            "{after} copies of partitions would be missing, {before} are now: too few nodes that answer would be \
             left to hold what the buckets ask for, so start another one first"
        )
    })
}
