//! Changes of nodes' roles and buckets' copies: what they would move, before they are agreed on, and their application.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slipring_model::{NodeId, PartitionId, limits};

use crate::placement::Infeasible;

use super::{Command, Holders, Layout, NodeLoad, NodeState, Refused, Role, Spread, StandIns, TableId};

/// Something that is to be different about one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeChange {
    /// Its share, relative to the others'.
    Weight(u32),
    /// Where it stands.
    Zone(String),
    /// Whether it holds anything.
    State(NodeState),
    /// It takes the place of this node, which is lost: its zone, its weight and what it holds. Read since version 4.
    Replaces(NodeId),
}

/// One change of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The node.
    pub node: NodeId,
    /// What is to be different.
    pub change: NodeChange,
}

/// Changes that are made together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Of nodes, in this order.
    #[serde(default)]
    pub nodes: Vec<Change>,
    /// Of buckets' copies, each bucket once.
    #[serde(default)]
    pub spreads: Vec<Spread>,
}

impl From<Vec<Change>> for Changes {
    fn from(nodes: Vec<Change>) -> Self {
        Self { nodes, spreads: Vec::new() }
    }
}

impl Changes {
    /// The command that makes them, if the layout is still at `expected_epoch`; at any without one.
    #[must_use]
    pub fn command(self, expected_epoch: Option<u64>) -> Command {
        if self.spreads.is_empty() {
            Command::Change { changes: self.nodes, expected_epoch }
        } else {
            Command::Reshape { changes: self, expected_epoch }
        }
    }

    /// Whether each is in its range, and no two of a node contradict each other.
    fn check(&self) -> Result<(), Refused> {
        let mut asked = BTreeSet::new();
        for change in &self.nodes {
            change.check()?;
            let twice = change.asks().into_iter().find(|asks| !asked.insert(*asks));
            if let Some((node, kind)) = twice {
                return Err(Refused::Impossible(format!(
                    "node {} is given more than one {kind}; choose one",
                    node.short()
                )));
            }
        }
        Ok(())
    }
}

impl Change {
    /// Whether one node takes the place of another.
    pub(super) fn is_replacement(&self) -> bool {
        matches!(self.change, NodeChange::Replaces(_))
    }

    fn check(&self) -> Result<(), Refused> {
        let node = self.node.short();
        if self.change == NodeChange::Replaces(self.node) {
            return Err(Refused::Impossible(format!(
                "node {node} cannot replace itself: name the node that takes its place"
            )));
        }
        self.change.check().map_err(|why| Refused::Impossible(format!("node {node}: {why}")))
    }

    /// What it decides on, and of whom.
    fn asks(&self) -> Vec<(NodeId, &'static str)> {
        const STATE: &str = "state (drain, restore, remove, lost, replace)";
        match self.change {
            NodeChange::Weight(_) => vec![(self.node, "weight")],
            NodeChange::Zone(_) => vec![(self.node, "zone")],
            NodeChange::State(_) => vec![(self.node, STATE)],
            NodeChange::Replaces(dead) => [self.node, dead]
                .into_iter()
                .flat_map(|node| [STATE, "weight", "zone"].map(|kind| (node, kind)))
                .collect(),
        }
    }
}

impl NodeChange {
    fn check(&self) -> Result<(), String> {
        match self {
            Self::Weight(weight) if !(1..=limits::WEIGHT_MAX).contains(weight) => Err(format!(
                "the weight {weight} must lie in 1..={}; drain the node if it is to hold nothing",
                limits::WEIGHT_MAX
            )),
            Self::Zone(zone) if zone.is_empty() || zone.len() > limits::ZONE_BYTES_MAX => {
                Err(format!("the zone must have 1 to {} bytes", limits::ZONE_BYTES_MAX))
            }
            Self::Weight(_) | Self::Zone(_) | Self::State(_) | Self::Replaces(_) => Ok(()),
        }
    }
}

/// What changes would come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The epoch this is true of.
    pub epoch: u64,
    /// How many partitions there are.
    #[serde(default)]
    pub partitions_before: u16,
    /// How many there would be.
    #[serde(default)]
    pub partitions_after: u16,
    /// The partitions that would begin to move.
    pub moves: Vec<PlannedMove>,
    /// What each node holds now, of partitions that move what it will hold.
    pub load_before: BTreeMap<NodeId, NodeLoad>,
    /// What each would hold.
    pub load_after: BTreeMap<NodeId, NodeLoad>,
    /// Which single failures would then take a quorum, or the last copy, from any partition.
    pub exposed: Vec<Exposure>,
}

