//! How members are believed to be, as the rest of the node and its operators see it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipring_membership::{Incarnation, Liveness, Membership};
use slipring_model::{Moment, NodeId};

use super::Tally;

/// How a member is believed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// The layout names it, and no word of it has come since this node started. It counts as alive.
    Unheard,
    /// It answers, or nobody has said otherwise.
    Alive,
    /// It did not answer; it has time to speak for itself.
    Suspected,
    /// It did not speak for itself in time.
    Down,
    /// It said that it would be gone for now.
    Left,
}

/// What gossip tells of a member. A hint: it changes neither placement nor quorums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// How it is believed to be.
    pub state: MemberState,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// The start it last spoke from; 0 if it never spoke.
    pub start: u64,
    /// The layout it said it works with; 0 if it never spoke.
    pub layout_epoch: u64,
}

/// What gossip counted on this node since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipStatus {
    /// 0 is healthy; this node's patience with others grows with it, up to 8.
    pub ill_health: u32,
    /// The latest layout that anybody spoke of; later than this node's own while it lags behind.
    pub layout_epoch_heard: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams opened and read.
    pub received: u64,
    /// Datagrams under another key or for another cluster.
    pub forged: u64,
    /// Datagrams dropped for other reasons.
    pub dropped: u64,
}

impl GossipStatus {
    pub(super) fn new(tally: Tally) -> Self {
        let counters = tally.counters;
        Self {
            ill_health: tally.health_score,
            layout_epoch_heard: tally.layout_epoch_heard,
            sent: counters.sent,
            received: counters.received,
            forged: counters.dropped_forged,
            dropped: counters.dropped_length
                + counters.dropped_version
                + counters.dropped_replayed
                + counters.dropped_malformed
                + counters.dropped_strangers,
        }
    }
}

/// One member.
#[derive(Clone, Copy, Debug)]
struct Standing {
    state: MemberState,
    since: Moment,
    incarnation: Incarnation,
    layout_epoch: u64,
}

/// All members but this node.
#[derive(Debug, Default)]
pub(super) struct Standings {
    members: BTreeMap<NodeId, Standing>,
}

impl Standings {
    /// Looks at one member again.
    pub(super) fn look_at(&mut self, machine: &Membership, node: NodeId, now: Moment) {
        let Some((member, liveness)) = machine.member(&node) else {
            self.members.remove(&node);
            return;
        };
        let state = match liveness {
            Liveness::Alive if member.incarnation == Incarnation::default() => MemberState::Unheard,
            Liveness::Alive => MemberState::Alive,
            Liveness::Suspected => MemberState::Suspected,
            Liveness::Down => MemberState::Down,
            Liveness::Left => MemberState::Left,
        };
        let before = self.members.get(&node);
        let is_same = |before: &&Standing| {
            before.state == state && before.incarnation.start == member.incarnation.start
        };
        let since = before.filter(is_same).map_or(now, |before| before.since);
        let (incarnation, layout_epoch) = (member.incarnation, member.metadata.layout_epoch);
        self.members.insert(node, Standing { state, since, incarnation, layout_epoch });
    }

    /// Looks at all members again.
    pub(super) fn take_stock(&mut self, machine: &Membership, now: Moment) {
        let mut nodes: Vec<NodeId> = machine.members().map(|(member, _)| member.node).collect();
        nodes.extend(self.members.keys().copied());
        nodes.into_iter().for_each(|node| self.look_at(machine, node, now));
    }

    pub(super) fn get(&self, node: NodeId, now: Moment) -> Option<MemberStatus> {
        let standing = self.members.get(&node)?;
        let age: Duration = now.since(standing.since);
        Some(MemberStatus {
            state: standing.state,
            for_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            start: standing.incarnation.start,
            layout_epoch: standing.layout_epoch,
        })
    }

    pub(super) fn is_in_doubt(&self, node: NodeId) -> bool {
        use MemberState::{Down, Left, Suspected};
        self.members.get(&node).is_some_and(|standing| matches!(standing.state, Suspected | Down | Left))
    }

    /// Members alive, suspected, and gone.
    pub(super) fn census(&self) -> [u64; 3] {
        let mut census = [0; 3];
        for standing in self.members.values() {
            let [alive, suspected, gone] = &mut census;
            match standing.state {
                MemberState::Unheard | MemberState::Alive => *alive += 1,
                MemberState::Suspected => *suspected += 1,
                MemberState::Down | MemberState::Left => *gone += 1,
            }
        }
        census
    }
}
