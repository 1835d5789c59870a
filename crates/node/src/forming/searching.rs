//! Finding members again that have moved: a member that misses others asks its sources, and those it reaches, where they
//! are.
//!
//! All nodes may come back with other addresses, so that the layout helps none of them; and two that both found a third
//! one must find each other, for one of the two may lead. What answers at an address counts for a member only if it
//! proves that member's id, so a wrong source costs time and nothing else.

use std::sync::Arc;
use std::time::Duration;

use slipring_discovery::{Discovery, StaticSeeds};
use slipring_membership::founding::Standing;
use slipring_model::{Mutant, NodeId};
use slipring_ring::{Layout, NodeEntry, NodeState};
use slipring_wire::{Reply, Request};

use crate::core::Core;

/// How often a member looks whether it misses others.
const INTERVAL: Duration = Duration::from_millis(500);
/// For how long it must have missed some before it asks where they are.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first and the longest rest between two searches; the longest where it still reaches a majority.
const RESTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
const REST_WITH_MAJORITY: Duration = Duration::from_secs(60);
/// How long a member that is reached has to say where others are.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

impl Core {
    /// Searches whenever this member has missed others for a while.
    pub(crate) async fn run_search(self: Arc<Self>, sources: Arc<dyn Discovery>) {
        let (mut search_at, mut rest) = (None, RESTS.0);
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(view) = self.view() else { continue };
            let (reached, missed) = divide(&view.layout, self.me, |node| self.is_reachable(node));
            if missed.is_empty() || Mutant::NeverSearch.is_planted() {
                (search_at, rest) = (None, RESTS.0);
                continue;
            }
            let now = self.now();
            if now < *search_at.get_or_insert(now.after(PATIENCE)) {
                continue;
            }
            let mut addresses = self.told_by(&reached, &missed).await;
            addresses.extend(sources.candidates().await);
            addresses.sort();
            addresses.dedup();
            self.search(&view.layout, addresses).await;
            let has_majority = reached.len() + 1 > missed.len();
            let longest = if has_majority { REST_WITH_MAJORITY } else { RESTS.1 };
            search_at = Some(self.now().after(rest.min(longest)));
            rest = (rest * 2).min(longest);
        }
    }

    /// Where the members that are reached say that the missed ones are.
    async fn told_by(&self, reached: &[NodeId], missed: &[NodeId]) -> Vec<String> {
        let asked = reached.iter().map(|node| self.ask(*node, Request::Members, ANSWER_TIMEOUT));
        let replies = futures::future::join_all(asked).await.into_iter().flatten();
        let told = replies.flat_map(|reply| match reply {
            Reply::Members { nodes, .. } => nodes,
            _ => Vec::new(),
        });
        let of_missed = told.filter(|(node, _)| missed.contains(node)).map(|(_, address)| address);
        of_missed.filter(|address| StaticSeeds::new([address.clone()]).is_ok()).collect()
    }

    /// Asks which node is at each of some addresses, and notes the members that have moved there.
    async fn search(&self, layout: &Layout, addresses: Vec<String>) {
        for answer in self.survey(addresses).await.answers {
            let Standing { node, incarnation, cluster, .. } = answer.standing;
            // A copy of an older data directory has the same key.
            let is_current = layout.nodes().get(&node).is_some_and(|entry| entry.incarnation <= incarnation);
            if is_current && cluster == Some(layout.cluster()) && !self.is_reachable(node) {
                self.met_at(node, &answer.address, layout);
            }
        }
    }

    /// A node has proven its id at an address. A member that has moved is dialled there from now on.
    pub(crate) fn met_at(&self, node: NodeId, address: &str, layout: &Layout) {
        if self.whereabouts.note(node, address, layout) {
            tracing::info!(peer = %node.short(), address, "a member has moved to another address");
            self.meet_peers(layout);
        }
    }
}

/// The other members that are reached, and those that are missed.
fn divide(layout: &Layout, me: NodeId, is_reachable: impl Fn(NodeId) -> bool) -> (Vec<NodeId>, Vec<NodeId>) {
    let is_other =
        |(node, entry): &(&NodeId, &NodeEntry)| **node != me && entry.role.state != NodeState::Lost;
    layout.nodes().iter().filter(is_other).map(|(node, _)| *node).partition(|node| is_reachable(*node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::give_state;
    use crate::wholeness::tests::{layout, node};

    #[test]
    fn lost_members_and_the_own_node_are_not_missed() {
        let mut layout = layout(4);
        give_state(&mut layout, 4, NodeState::Lost);
        let divided = divide(&layout, node(1), |other| other == node(2));
        assert_eq!(divided, (vec![node(2)], vec![node(3)]));
        assert_eq!(divide(&layout, node(1), |_| true).1, []);
    }
}
