//! Wholeness: whether every partition has all the copies it can have, so that one node may be stopped.
//!
//! A copy counts while its node answers, the cluster has agreed to that node's start, and it has been compared
//! with the other copies since their nodes were last connected. A partition should have as many as its bucket
//! asks for, or one on each node that may hold any where there are fewer: what a small cluster cannot have is
//! not waited for.
//!
//! The layout group must do without one more, too: a majority of its voters would still answer if any one of them
//! were stopped, and those vote who should. In a cluster of one or two there is but one voter, which is not waited for.
//!
//! Source: `ok-to-stop` of Ceph, the health that Elasticsearch waits for between restarts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slipring_consensus::GroupStatus;
use slipring_model::{NodeId, PartitionId, Room};
use slipring_ring::{Layout, Replica};

use crate::status::OwnStatus;

/// Reasons that are told one by one.
const REASONS_MAX: usize = 8;

/// Whether one node, whichever, may be stopped without taking more than its own copies away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wholeness {
    /// It may: there is no reason against it.
    pub is_whole: bool,
    /// Partitions, over all buckets, with fewer copies that count than they should have.
    pub short: u64,
    /// Partitions on the way to other replicas, over all tables.
    pub moving: u64,
    /// What stands against it, in sentences for people.
    pub reasons: Vec<String>,
}

impl Wholeness {
    /// Judged by what each member told of itself; nothing of those that did not answer.
    /// The group is as the node that judges knows it.
    pub(crate) fn of(
        layout: &Layout,
        members: &BTreeMap<NodeId, &Option<OwnStatus>>,
        group: Option<&GroupStatus>,
    ) -> Self {
        let members = Members(members);
        let moving = layout.moves().count() as u64;
        let short = short(layout, &members);
        let mut reasons = members.reasons_of_group(layout, group);
        reasons.extend(members.reasons(layout));
        if moving > 0 {
            reasons.push(format!("{moving} partitions move"));
        }
        if short > 0 {
            reasons.push(format!("{short} partitions have fewer copies that count than they should"));
        }
        if reasons.len() > REASONS_MAX {
            let more = reasons.len() - REASONS_MAX;
            reasons.truncate(REASONS_MAX);
            reasons.push(format!("and {more} more reasons"));
        }
        Self { is_whole: reasons.is_empty(), short, moving, reasons }
    }
}

/// What the members told.
struct Members<'m>(&'m BTreeMap<NodeId, &'m Option<OwnStatus>>);

impl Members<'_> {
    fn own(&self, node: NodeId) -> Option<&OwnStatus> {
        self.0.get(&node).and_then(|own| own.as_ref())
    }

    /// Whether a node's copies count, but for comparing them. One that does not tell of its start is believed.
    fn takes_part(&self, node: NodeId) -> bool {
        self.own(node).is_some_and(|own| own.is_agreed != Some(false))
    }

    fn are_in_step(&self, one: NodeId, other: NodeId) -> bool {
        let is_behind =
            |node: NodeId, peer: NodeId| self.own(node).is_some_and(|own| own.out_of_step.contains(&peer));
        !is_behind(one, other) && !is_behind(other, one)
    }

    /// Whether a replica's copy counts among those of its partition.
    fn counts(&self, node: NodeId, replicas: &[Replica]) -> bool {
        let others = || replicas.iter().map(|replica| replica.node).filter(|other| *other != node);
        // With those that do not answer it cannot be in step.
        let answering = || others().filter(|other| self.takes_part(*other));
        self.takes_part(node) && answering().all(|other| self.are_in_step(node, other))
    }

    /// Whether a node takes part in the layout group. One that answers and does not tell is believed.
    fn follows(&self, node: NodeId) -> bool {
        self.own(node).is_some_and(|own| own.group.as_ref().is_none_or(|place| place.leader.is_some()))
    }

    fn reasons_of_group(&self, layout: &Layout, group: Option<&GroupStatus>) -> Vec<String> {
        let Some(group) = group.filter(|group| group.deciding().is_some()) else {
            return vec!["the layout group has no leader".to_owned()];
        };
        let mut reasons = Vec::new();
        let voters: BTreeSet<NodeId> = group.voters.iter().copied().collect();
        let answering = voters.iter().filter(|node| self.follows(**node)).count();
        let (all, majority) = (voters.len(), voters.len() / 2 + 1);
        if answering < majority {
            reasons.push(format!("the layout group has no majority: {answering} of its {all} voters answer"));
        } else if all > 1 && answering == majority {
            reasons.push(format!(
                "{answering} of the {all} voters of the layout group answer: with one fewer it would have no majority"
            ));
        }
        let missing = layout.voters().into_iter().filter(|node| !voters.contains(node));
        reasons.extend(
            missing.map(|node| format!("node {} does not vote in the layout group yet", node.short())),
        );
        reasons
    }

    fn reasons(&self, layout: &Layout) -> Vec<String> {
        let newest = layout
            .epoch()
            .max(self.0.values().flat_map(|own| own.iter()).map(|own| own.epoch).max().unwrap_or(0));
        let mut reasons = Vec::new();
        for node in self.0.keys() {
            let name = node.short();
            let Some(own) = self.own(*node) else {
                reasons.push(format!("node {name} does not answer"));
                continue;
            };
            if own.is_agreed == Some(false) {
                reasons.push(format!("the cluster has not agreed to the start of node {name} yet"));
            }
            if own.epoch < newest {
                reasons.push(format!("node {name} works with layout {}, and {newest} is known", own.epoch));
            }
            let behind = own.out_of_step.iter().filter(|peer| self.own(**peer).is_some());
            reasons.extend(
                behind.map(|peer| format!("node {name} is not in step with node {} yet", peer.short())),
            );
            if own.disk.room != Room::Ample {
                reasons.push(format!("node {name} has no room for writes on its disk"));
            }
            if own.hints > 0 {
                reasons.push(format!("node {name} keeps {} hints for others", own.hints));
            }
        }
        reasons
    }
}

