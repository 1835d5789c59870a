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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wholeness::tests::{layout, node};

    fn changed(layout: &Layout, nodes: &[u8], state: NodeState) -> Layout {
        let change = |n: &u8| Change { node: node(*n), change: NodeChange::State(state) };
        layout.with(&nodes.iter().map(change).collect::<Vec<_>>()).expect("it is possible")
    }

    #[test]
    fn a_drain_is_objected_to_when_too_few_that_answer_would_be_left() {
        let drain = |nodes: u8, down: &[u8]| {
            let before = layout(nodes);
            let is_up = |id: NodeId| !down.iter().any(|n| node(*n) == id);
            misses_copies(&before, &changed(&before, &[1], NodeState::Drained), is_up).is_some()
        };
        assert!(!drain(4, &[]), "three are left for three copies");
        assert!(drain(3, &[]) && drain(2, &[]), "one copy fewer, whether or not there were enough");
        assert!(drain(4, &[4]), "of the three that are left one is down");
        assert!(!drain(3, &[1]), "the one that is down held nothing that counts");
    }

    #[test]
    fn giving_up_is_objected_to_when_only_the_lost_may_have_acknowledged_a_write() {
        let give_up = |nodes: u8, lost: &[u8]| {
            let before = layout(nodes);
            loses_writes(&before, &changed(&before, lost, NodeState::Lost)).is_some()
        };
        assert!(!give_up(3, &[1]) && !give_up(2, &[1]), "every write is on another one, too");
        assert!(give_up(3, &[1, 2]), "two of three were a quorum");
        let before = changed(&layout(3), &[1], NodeState::Lost);
        assert!(
            loses_writes(&before, &changed(&before, &[2], NodeState::Lost)).is_some(),
            "one after the other"
        );
    }

    #[test]
    fn a_node_that_answers_is_not_given_up_by_accident() {
        let change = Change { node: node(1), change: NodeChange::State(NodeState::Lost) };
        assert!(answers_though_lost(std::slice::from_ref(&change), |_| true).is_some());
        assert!(answers_though_lost(&[change], |_| false).is_none());
    }
}
