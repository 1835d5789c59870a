//! Driving moves to their end: whoever leads the layout group asks the next replicas what they have taken over,
//! and proposes what has arrived. A leader that dies is followed by one that asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use slipring_consensus::LayoutGroup;
use slipring_model::{Mutant, NodeId};
use slipring_ring::{Command, Layout, MoveId, TableId};
use slipring_wire::{Reply, Request};

use crate::core::Core;

/// How often the next replicas are asked. What has arrived meanwhile becomes one change of the layout, and each of
/// those costs every node a write to its disk.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long one has to answer.
const PATIENCE: Duration = Duration::from_millis(500);

impl Core {
    /// Drives moves while this node leads, for ever.
    pub(crate) async fn run_move_driver(self: Arc<Self>) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let is_leading = self.group.get().is_some_and(LayoutGroup::is_leader) && !self.is_idle_mutant();
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

    fn is_idle_mutant(&self) -> bool {
        let term = || self.group.get().map_or(0, |group| group.status().ballot.term);
        Mutant::DriveInFirstTerm.is_planted() && term() > 1
    }

    /// Asks every next replica which moves are over.
    async fn arrived(&self, layout: &Layout) -> Vec<MoveId> {
        let targets: BTreeSet<NodeId> = layout
            .moves()
            .flat_map(|(_, holders)| holders.target().iter().map(|replica| replica.node))
            .collect();
        let asking = targets.into_iter().map(|node| async move { (node, self.taken_over_by(node).await) });
        arrived(layout, &futures::future::join_all(asking).await.into_iter().collect())
    }

    async fn taken_over_by(&self, node: NodeId) -> BTreeSet<MoveId> {
        let reply = if node == self.me {
            Some(self.moving.taken_over())
        } else {
            self.ask(node, Request::Moves, PATIENCE).await
        };
        let Some(Reply::TakenOver(moves)) = reply else { return BTreeSet::new() };
        let id = |(table, partition, session)| MoveId { table: TableId(table), partition, session };
        moves.into_iter().map(id).collect()
    }
}

/// The moves that every next replica has taken over, by what each has told.
fn arrived(layout: &Layout, told: &BTreeMap<NodeId, BTreeSet<MoveId>>) -> Vec<MoveId> {
    let has = |node: &NodeId, id: &MoveId| told.get(node).is_some_and(|moves| moves.contains(id));
    layout
        .moves()
        .filter(|(id, holders)| holders.target().iter().all(|replica| has(&replica.node, id)))
        .map(|(id, _)| id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{join, node, settled};

    #[test]
    fn a_move_is_over_when_every_next_replica_has_said_so() {
        let mut layout = settled(3);
        join(&mut layout, 4);
        let all: Vec<MoveId> = layout.moves().map(|(id, _)| id).collect();
        let mut told: BTreeMap<NodeId, BTreeSet<MoveId>> =
            (1..=4).map(|byte| (node(byte), all.iter().copied().collect())).collect();
        assert_eq!(arrived(&layout, &told), all);
        let late = *all.first().expect("something moves");
        told.get_mut(&node(4)).expect("it was told").remove(&late);
        assert_eq!(arrived(&layout, &told), all.get(1..).expect("the rest"));
        assert!(all.len() > 1 && arrived(&layout, &BTreeMap::new()).is_empty());
    }
}