fn short(layout: &Layout, members: &Members<'_>) -> u64 {
    let holding = layout.nodes().values().filter(|entry| entry.role.share() > 0).count();
    let of_bucket = |(id, bucket): (&slipring_model::BucketId, &slipring_ring::BucketEntry)| {
        let wanted = usize::from(bucket.policy.replicas).min(holding);
        let partitions = (0..layout.partition_count()).map(PartitionId);
        let is_short = |partition: &PartitionId| {
            let replicas = layout.replicas(*id, *partition);
            replicas.iter().filter(|replica| members.counts(replica.node, replicas)).count() < wanted
        };
        partitions.filter(is_short).count() as u64
    };
    layout.buckets().iter().map(of_bucket).sum()
}

#[cfg(test)]
pub(crate) mod tests {
    use slipring_consensus::Ballot;
    use slipring_model::{ClusterId, StorageId, Versions};
    use slipring_ring::{Addresses, Command, NodeEntry, NodeState, Role};

    use super::*;
    use crate::status::GroupPlace;

    pub(crate) fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    pub(crate) fn entry(n: u8) -> NodeEntry {
        NodeEntry {
            storage: StorageId([n; 16]),
            incarnation: 1,
            boot: 1,
            raft_id: u64::from(n),
            addresses: Addresses::default(),
            role: Role { zone: "z".to_owned(), weight: 100, state: NodeState::Active },
            versions: Versions { oldest: 3, newest: 4 },
            signature: None,
        }
    }

    /// A cluster of so many nodes, every partition arrived.
    pub(crate) fn layout(nodes: u8) -> Layout {
        let mut layout = Layout::found(ClusterId::default(), 4, (node(1), entry(1)));
        for n in 2..=nodes {
            let joined = layout.apply(u64::from(n) * 2, &Command::AddNode { node: node(n), entry: entry(n) });
            joined.expect("it joins");
            let moves = layout.moves().map(|(id, _)| id).collect();
            layout.apply(u64::from(n) * 2 + 1, &Command::Arrived { moves }).expect("they arrive");
        }
        layout
    }

    fn own(layout: &Layout) -> Option<OwnStatus> {
        Some(OwnStatus {
            disk: slipring_model::Space::default(),
            memory: slipring_model::Space::default(),
            epoch: layout.epoch(),
            replicas: 0,
            primaries: 0,
            keys: 0,
            hints: 0,
            in_flight: 0,
            is_agreed: Some(true),
            out_of_step: Vec::new(),
            group: Some(GroupPlace { leader: Some(node(1)), term: 1, applied: Some(9) }),
        })
    }

    fn group(voters: impl IntoIterator<Item = NodeId>) -> GroupStatus {
        GroupStatus {
            is_alone: false,
            leader: Some(node(1)),
            is_leading: true,
            ballot: Ballot::default(),
            committed: None,
            applied: None,
            voters: voters.into_iter().collect(),
        }
    }

