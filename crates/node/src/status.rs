//! What a node can tell about itself and its cluster, for people and for tools.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipring_consensus::{GroupStatus, LayoutGroup};
use slipring_model::{ClusterId, Error, NodeId, PartitionId, Space, Versions};
use slipring_ring::{Addresses, NodeState};
use slipring_wire::{Reply, Request};

use crate::core::Core;
use crate::failure::unavailable;
use crate::gossip::{GossipStatus, MemberStatus};
use crate::wholeness::Wholeness;

/// How long a peer has to tell its status.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// A cluster, as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that tells.
    pub node: NodeId,
    /// The layout it works with.
    pub epoch: u64,
    /// The newest version of the protocol that every member speaks.
    #[serde(default)]
    pub level: u8,
    /// How many partitions the ring has.
    pub partitions: u16,
    /// Every member.
    pub nodes: Vec<NodeStatus>,
    /// Every bucket.
    pub buckets: Vec<BucketStatus>,
    /// Partitions on the way to other replicas, over all tables.
    pub moving: u64,
    /// Partitions with fewer replicas than their bucket asks for, over all buckets.
    pub under_replicated: u64,
    /// Who leads the layout group, if anybody is known to.
    pub layout_leader: Option<NodeId>,
    /// Who votes in the layout group, as far as the node that tells has heard.
    #[serde(default)]
    pub layout_voters: Vec<NodeId>,
    /// What gossip counted on the node that tells; nothing where it has no cluster key.
    #[serde(default)]
    pub gossip: Option<GossipStatus>,
    /// Whether enough clocks agree to set times to live, as the node that tells sees it.
    pub clocks_agree: bool,
    /// Whether one node may be stopped now, as the node that tells sees it.
    #[serde(default)]
    pub wholeness: Wholeness,
    /// Why the node that tells answers no client, where another living cluster counts on its address.
    #[serde(default)]
    pub rival: Option<String>,
}

/// One member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Which.
    pub id: NodeId,
    /// Where it can be reached.
    pub addresses: Addresses,
    /// Its zone.
    pub zone: String,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Whether it is to hold anything.
    pub state: NodeState,
    /// Its latest start that the cluster has agreed on.
    pub incarnation: u64,
    /// The versions of the protocol that it spoke at that start.
    #[serde(default)]
    pub versions: Versions,
    /// Whether the telling node can reach it.
    pub is_connected: bool,
    /// How the telling node believes it to be; nothing of itself, and nothing where no gossip runs.
    #[serde(default)]
    pub seen: Option<MemberStatus>,
    /// How far its clock is ahead of the time that the members' clocks agree on, in milliseconds, as the telling node
    /// has read it lately.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// What it told of itself, when it could be reached.
    pub own: Option<OwnStatus>,
}

/// What only a node itself knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnStatus {
    /// The layout it works with.
    pub epoch: u64,
    /// Partition replicas it holds, over all buckets.
    pub replicas: u64,
    /// Those of which it is the first in the preference list.
    pub primaries: u64,
    /// Live keys it holds, over all buckets.
    pub keys: u64,
    /// Hints it keeps for others.
    pub hints: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// Whether the cluster has agreed to its start; nodes of the first version do not tell.
    #[serde(default)]
    pub is_agreed: Option<bool>,
    /// Members that it shares partitions with and cannot reach, or has not compared its copies with since the two
    /// were last connected; nodes of the first version do not tell.
    #[serde(default)]
    pub out_of_step: Vec<NodeId>,
    /// Its place in the layout group; nodes of earlier releases do not tell.
    #[serde(default)]
    pub group: Option<GroupPlace>,
    /// The room on its disk.
    #[serde(default)]
    pub disk: Space,
    /// The room for its buckets in memory.
    #[serde(default)]
    pub memory: Space,
}

/// How far one node takes part in the layout group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPlace {
    /// Whom it follows, or that it leads itself; nothing while it knows no leader.
    pub leader: Option<NodeId>,
    /// The term that it is in.
    pub term: u64,
    /// The last entry of the group's log that it has applied.
    pub applied: Option<u64>,
}

impl From<GroupStatus> for GroupPlace {
    fn from(status: GroupStatus) -> Self {
        let leader = status.deciding();
        let GroupStatus { ballot, applied, .. } = status;
        Self { leader, term: ballot.term, applied: applied.map(|entry| entry.index) }
    }
}

/// One bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BucketStatus {
    /// Its number: what `SELECT` takes on the Redis port.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// What it promises.
    pub policy: slipring_model::BucketPolicy,
    /// Copies that every key has now; fewer than the policy's while the cluster is small or more are made.
    pub copies: u8,
}

