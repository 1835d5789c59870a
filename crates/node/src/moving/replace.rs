//! Giving up a node that is gone for too long, as an operator would. Off unless `replace_after_ms` is set.
//!
//! Whoever leads the layout group decides, by what it has seen itself while it led and was awake. It gives up one
//! node at a time, and only where that harms nothing but the node: with two gone at once more may be wrong than
//! the nodes, and somebody should look.

use std::sync::Arc;
use std::time::Duration;

use slipring_model::{Moment, NodeId};
use slipring_ring::{Change, Command, Layout, NodeChange, NodeState};

use crate::core::Core;
use crate::forming::STEP_TIMEOUT;
use crate::gossip::{MemberState, MemberStatus};

/// How often the leader looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// A leader that looks this late was not awake, and knows nothing of the time between.
const LATE: Duration = Duration::from_secs(2);

/// The node that is gone, and since when, as seen by a leader that was awake.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    gone: Option<(NodeId, Moment)>,
    looked: Option<Moment>,
}

impl Watch {
    /// Takes a look at `now`: who is gone, if it is one node alone. How long it has been so.
    fn look(&mut self, gone: Option<NodeId>, now: Moment) -> Option<(NodeId, Duration)> {
        let was_awake = self.looked.is_some_and(|looked| now.since(looked) < LATE);
        self.looked = Some(now);
        let before = self.gone.filter(|(node, _)| was_awake && gone == Some(*node));
        self.gone = gone.map(|node| (node, before.map_or(now, |(_, since)| since)));
        self.gone.map(|(node, since)| (node, now.since(since)))
    }
}

impl Core {
    /// Gives up, while this node leads, who is gone for too long.
    pub(crate) async fn run_replacing(self: Arc<Self>) {
        let after = Duration::from_millis(self.settings.replace_after_ms);
        if after.is_zero() {
            return;
        }
        let mut watch = Watch::default();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let group = self.group.get().filter(|group| group.is_leader());
            let (Some(group), Some(view)) = (group, self.view()) else {
                watch = Watch::default();
                continue;
            };
            let now = self.now();
            let gone = gone_alone(&view.layout, self.me, |node| self.gossip.member(node, now));
            let overdue = watch.look(gone, now).filter(|(_, gone_for)| *gone_for >= after);
            let Some((node, _)) = overdue else { continue };
            let changes = vec![Change { node, change: NodeChange::State(NodeState::Lost) }];
            match self.objection(&view.layout, &changes.clone().into()) {
                Ok(None) => {}
                Ok(Some(why)) => {
                    tracing::warn!(node = %node.short(), why, "a node is gone for too long and not given up");
                    watch = Watch::default();
                    continue;
                }
                Err(error) => {
                    tracing::warn!(node = %node.short(), %error, "a node is gone for too long and cannot be given up");
                    watch = Watch::default();
                    continue;
                }
            }
            tracing::warn!(node = %node.short(), ?after, "a node is gone for too long and given up");
            // Nobody else is asked to: another leader has seen something else.
            let command = Command::Change { changes, expected_epoch: Some(view.epoch()) };
            if let Err(error) = group.propose_leading(command, STEP_TIMEOUT).await {
                tracing::warn!(%error, "it could not be given up yet");
            }
        }
    }
}

/// The one node that is gone while all others are there, if they can hold its share and nothing moves.
fn gone_alone(layout: &Layout, me: NodeId, seen: impl Fn(NodeId) -> Option<MemberStatus>) -> Option<NodeId> {
    let others = layout.nodes().keys().filter(|node| **node != me);
    let mut absent = others.filter_map(|node| {
        let state = seen(*node).map(|status| status.state);
        (state != Some(MemberState::Alive)).then_some((*node, state))
    });
    let ((node, Some(MemberState::Down | MemberState::Left)), None) = (absent.next()?, absent.next()) else {
        return None;
    };
    let takes_part = |(other, entry): &(&NodeId, &slipring_ring::NodeEntry)| {
        **other != node && entry.role.share() > 0 && entry.role.state.stays()
    };
    let left = layout.nodes().iter().filter(takes_part).count();
    let wanted = layout.buckets().values().map(|bucket| usize::from(bucket.policy.replicas)).max();
    let is_settled = !layout.is_moving() && layout.nodes().values().all(|entry| entry.role.state.stays());
    (is_settled && wanted.is_some_and(|wanted| left >= wanted)).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wholeness::tests::{entry, layout, node};

    /// These are in the first state, all others alive.
    fn seen(state: MemberState, nodes: &[u8]) -> impl Fn(NodeId) -> Option<MemberStatus> {
        let nodes: Vec<NodeId> = nodes.iter().map(|number| node(*number)).collect();
        move |node| {
            let state = if nodes.contains(&node) { state } else { MemberState::Alive };
            Some(MemberStatus { state, for_ms: 1, start: 1, layout_epoch: 1 })
        }
    }

    #[test]
    fn one_node_that_is_gone_while_the_others_are_there_is_meant() {
        use MemberState::{Down, Left, Suspected, Unheard};
        let gone = |state, nodes: &[u8]| gone_alone(&layout(4), node(1), seen(state, nodes));
        assert_eq!((gone(Down, &[3]), gone(Left, &[3])), (Some(node(3)), Some(node(3))));
        assert_eq!(gone(Down, &[]), None, "nobody is gone");
        assert_eq!(gone(Down, &[2, 3]), None, "two are gone");
        assert_eq!((gone(Suspected, &[3]), gone(Unheard, &[3])), (None, None), "it may be there");
        let one_down_one_in_doubt = |member: NodeId| {
            let state = if member == node(2) { Suspected } else { Down };
            seen(state, &[2, 3])(member)
        };
        assert_eq!(gone_alone(&layout(4), node(1), one_down_one_in_doubt), None);
        assert_eq!(gone_alone(&layout(4), node(1), |_| None), None, "nothing is known");
    }

    #[test]
    fn nobody_is_meant_where_the_others_cannot_hold_its_share_or_data_moves() {
        let down = || seen(MemberState::Down, &[3]);
        assert_eq!(gone_alone(&layout(3), node(1), down()), None, "two for three copies");
        let mut layout = layout(4);
        layout.apply(90, &Command::AddNode { node: node(5), entry: entry(5) }).expect("added");
        assert!(layout.is_moving());
        assert_eq!(gone_alone(&layout, node(1), down()), None);
    }

    #[test]
    fn only_time_that_a_leader_was_awake_counts() {
        let at = |ms: u64| Moment::default().after(Duration::from_millis(ms));
        let mut watch = Watch::default();
        let three = Some(node(3));
        assert_eq!(watch.look(three, at(0)), Some((node(3), Duration::ZERO)));
        assert_eq!(watch.look(three, at(500)), Some((node(3), Duration::from_millis(500))));
        assert_eq!(watch.look(three, at(90_000)), Some((node(3), Duration::ZERO)), "it slept");
        assert_eq!(watch.look(Some(node(2)), at(90_500)), Some((node(2), Duration::ZERO)), "another one");
        assert_eq!(watch.look(None, at(91_000)), None);
        assert_eq!(watch.look(Some(node(2)), at(91_500)), Some((node(2), Duration::ZERO)), "it was back");
    }
}