/// A failure and what it would take away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// A node or a zone.
    pub what: String,
    /// Partitions of all buckets that could not be written or read any more.
    pub without_quorum: u64,
    /// Those of them that would have no copy left.
    pub without_copy: u64,
}

/// One partition that would move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// Copies per partition that its table is to have.
    pub copies: u8,
    /// Its table.
    #[serde(default)]
    pub table: TableId,
    /// The partition.
    pub partition: u16,
    /// Who holds it.
    pub from: Vec<NodeId>,
    /// Who would.
    pub to: Vec<NodeId>,
}

impl Layout {
    /// The layout that these changes would make; its moves have the session `u64::MAX`.
    ///
    /// # Errors
    /// Why they would be refused.
    pub fn with(&self, changes: &Changes) -> Result<Self, Refused> {
        let mut next = self.clone();
        next.change(u64::MAX, changes)?;
        Ok(next)
    }

    /// How many copies the buckets ask for that no node which `is_up` holds or is to hold.
    #[must_use]
    pub fn missing_copies(&self, is_up: impl Fn(NodeId) -> bool) -> u64 {
        let up: BTreeSet<NodeId> = self.nodes.keys().copied().filter(|node| is_up(*node)).collect();
        let missing = |(id, bucket): (&slipring_model::BucketId, &super::BucketEntry)| {
            let wanted = u64::from(bucket.policy.replicas);
            let held = |partition| {
                let target = self.holders(*id, PartitionId(partition)).map_or(&[][..], Holders::target);
                target.iter().filter(|replica| up.contains(&replica.node)).count() as u64
            };
            (0..self.partition_count()).map(|partition| wanted.saturating_sub(held(partition))).sum::<u64>()
        };
        self.buckets.iter().map(missing).sum()
    }

    /// What these changes would move; nothing changes.
    ///
    /// # Errors
    /// Why they would be refused.
    pub fn plan(&self, changes: &Changes) -> Result<Plan, Refused> {
        Ok(self.plan_of(&self.with(changes)?))
    }

    /// What `next` would be after this layout; its own moves have the session `u64::MAX`.
    pub(super) fn plan_of(&self, next: &Self) -> Plan {
        let copies = next.copies_by_table();
        let moves = next.moves().filter(|(id, _)| id.session == u64::MAX);
        let nodes = |replicas: &[super::Replica]| replicas.iter().map(|replica| replica.node).collect();
        let planned = moves.map(|(id, holders)| PlannedMove {
            copies: copies.get(&id.table).copied().unwrap_or_default(),
            table: id.table,
            partition: id.partition,
            from: nodes(&holders.replicas),
            to: nodes(holders.target()),
        });
        Plan {
            epoch: self.epoch,
            partitions_before: self.partition_count(),
            partitions_after: next.partition_count(),
            moves: planned.collect(),
            load_before: self.load(),
            load_after: next.load(),
            exposed: next.exposures(),
        }
    }

    /// Which single failures, of a node or of a whole zone, take a quorum from any partition as it is to lie.
    #[must_use]
    pub fn exposures(&self) -> Vec<Exposure> {
        let zone = |node: &NodeId| self.nodes.get(node).map_or("", |entry| entry.role.zone.as_str());
        let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (id, bucket) in &self.buckets {
            for holders in (0..self.partition_count()).filter_map(|p| self.holders(*id, PartitionId(p))) {
                let nodes: Vec<NodeId> = holders.target().iter().map(|replica| replica.node).collect();
                let quorum = bucket.policy.quorum(nodes.len() as u8);
                let needed = usize::from(quorum.r.max(quorum.w));
                let mut fails = |what: String, left: usize| {
                    if left < needed {
                        let (quorums, copies) = found.entry(what).or_default();
                        *quorums += 1;
                        *copies += u64::from(left == 0);
                    }
                };
                nodes.iter().for_each(|node| fails(format!("node {}", node.short()), nodes.len() - 1));
                let zones: BTreeSet<&str> = nodes.iter().map(zone).filter(|zone| !zone.is_empty()).collect();
                for name in zones {
                    let left = nodes.iter().filter(|node| zone(node) != name).count();
                    fails(format!("zone {name}"), left);
                }
            }
        }
        let exposure =
            |(what, (without_quorum, without_copy))| Exposure { what, without_quorum, without_copy };
        found.into_iter().map(exposure).collect()
    }

