//! Driving moves to their end: whoever leads the layout group asks the next replicas what they have taken over,
//! and proposes what has arrived. A leader that dies is followed by one that asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slipring_consensus::LayoutGroup;
use slipring_model::NodeId;
use slipring_ring::{Command, Layout, MoveId};
use slipring_wire::{Reply, Request};

use crate::core::Core;

/// How often the next replicas are asked.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long one has to answer.
const PATIENCE: Duration = Duration::from_millis(500);

impl Core {
    /// Drives moves while this node leads, for ever.
    pub(crate) async fn run_move_driver(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let is_leading = self.group.get().is_some_and(LayoutGroup::is_leader);
            let Some(view) = self.view().filter(|view| is_leading && view.layout.is_moving()) else {
                continue;
            };
            let arrived = self.arrived(&view.layout).await;
            if arrived.is_empty() {
                continue;
            }
            tracing::info!(partitions = arrived.len(), "partitions have arrived");
            if let Err(error) = self.propose_to_group(Command::Arrived { moves: arrived }).await {
                tracing::info!(%error, "what has arrived could not be agreed on yet");
            }
        }
    }

    /// The moves that every next replica has taken over.
    async fn arrived(&self, layout: &Layout) -> Vec<MoveId> {
        let targets: BTreeSet<NodeId> = layout
            .moves()
            .flat_map(|(_, holders)| holders.target().iter().map(|replica| replica.node))
            .collect();
        let asking = targets.into_iter().map(|node| async move { (node, self.taken_over_by(node).await) });
        let told: BTreeMap<NodeId, BTreeSet<MoveId>> =
            futures::future::join_all(asking).await.into_iter().collect();
        let has = |node: &NodeId, id: &MoveId| told.get(node).is_some_and(|moves| moves.contains(id));
        layout
            .moves()
            .filter(|(id, holders)| holders.target().iter().all(|replica| has(&replica.node, id)))
            .map(|(id, _)| id)
            .collect()
    }

    async fn taken_over_by(&self, node: NodeId) -> BTreeSet<MoveId> {
        let reply = if node == self.me {
            Some(self.moving.taken_over())
        } else {
            self.ask(node, Request::Moves, PATIENCE).await
        };
        let Some(Reply::TakenOver(moves)) = reply else { return BTreeSet::new() };
        moves.into_iter().map(|(copies, partition, session)| MoveId { copies, partition, session }).collect()
    }
}
