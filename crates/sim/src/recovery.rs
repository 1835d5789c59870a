//! What the operator of a run does when the layout group has lost its majority for good, as a person is told to do:
//! stop the nodes that are left, recover the one that knows most, start them all.
//!
//! Before that the data path must go on wherever quorums of replicas live.

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;
use slipring_consensus::GroupStatus;
use slipring_model::{Mutant, NodeId, PartitionId, Position};
use slipring_node::{Node, RecoverError, Remains};
use slipring_ring::{Holders, Layout, NodeState, Replica};

use crate::history::{BucketKind, Operation};
use crate::run::Violation;
use crate::world::World;

/// How long nobody has led, and nobody could, when the operator steps in.
const PATIENCE_MS: u64 = 3_000;
/// How long after everything has healed what needs no agreement may take to be served, while nobody leads.
const SERVING_MS: u64 = 10_000;
/// Within how long after the first the other nodes are started.
const STARTING_MS: u64 = 1_500;

/// What became of majorities.
#[derive(Default)]
pub(crate) struct Losses {
    /// Nodes that are gone for good with their directories.
    pub(crate) gone: BTreeSet<NodeId>,
    /// Hosts that were lost together, and none of which may take part again.
    pub(crate) hosts: BTreeSet<usize>,
    /// When, in simulated milliseconds.
    pub(crate) at_ms: Option<u64>,
    /// Hosts that had lost what they had not synced before.
    pub(crate) without_power: BTreeSet<usize>,
    /// How long after they are given up the lost hosts come back.
    back_ms: Option<u64>,
    /// Since when nobody leads, and nobody could.
    leaderless_since_ms: Option<u64>,
    /// The operator looks on for now.
    is_held_back: bool,
    /// Lost hosts that are not given up yet.
    kept: BTreeSet<usize>,
    /// Hosts that the recovered layout does not know: they begin anew.
    forgotten: BTreeSet<usize>,
    /// Buckets of which writes may have lain with lost nodes alone.
    pub(crate) bereft: BTreeSet<BucketKind>,
}

fn failed(story: String) -> Violation {
    Violation::new("recovery", story)
}

impl World {
    /// Loses most of the voters for good; `false` when nobody can tell who votes, or too few would be left.
    pub(crate) fn lose_majority(&mut self, back_ms: Option<u64>) -> bool {
        let Some(group) = self.best_informed() else { return false };
        let mut rng = Rng::with_seed(self.seed ^ self.journal.now_ms());
        let is_voter = |host: &usize| self.ids.get(*host).is_some_and(|id| group.voters.contains(id));
        let mut voters: Vec<usize> = self.members().filter(is_voter).collect();
        rng.shuffle(&mut voters);
        let gone = group.voters.len() - voters.len();
        voters.truncate((group.voters.len() / 2 + 1).saturating_sub(gone));
        // A founder knows the layout from before the storm.
        let is_left = |host: usize| host < self.founders && !voters.contains(&host);
        if !self.members().any(is_left) {
            return false;
        }
        self.journal.count("majorities lost", 1);
        let names: Vec<_> = group.voters.iter().map(|voter| voter.short()).collect();
        self.journal.note(format_args!("of the voters {} most are lost", names.join(", ")));
        if self.losses.at_ms.is_none() {
            self.losses.without_power = self.lost_power.clone();
        }
        for host in voters {
            self.lose_for_good(host);
        }
        self.losses.at_ms.get_or_insert(self.journal.now_ms());
        self.losses.back_ms = back_ms;
        true
    }

    fn lose_for_good(&mut self, host: usize) {
        self.kill_for_good(host);
        self.losses.hosts.insert(host);
        self.losses.kept.insert(host);
        self.losses.gone.extend(self.ids.get(host));
        self.journal.note(format_args!("host {host} is lost for good"));
    }

    /// What the node says that knows the latest of what was agreed on.
    fn best_informed(&self) -> Option<GroupStatus> {
        self.groups().max_by_key(|group| group.committed)
    }