    /// Whether partitions move.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.moves().next().is_some()
    }

    /// How many partitions of all buckets have fewer replicas than their bucket asks for.
    #[must_use]
    pub fn under_replicated(&self) -> usize {
        let partitions = || (0..self.partition_count()).map(PartitionId);
        let of_bucket = |(id, bucket): (&slipring_model::BucketId, &super::BucketEntry)| {
            let wanted = usize::from(bucket.policy.replicas);
            partitions().filter(|partition| self.replicas(*id, *partition).len() < wanted).count()
        };
        self.buckets.iter().map(of_bucket).sum()
    }

    /// Applies changes and begins what they move; `false` when all is as asked already.
    pub(super) fn change(&mut self, index: u64, changes: &Changes) -> Result<bool, Refused> {
        changes.check()?;
        let (before, copies_before) = (self.roles(), self.copies_by_table());
        let mut stand_ins = StandIns::new();
        for change in &changes.nodes {
            self.change_node(change, &mut stand_ins)?;
        }
        self.respread(&changes.spreads)?;
        if self.roles() == before && self.copies_by_table() == copies_before {
            return Ok(false);
        }
        self.replace_all(index, before, &stand_ins)?;
        Ok(true)
    }

    fn change_node(
        &mut self,
        Change { node, change }: &Change,
        stand_ins: &mut StandIns,
    ) -> Result<(), Refused> {
        let entry = self.nodes.get_mut(node).ok_or(Refused::UnknownNode { node: *node })?;
        match change {
            NodeChange::Weight(weight) => entry.role.weight = *weight,
            NodeChange::Zone(zone) => entry.role.zone.clone_from(zone),
            // What is lost stays lost: its copies may have been counted out already.
            NodeChange::State(state) if entry.role.state == NodeState::Lost => {
                if *state != NodeState::Lost {
                    return Err(Refused::Impossible(format!(
                        "node {} is lost; let it join as a new node",
                        node.short()
                    )));
                }
            }
            NodeChange::State(state) => entry.role.state = *state,
            NodeChange::Replaces(dead) => self.replace_node(*dead, *node, stand_ins)?,
        }
        Ok(())
    }

    /// Places everything anew after roles changed from `before`.
    pub(super) fn replace_all(
        &mut self,
        index: u64,
        before: BTreeMap<NodeId, Role>,
        stand_ins: &StandIns,
    ) -> Result<(), Refused> {
        let since = self.epoch + 1;
        self.place(index, since, stand_ins).map_err(|error| {
            Refused::Impossible(match error {
                Infeasible::NoNodes => {
                    "no node would be left to hold data; start another one that joins, or restore one, first"
                        .to_owned()
                }
                Infeasible::NothingToPlace | Infeasible::Zones => error.to_string(),
            })
        })?;
        self.roles_before.get_or_insert(before);
        self.settle();
        self.epoch = since;
        Ok(())
    }

    /// Lets go of nodes that leave and hold nothing; once nothing moves, no change can be taken back.
    pub(super) fn settle(&mut self) {
        let gone = |node: &NodeId, role: &Role| !role.state.stays() && !self.holds_any(*node);
        let entries = self.nodes.iter();
        let gone: Vec<NodeId> =
            entries.filter(|(node, entry)| gone(node, &entry.role)).map(|(node, _)| *node).collect();
        gone.iter().for_each(|node| drop(self.nodes.remove(node)));
        if !self.is_moving() {
            self.roles_before = None;
            self.copies_before.clear();
        }
    }

    /// Takes back the changes that the moves under way come from; a node that joined since is drained.
    pub(super) fn revert(&mut self, index: u64) -> Result<(), Refused> {
        let Some(before) = self.roles_before.take() else { return Ok(()) };
        let now = self.roles();
        for (node, entry) in &mut self.nodes {
            match before.get(node) {
                _ if entry.role.state == NodeState::Lost => {}
                Some(role) => entry.role = role.clone(),
                None => entry.role.state = NodeState::Drained,
            }
        }
        self.spread_back();
        self.turn_back(self.epoch + 1);
        self.replace_all(index, now, &StandIns::new())?;
        // Told twice it is the same.
        self.roles_before = None;
        Ok(())
    }

    fn roles(&self) -> BTreeMap<NodeId, Role> {
        self.nodes.iter().map(|(node, entry)| (*node, entry.role.clone())).collect()
    }
}
