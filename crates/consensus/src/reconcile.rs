//! Keeping the group's membership in step with the layout it agrees on.
//!
//! The leader takes every node of the layout in as a learner, and makes those voters that the layout names.
//! Repeating a step is harmless; a step that fails is tried again.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use slipring_ring::Layout;
use tokio::time::Instant;

use crate::group::LayoutGroup;
use crate::protocol::LogId;

/// How often the leader looks, beside each change of the layout.
const INTERVAL: Duration = Duration::from_millis(300);
/// How long one change of membership may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// The end of what was agreed on, as of up to an interval ago: who follows holds that, however fast the log grows.
struct Landmark<L> {
    noted: Instant,
    end: Option<L>,
}

impl<L: Copy> Landmark<L> {
    /// What to hold others against at `now`, with `end` agreed on by now.
    fn at(&mut self, now: Instant, end: Option<L>) -> Option<L> {
        if self.end.is_none() || now - self.noted >= INTERVAL {
            (self.noted, self.end) = (now, end);
        }
        self.end
    }
}

/// Runs until the group is stopped.
pub(crate) async fn run(group: LayoutGroup) {
    let mut layouts = group.layout();
    let mut landmark = Landmark { noted: Instant::now(), end: None };
    loop {
        let layout = layouts.borrow_and_update().clone();
        if let Some(layout) = layout.filter(|_| group.is_leader())
            && let Err(error) = step(&group, &layout, &mut landmark).await
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

async fn step(group: &LayoutGroup, layout: &Layout, landmark: &mut Landmark<LogId>) -> Result<(), String> {
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
        if !can_decide(group, &wanted, landmark) {
            return Err("most of the next voters have not caught up yet".to_owned());
        }
        let change = ChangeMembers::ReplaceAllVoters(wanted);
        let changed = tokio::time::timeout(STEP_TIMEOUT, group.raft.change_membership(change, true));
        changed.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Whether most of these members follow what is agreed on: with voters that do not, nothing more would be.
fn can_decide(group: &LayoutGroup, voters: &BTreeSet<u64>, landmark: &mut Landmark<LogId>) -> bool {
    let metrics = group.raft.metrics();
    let metrics = metrics.borrow_watched();
    let agreed = landmark.at(Instant::now(), metrics.local_committed);
    let holds = |id: &u64| {
        let replicated =
            metrics.replication.as_ref().and_then(|progress| progress.get(id).copied().flatten());
        *id == metrics.id || replicated >= agreed
    };
    voters.iter().filter(|id| holds(id)).count() > voters.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_a_growing_log_is_held_against_what_it_can_hold() {
        let began = Instant::now();
        let mut landmark = Landmark { noted: began, end: None };
        assert_eq!(landmark.at(began, Some(7)), Some(7));
        let soon = began + INTERVAL / 2;
        assert_eq!(landmark.at(soon, Some(9)), Some(7), "what came since takes its time to arrive");
        assert_eq!(landmark.at(began + INTERVAL, Some(9)), Some(9));
    }
}
