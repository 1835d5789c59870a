//! Keeping the group's membership in step with the layout it agrees on.
//!
//! The leader takes every node of the layout in as a learner, and makes those voters that the layout names.
//! Repeating a step is harmless; a step that fails is tried again.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use slipring_ring::Layout;

use crate::group::LayoutGroup;

/// How often the leader looks, beside each change of the layout.
const INTERVAL: Duration = Duration::from_millis(300);
/// How long one change of membership may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs until the group is stopped.
pub(crate) async fn run(group: LayoutGroup) {
    let mut layouts = group.layout();
    loop {
        let layout = layouts.borrow_and_update().clone();
        if let Some(layout) = layout.filter(|_| group.is_leader())
            && let Err(error) = step(&group, &layout).await
        {
            tracing::debug!(error, "the layout group's membership is behind the layout");
        }
        tokio::select! {
            biased;
            changed = layouts.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if group.raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
    }
}

async fn step(group: &LayoutGroup, layout: &Layout) -> Result<(), String> {
    let (members, voters) = {
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let members: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        (members, voters)
    };
    for (node, entry) in layout.nodes().iter().filter(|(_, entry)| !members.contains(&entry.raft_id)) {
        let added = tokio::time::timeout(STEP_TIMEOUT, group.raft.add_learner(entry.raft_id, *node, false));
        added.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    let wanted = layout.voters();
    let wanted: BTreeSet<u64> =
        wanted.iter().filter_map(|node| Some(layout.nodes().get(node)?.raft_id)).collect();
    if wanted != voters {
        if !can_decide(group, &wanted) {
            return Err("most of the next voters have not caught up yet".to_owned());
        }
        let change = ChangeMembers::ReplaceAllVoters(wanted);
        let changed = tokio::time::timeout(STEP_TIMEOUT, group.raft.change_membership(change, true));
        changed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Whether most of these members hold what is agreed on: with voters that do not, nothing more would be.
fn can_decide(group: &LayoutGroup, voters: &BTreeSet<u64>) -> bool {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    let agreed = metrics.local_committed;
    let holds = |id: &u64| {
        let replicated =
            metrics.replication.as_ref().and_then(|progress| progress.get(id).copied().flatten());
        *id == metrics.id || replicated >= agreed
    };
    voters.iter().filter(|id| holds(id)).count() > voters.len() / 2
}
