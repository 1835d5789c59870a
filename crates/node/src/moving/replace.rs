//! Giving up a node that is gone for too long, as an operator would. Off unless `replace_after_ms` is set.
//!
//! Whoever leads the layout group decides, by what it has seen itself: a new leader counts from the beginning.
//! It gives up one node at a time, and only where the others can hold its share: with two gone at once more may
//! be wrong than the nodes, and somebody should look.

use std::sync::Arc;
use std::time::Duration;

use slipring_consensus::LayoutGroup;
use slipring_model::NodeId;
use slipring_ring::{Change, Command, Layout, NodeChange, NodeState};

use crate::core::Core;
use crate::gossip::{MemberState, MemberStatus};

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_millis(500);

impl Core {
    /// Gives up, while this node leads, who is gone for too long.
    pub(crate) async fn run_replacing(self: Arc<Self>) {
        let after_ms = self.settings.replace_after_ms;
        if after_ms == 0 {
            return;
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            let is_leading = self.group.get().is_some_and(LayoutGroup::is_leader);
            let Some(view) = self.view().filter(|_| is_leading) else { continue };
            let now = self.now();
            let seen = |node| self.gossip.member(node, now);
            let Some(node) = overdue(&view.layout, self.me, after_ms, seen) else { continue };
            let changes = vec![Change { node, change: NodeChange::State(NodeState::Lost) }];
            let command = Command::Change { changes, expected_epoch: Some(view.epoch()) };
            tracing::warn!(node = %node.short(), after_ms, "a node is gone for too long and given up");
            if let Err(error) = self.propose_to_group(command).await {
                tracing::warn!(%error, "it could not be given up yet");
            }
        }
    }
}

/// The one node that is gone for so long, if the others can hold its share and nothing moves.
fn overdue(
    layout: &Layout,
    me: NodeId,
    after_ms: u64,
    seen: impl Fn(NodeId) -> Option<MemberStatus>,
) -> Option<NodeId> {
    let is_gone = |status: &MemberStatus| matches!(status.state, MemberState::Down | MemberState::Left);
    let others = layout.nodes().keys().filter(|node| **node != me);
    let mut gone = others.filter_map(|node| seen(*node).filter(is_gone).map(|status| (*node, status)));
    let ((node, status), None) = (gone.next()?, gone.next()) else { return None };
    let takes_part = |(other, entry): &(&NodeId, &slipring_ring::NodeEntry)| {
        **other != node && entry.role.share() > 0 && entry.role.state.stays()
    };
    let left = layout.nodes().iter().filter(takes_part).count();
    let wanted = layout.buckets().values().map(|bucket| usize::from(bucket.policy.replicas)).max();
    let is_settled = !layout.is_moving() && layout.nodes().values().all(|entry| entry.role.state.stays());
    (status.for_ms >= after_ms && is_settled && wanted.is_some_and(|wanted| left >= wanted)).then_some(node)
}

#[cfg(test)]
mod tests {
    use slipring_model::{ClusterId, StorageId, Versions};
    use slipring_ring::{Addresses, NodeEntry, Role};

    use super::*;

    const AFTER_MS: u64 = 1_000;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn entry(number: u8) -> NodeEntry {
        NodeEntry {
            storage: StorageId([number; 16]),
            incarnation: 1,
            boot: 1,
            raft_id: u64::from(number),
            addresses: Addresses::default(),
            versions: Versions::default(),
            role: Role { zone: "a".to_owned(), weight: 100, state: NodeState::Active },
        }
    }

    /// So many nodes, and nothing moves.
    fn layout(nodes: u8) -> Layout {
        let mut layout = Layout::found(ClusterId([1; 16]), 4, (node(1), entry(1)));
        for number in 2..=nodes {
            let command = Command::AddNode { node: node(number), entry: entry(number) };
            layout.apply(u64::from(number) * 10, &command).expect("added");
            let moves = layout.moves().map(|(id, _)| id).collect();
            layout.apply(u64::from(number) * 10 + 1, &Command::Arrived { moves }).expect("arrived");
        }
        layout
    }

    fn gone(nodes: &[u8], for_ms: u64) -> impl Fn(NodeId) -> Option<MemberStatus> {
        let nodes: Vec<NodeId> = nodes.iter().map(|number| node(*number)).collect();
        move |node| {
            let state = if nodes.contains(&node) { MemberState::Down } else { MemberState::Alive };
            Some(MemberStatus { state, for_ms, start: 1, layout_epoch: 1 })
        }
    }

    #[test]
    fn one_node_that_is_gone_for_too_long_is_given_up() {
        let layout = layout(4);
        assert_eq!(overdue(&layout, node(1), AFTER_MS, gone(&[3], AFTER_MS)), Some(node(3)));
        assert_eq!(overdue(&layout, node(1), AFTER_MS, gone(&[3], AFTER_MS - 1)), None, "not long enough");
        assert_eq!(overdue(&layout, node(1), AFTER_MS, gone(&[], AFTER_MS)), None, "nobody is gone");
        assert_eq!(overdue(&layout, node(1), AFTER_MS, gone(&[2, 3], AFTER_MS)), None, "two are gone");
    }

    #[test]
    fn nobody_is_given_up_where_the_others_cannot_hold_its_share_or_data_moves() {
        assert_eq!(
            overdue(&layout(3), node(1), AFTER_MS, gone(&[3], AFTER_MS)),
            None,
            "two for three copies"
        );
        let mut layout = layout(4);
        layout.apply(90, &Command::AddNode { node: node(5), entry: entry(5) }).expect("added");
        assert!(layout.is_moving());
        assert_eq!(overdue(&layout, node(1), AFTER_MS, gone(&[3], AFTER_MS)), None);
    }
}