    fn groups(&self) -> impl Iterator<Item = GroupStatus> + '_ {
        self.members().filter_map(|host| self.node(host)?.layout_group())
    }

    /// Whether one of the nodes that are left knows that nobody can lead, and none that anybody does. One that led
    /// before goes on saying so.
    pub(crate) fn is_majority_lost(&self) -> bool {
        let is_gone = |node: &NodeId| self.losses.gone.contains(node);
        let can_decide = |group: &GroupStatus| {
            group.voters.iter().filter(|voter| !is_gone(voter)).count() > group.voters.len() / 2
        };
        !self.losses.gone.is_empty()
            && self.groups().all(|group| group.leader.as_ref().is_none_or(is_gone) || !can_decide(&group))
            && self.groups().any(|group| !can_decide(&group))
    }

    /// Steps in when nobody has led for long and nobody can.
    pub(crate) fn watch_for_majority(&mut self) -> Result<(), Violation> {
        if !self.is_majority_lost() {
            self.losses.leaderless_since_ms = None;
            self.give_up();
            return Ok(());
        }
        let now = self.journal.now_ms();
        let since = *self.losses.leaderless_since_ms.get_or_insert(now);
        if now < since + PATIENCE_MS || self.losses.is_held_back {
            return Ok(());
        }
        self.losses.leaderless_since_ms = None;
        self.recover()
    }

    /// Gives the lost hosts up by an ordinary order where the group decides without them. A voter whose start was not over
    /// counted as lost already, so fewer than most were.
    fn give_up(&mut self) {
        let is_early = self.losses.at_ms.is_none_or(|at_ms| self.journal.now_ms() < at_ms + PATIENCE_MS);
        let is_left = |leader: NodeId| !self.losses.gone.contains(&leader);
        if is_early
            || self.losses.kept.is_empty()
            || !self.groups().any(|group| group.deciding().is_some_and(is_left))
        {
            return;
        }
        self.journal.count("hosts given up", self.losses.kept.len() as u64);
        self.note_bereft(None);
        for host in std::mem::take(&mut self.losses.kept) {
            self.order_away(host, NodeState::Lost);
        }
        self.let_lost_return();
    }

    /// Stops all that are left, recovers the one that knows most, and starts them.
    fn recover(&mut self) -> Result<(), Violation> {
        let left: Vec<usize> = self.members().collect();
        let mut remains = Vec::new();
        for host in left.iter().copied() {
            self.stop(host);
            remains.extend(self.remains(host)?.map(|remains| (host, remains)));
        }
        let place = |(_, remains): &&(usize, Remains)| remains.last;
        let chosen = match Mutant::RecoverOldest.is_planted() {
            true => remains.iter().min_by_key(place),
            false => remains.iter().max_by_key(place),
        };
        let (chosen, known) = chosen.ok_or_else(|| failed("no node knows the layout".to_owned()))?;
        let lost: Vec<NodeId> = self.losses.gone.iter().copied().collect();
        let lost: Vec<NodeId> =
            lost.into_iter().filter(|node| known.layout.nodes().contains_key(node)).collect();
        self.journal.note(format_args!("of hosts {left:?} host {chosen} knows most: {:?}", known.last));
        match self.hosts.get(*chosen).map(|host| host.recover(&lost)) {
            Some(Ok(layout)) => self.has_recovered(*chosen, &known.layout, &layout)?,
            // The others had agreed that fewer vote, and need no help.
            Some(Err(RecoverError::MajorityLeft { .. })) => {}
            other => return Err(failed(format!("host {chosen} cannot be recovered: {other:?}"))),
        }
        self.start(*chosen);
        let recovered = self.ids.get(*chosen).copied();
        let mut rng = Rng::with_seed(self.seed ^ self.journal.now_ms());
        for host in left.into_iter().filter(|host| host != chosen) {
            if let Some(told) = self.hosts.get_mut(host) {
                told.follows = recovered;
            }
            self.start_in(host, rng.u64(..STARTING_MS));
        }
        Ok(())
    }

    fn has_recovered(&mut self, chosen: usize, before: &Layout, layout: &Layout) -> Result<(), Violation> {
        self.journal.count("majorities recovered", 1);
        self.losses.kept.clear();
        self.note_bereft(Some(before));
        let (epoch, bereft) = (layout.epoch(), &self.losses.bereft);
        self.journal
            .note(format_args!("host {chosen} is recovered, at epoch {epoch}; bereft are {bereft:?}"));
        if !self.losses.bereft.contains(&BucketKind::Fsync) {
            self.journal.count("majorities recovered without a loss", 1);
        }
        let is_unknown = |host: &usize| self.ids.get(*host).is_none_or(|id| !layout.nodes().contains_key(id));
        self.losses.forgotten = self.members().filter(is_unknown).collect();
        self.order_splits_again(layout.bits());
        self.let_lost_return();
        Ok(())
    }

    /// Notes of which buckets writes may be gone, by the latest layout that any node showed and another one.
    fn note_bereft(&mut self, other: Option<&Layout>) {
        let latest = self.observations.all().iter().max_by_key(|seen| seen.layout.epoch());
        let latest = latest.map(|seen| Arc::clone(&seen.layout));
        for bucket in BucketKind::ALL {
            let is_bereft = |layout: &Layout| is_bereft(layout, bucket, &self.losses.gone);
            if other.is_some_and(is_bereft) || latest.as_deref().is_some_and(is_bereft) {
                self.losses.bereft.insert(bucket);
            }
        }
    }

    fn let_lost_return(&mut self) {
        if let Some(back_ms) = self.losses.back_ms.take() {
            self.journal.count("majorities back", 1);
            for host in self.losses.hosts.clone() {
                self.return_in(host, back_ms);
            }
        }
    }

    fn remains(&self, host: usize) -> Result<Option<Remains>, Violation> {
        let Some(found) = self.hosts.get(host) else { return Ok(None) };
        match found.remains() {
            Ok(remains) => Ok(Some(remains)),
            Err(RecoverError::NoMember) => Ok(None),
            Err(error) => Err(failed(format!("what host {host} knows cannot be read: {error}"))),
        }
    }

    /// Whether a host was admitted by those alone that were lost: it begins anew then.
    pub(crate) fn is_forgotten(&mut self, host: usize) -> bool {
        self.losses.forgotten.remove(&host)
    }

    /// Whether the lost hosts that came back have all found out.
    pub(crate) fn are_lost_hosts_still(&self) -> bool {
        let is_still = |host: &usize| self.hosts.get(*host).is_none_or(|host| host.process.is_none());
        self.losses.hosts.iter().all(is_still)
    }

    /// While nobody can lead, what has a quorum of replicas must be served all the same.
    pub(crate) fn go_on_without_majority(&mut self) -> Result<(), Violation> {
        if !self.is_majority_lost() {
            return Ok(());
        }
        self.losses.is_held_back = true;
        let end = self.journal.now_ms() + SERVING_MS;
        for host in self.members() {
            for bucket in BucketKind::ALL {
                // What is true of the replicas now stays so: nobody can change the layout.
                while self.is_served_without_majority(host, bucket) {
                    if self.probe(host, bucket)? {
                        self.journal.count("writes without a majority", 1);
                        break;
                    }
                    if self.journal.now_ms() >= end {
                        let story = format!(
                            "without a leader host {host} takes no write to {bucket:?}, though enough replicas live"
                        );
                        return Err(Violation::new("serving", story));
                    }
                }
            }
        }
        self.losses.is_held_back = false;
        Ok(())
    }

    /// Whether a host's own key of a bucket has a quorum among nodes that need nobody's agreement any more.
    fn is_served_without_majority(&self, host: usize, bucket: BucketKind) -> bool {
        let nodes: Vec<Node> =
            self.members().filter_map(|host| self.node(host)).filter(Node::is_agreed).collect();
        let Some(node) = self.node(host).filter(Node::is_agreed) else { return false };
        let layout = node.layout();
        // Who is behind learns nothing more, and is refused by the others where things have moved.
        if nodes.iter().any(|other| other.layout().epoch() != layout.epoch()) {
            return false;
        }
        let partition = Position::of(crate::run::probe_key(host).as_bytes()).partition(layout.bits());
        let (Some(entry), Some(holders)) =
            (layout.buckets().get(&bucket.id()), layout.holders(bucket.id(), partition))
        else {
            return false;
        };
        let is_up = |id: NodeId| nodes.iter().any(|node| node.id() == id);
        let has_quorum = |replicas: &[Replica]| {
            let quorum = entry.policy.quorum(replicas.len() as u8);
            let up = replicas.iter().filter(|replica| is_up(replica.node)).count();
            up >= usize::from(quorum.r.max(quorum.w))
        };
        has_quorum(&holders.replicas) && has_quorum(holders.target())
    }

    /// What clients were told until most voters were lost.
    pub(crate) fn before_the_loss(&self, operations: &[Operation]) -> Option<Vec<Operation>> {
        let at_ms = self.losses.at_ms?;
        let began = operations.iter().filter(|operation| operation.start_ms < at_ms);
        let as_known_then = |operation: &Operation| {
            let end = operation.end.clone().filter(|(ended_ms, _)| *ended_ms < at_ms);
            Operation { end, ..operation.clone() }
        };
        Some(began.map(as_known_then).collect())
    }
}

/// Whether acknowledged writes of a bucket may have lain with nodes alone that are gone.
fn is_bereft(layout: &Layout, bucket: BucketKind, gone: &BTreeSet<NodeId>) -> bool {
    let Some(entry) = layout.buckets().get(&bucket.id()) else { return true };
    let is_gone = |node: &NodeId| {
        gone.contains(node)
            || layout.nodes().get(node).is_none_or(|entry| entry.role.state == NodeState::Lost)
    };
    let is_torn = |holders: &Holders| {
        let lost = holders.replicas.iter().filter(|replica| is_gone(&replica.node)).count();
        lost >= usize::from(entry.policy.quorum(holders.replicas.len() as u8).w)
    };
    let mut partitions = (0..layout.partition_count()).map(PartitionId);
    partitions.any(|partition| layout.holders(bucket.id(), partition).is_none_or(is_torn))
}