impl Core {
    pub(crate) async fn status(&self) -> Result<Status, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let own =
            futures::future::join_all(view.layout.nodes().keys().map(|node| self.own_status(*node))).await;
        let group = self.group.get().map(LayoutGroup::status);
        let told = view.layout.nodes().keys().copied().zip(&own).collect();
        let wholeness = Wholeness::of(&view.layout, &told, group.as_ref());
        let (now, clocks) = (self.now(), self.time.judgement());
        let nodes = view.layout.nodes().iter().zip(own).map(|((id, entry), own)| NodeStatus {
            id: *id,
            addresses: entry.addresses.clone(),
            zone: entry.role.zone.clone(),
            weight: entry.role.weight,
            state: entry.role.state,
            incarnation: entry.incarnation,
            versions: entry.versions,
            is_connected: self.is_reachable(*id),
            seen: self.gossip.member(*id, now),
            clock_ahead_ms: clocks.ahead_ms.get(id).copied(),
            own,
        });
        let buckets =
            view.layout.buckets().values().zip(view.buckets()).map(|(entry, bucket)| BucketStatus {
                number: bucket.bucket.id.0,
                name: bucket.bucket.name.to_string(),
                policy: entry.policy.clone(),
                copies: bucket.places.iter().map(|place| place.quorum.n).min().unwrap_or(0),
            });
        Ok(Status {
            cluster: view.layout.cluster(),
            node: self.me,
            epoch: view.epoch(),
            level: view.layout.level(),
            partitions: view.layout.partition_count(),
            nodes: nodes.collect(),
            buckets: buckets.collect(),
            moving: view.layout.moves().count() as u64,
            under_replicated: view.layout.under_replicated() as u64,
            layout_leader: group.as_ref().and_then(GroupStatus::deciding),
            layout_voters: group.map(|group| group.voters).unwrap_or_default(),
            gossip: self.gossip.status(),
            wholeness,
            rival: self.rivals.confirmed().map(|rival| rival.to_string()),
            clocks_agree: clocks.is_agreed,
        })
    }

    async fn own_status(&self, node: NodeId) -> Option<OwnStatus> {
        if node == self.me {
            return self.status_here();
        }
        match self.ask(node, Request::Status, STATUS_TIMEOUT).await {
            Some(Reply::Status(json)) => serde_json::from_slice::<Option<OwnStatus>>(&json).ok().flatten(),
            _ => None,
        }
    }

    pub(crate) fn status_here(&self) -> Option<OwnStatus> {
        let view = self.view()?;
        let places = || view.buckets().flat_map(|bucket| bucket.places.iter());
        let held = places().filter(|place| place.mine.is_some()).count();
        let primaries = places().filter(|place| place.replicas.first() == Some(&self.me)).count();
        let now_ms = self.agreed_ms();
        let keys = view.buckets().map(|bucket| {
            let all: Vec<u16> = (0..view.layout.partition_count()).collect();
            let live = |partition| bucket.bucket.live(PartitionId(partition), view.bits, now_ms);
            all.into_iter().map(live).sum::<u64>()
        });
        let (disk, memory) = self.spaces();
        Some(OwnStatus {
            epoch: view.epoch(),
            replicas: held as u64,
            primaries: primaries as u64,
            keys: keys.sum(),
            hints: self.hints.total(),
            in_flight: self.requests.len() as u64,
            is_agreed: Some(self.may_serve()),
            out_of_step: self.out_of_step(&view),
            group: self.group.get().map(|group| group.status().into()),
            disk,
            memory,
        })
    }

    pub(crate) fn status_here_json(&self) -> Bytes {
        serde_json::to_vec(&self.status_here()).expect("a status is plain data").into()
    }

    /// Why this node cannot serve clients now.
    pub(crate) fn check_serves(&self) -> Result<(), String> {
        let view = self.view().ok_or("this node has not joined its cluster yet")?;
        if let Some(reason) = self.stop.borrow().as_ref() {
            return Err(reason.clone());
        }
        self.check_may_serve().map_err(|error| error.message.into_owned())?;
        let nodes = view.layout.nodes();
        let reachable = nodes.keys().filter(|node| self.is_reachable(**node)).count();
        if reachable * 2 <= nodes.len() && nodes.len() > 1 {
            return Err(format!("only {reachable} of {} nodes can be reached", nodes.len()));
        }
        Ok(())
    }

    /// Why this node should not be sent clients now; `Ok` when it can serve and has what it missed while it was away.
    pub(crate) fn readiness(&self) -> Result<(), String> {
        self.check_serves()?;
        self.check_caught_up()
    }

    pub(crate) fn metrics_text(&self) -> String {
        let peers = self.view().map_or(0, |view| {
            view.layout.nodes().keys().filter(|node| **node != self.me && self.is_reachable(**node)).count()
        });
        self.metrics.peers_connected.set(peers as i64);
        self.metrics.in_flight.set(self.requests.len() as i64);
        self.metrics.hints_waiting.set(self.hints.total() as i64);
        let (disk, memory) = self.spaces();
        self.metrics.room.set(&disk, &memory);
        self.count_gossip();
        self.metrics.clients.set(&self.clients);
        self.metrics.clocks.set(&self.time.judgement());
        self.metrics.text()
    }
}