    fn judge_with(layout: &Layout, members: &[Option<OwnStatus>], group: Option<&GroupStatus>) -> Wholeness {
        let members = layout.nodes().keys().copied().zip(members).collect();
        Wholeness::of(layout, &members, group)
    }

    fn judge(layout: &Layout, members: &[Option<OwnStatus>]) -> Wholeness {
        judge_with(layout, members, Some(&group(layout.voters())))
    }

    #[test]
    fn a_cluster_is_whole_when_everybody_answers_and_is_in_step_however_small_it_is() {
        for nodes in 1..=4 {
            let layout = layout(nodes);
            let members = vec![own(&layout); usize::from(nodes)];
            let judged = judge(&layout, &members);
            assert_eq!(
                (judged.is_whole, judged.short, judged.reasons),
                (true, 0, Vec::new()),
                "{nodes} nodes"
            );
        }
    }

    #[test]
    fn a_node_that_does_not_answer_makes_its_partitions_short() {
        let layout = layout(3);
        let judged = judge(&layout, &[own(&layout), None, own(&layout)]);
        assert!(!judged.is_whole && judged.short >= 16, "{judged:?}");
        assert!(judged.reasons.iter().any(|reason| reason.contains("does not answer")), "{judged:?}");
    }

    #[test]
    fn each_single_thing_in_the_way_is_a_reason() {
        let layout = layout(3);
        let ways: [fn(&mut OwnStatus); 4] = [
            |own| own.is_agreed = Some(false),
            |own| own.out_of_step = vec![NodeId([3; 32])],
            |own| own.hints = 1,
            |own| own.epoch -= 1,
        ];
        for (index, spoil) in ways.iter().enumerate() {
            let mut members = vec![own(&layout); 3];
            spoil(members.first_mut().and_then(Option::as_mut).expect("the first"));
            let judged = judge(&layout, &members);
            assert!(!judged.is_whole, "way {index}");
            assert_eq!(judged.short > 0, index < 2, "way {index}: {judged:?}");
        }
    }

    #[test]
    fn the_layout_group_must_bear_the_loss_of_one_more_voter() {
        let told = |layout: &Layout, members: &[Option<OwnStatus>], group: Option<&GroupStatus>| {
            let judged = judge_with(layout, members, group);
            let reasons = judged.reasons.into_iter().filter(|reason| reason.contains("layout group"));
            reasons.collect::<Vec<_>>()
        };
        let unled = || own(&layout(5)).map(|own| OwnStatus { group: own.group.map(leaderless), ..own });
        let untold = || own(&layout(5)).map(|own| OwnStatus { group: None, ..own });
        let five = layout(5);
        let of_five = group(five.voters());
        for (spoiled, count, says) in [
            (None, 1, None),
            (None, 2, Some("3 of the 5 voters of the layout group answer: with one fewer")),
            (None, 3, Some("no majority: 2 of its 5 voters answer")),
            (unled(), 2, Some("3 of the 5 voters")),
            (untold(), 5, None),
        ] {
            let mut members = vec![own(&five); 5];
            members.iter_mut().take(count).for_each(|member| member.clone_from(&spoiled));
            let reasons = told(&five, &members, Some(&of_five));
            assert_eq!(reasons.len(), usize::from(says.is_some()), "{reasons:?}");
            assert!(
                says.is_none_or(|says| reasons.iter().any(|reason| reason.contains(says))),
                "{reasons:?}"
            );
        }
        let (three, members) = (layout(3), vec![own(&layout(3)); 3]);
        let removed = group([node(1), node(2), node(9)]);
        let reasons = told(&three, &members, Some(&removed));
        assert!(
            matches!(reasons.as_slice(), [few, late] if few.contains("2 of the 3") && late.contains("yet"))
        );
        assert_eq!(told(&three, &members, Some(&group([node(1)]))).len(), 2, "two more are to vote");
        let unled = GroupStatus { leader: None, ..group(three.voters()) };
        for unled in [None, Some(&unled)] {
            assert_eq!(told(&three, &members, unled), ["the layout group has no leader"]);
        }
    }

    fn leaderless(place: GroupPlace) -> GroupPlace {
        GroupPlace { leader: None, ..place }
    }

    #[test]
    fn what_is_on_its_way_has_not_arrived() {
        let mut layout = layout(3);
        layout.apply(99, &Command::AddNode { node: node(4), entry: entry(4) }).expect("it joins");
        let members = vec![own(&layout); 4];
        let judged = judge(&layout, &members);
        assert!(!judged.is_whole && judged.moving > 0, "{judged:?}");
    }
}
