//! Objections to changes of nodes' roles and buckets' copies: what an operator must mean before it is done.
//!
//! A change is objected to when copies would be missing afterwards that are not missing now, when a node that
//! answers is to be counted as lost, and when so many replicas of a partition would be lost that writes which
//! they acknowledged may be gone. Copies that are not asked for any more are not missed; but those that would be left
//! must answer, and with other numbers reads must not begin to miss what was written.

use slipring_consensus::aside;
use slipring_model::{BucketPolicy, Error, ErrorKind, NodeId, PartitionId};
use slipring_ring::{Change, Changes, Holders, Layout, NodeChange, NodeState, Refused};

use crate::core::Core;

/// Whether changes are made in spite of an objection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Force {
    /// They are not.
    #[default]
    Off,
    /// They are, but a node that answers is given up only if it is among these.
    On {
        /// The nodes that the operator named by their whole ids, so that none is given up by mistake.
        named: Vec<NodeId>,
    },
}

impl Core {
    /// Why some changes are not made even by force: they would give up a node that answers, and the operator has not
    /// named it by its whole id.
    pub(crate) fn objection_to_force(&self, changes: &Changes, named: &[NodeId]) -> Option<String> {
        is_given_up_unnamed(&changes.nodes, named, |node| self.is_up(node))
    }

    /// Whether a node answers, as far as this one knows.
    fn is_up(&self, node: NodeId) -> bool {
        self.is_reachable(node) && !self.gossip.doubts(node)
    }

    /// Why some changes should not be made without the operator's word; nothing when they do no harm.
    ///
    /// # Errors
    /// `Conflict` when they cannot be made at all.
    pub(crate) fn objection(&self, layout: &Layout, changes: &Changes) -> Result<Option<String>, Error> {
        // With many partitions this takes long.
        aside(|| self.objection_now(layout, changes))
    }

    fn objection_now(&self, layout: &Layout, changes: &Changes) -> Result<Option<String>, Error> {
        let is_up = |node: NodeId| self.is_up(node);
        let refused = |error: Refused| Error::new(ErrorKind::Conflict, error.to_string());
        let next = layout.with(changes).map_err(refused)?;
        // What is asked for is not missing for having been asked for.
        let spread = Changes { nodes: Vec::new(), spreads: changes.spreads.clone() };
        let spread = layout.with(&spread).map_err(refused)?;
        Ok(answers_though_lost(&changes.nodes, is_up)
            .or_else(|| is_replaced_by_nobody(&changes.nodes, is_up))
            .or_else(|| is_replaced_from_elsewhere(layout, &changes.nodes))
            .or_else(|| loses_writes(layout, &next))
            .or_else(|| misses_copies(&spread, &next, is_up))
            .or_else(|| loses_quorums(layout, &next, is_up))
            .or_else(|| overlaps_no_more(layout, &next)))
    }
}

fn is_given_up_unnamed(
    changes: &[Change],
    named: &[NodeId],
    is_up: impl Fn(NodeId) -> bool,
) -> Option<String> {
    let given_up = changes.iter().filter_map(|change| match change.change {
        NodeChange::State(NodeState::Lost) => Some(change.node),
        NodeChange::Replaces(dead) => Some(dead),
        _ => None,
    });
    let node = given_up.into_iter().find(|node| is_up(*node) && !named.contains(node))?.short();
    Some(format!(
        "node {node} answers, and its data would be given up: name it by its whole id, which `slipring status --json` shows"
    ))
}

fn answers_though_lost(changes: &[Change], is_up: impl Fn(NodeId) -> bool) -> Option<String> {
    changes.iter().find_map(|change| match change.change {
        NodeChange::State(NodeState::Lost) if is_up(change.node) => Some(format!(
            "node {} answers, and its data would be given up: remove it without --lost",
            change.node.short()
        )),
        NodeChange::Replaces(dead) if is_up(dead) => Some(format!(
            "node {0} answers, and its data would be given up: restore node {1} and remove {0}, so that it hands over",
            dead.short(),
            change.node.short()
        )),
        _ => None,
    })
}

/// Whether what is rebuilt would have to wait for the very node that is to hold it.
fn is_replaced_by_nobody(changes: &[Change], is_up: impl Fn(NodeId) -> bool) -> Option<String> {
    let is_away = |change: &&Change| matches!(change.change, NodeChange::Replaces(_)) && !is_up(change.node);
    let node = changes.iter().find(is_away)?.node.short();
    Some(format!("node {node} does not answer, and is to hold what would be rebuilt: start it first"))
}

/// Whether copies would be counted in a zone in which they do not lie.
fn is_replaced_from_elsewhere(layout: &Layout, changes: &[Change]) -> Option<String> {
    let zone = |node: NodeId| layout.nodes().get(&node).map(|entry| &entry.role.zone);
    changes.iter().find_map(|change| match change.change {
        NodeChange::Replaces(dead) if zone(dead) != zone(change.node) => Some(format!(
            "node {} stands in zone {}, and its copies would count as lying in {}, the zone of node {}: choose a node that \
             stands there",
            change.node.short(),
            zone(change.node)?,
            zone(dead)?,
            dead.short()
        )),
        _ => None,
    })
}

/// Whether so many replicas of a partition are given up that acknowledged writes may have been theirs alone.
fn loses_writes(layout: &Layout, next: &Layout) -> Option<String> {
    let is_lost = |layout: &Layout, node: &NodeId| {
        layout.nodes().get(node).is_none_or(|entry| entry.role.state == NodeState::Lost)
    };
    let mut partitions = 0_u64;
    for (id, bucket) in layout.buckets() {
        for partition in (0..layout.partition_count()).map(PartitionId) {
            let replicas = layout.replicas(*id, partition);
            let lost = |of: &Layout| replicas.iter().filter(|replica| is_lost(of, &replica.node)).count();
            let is_worse = lost(next) > lost(layout);
            partitions += u64::from(is_worse && may_cost_writes(&bucket.policy, replicas.len(), lost(next)));
        }
    }
    (partitions > 0).then(|| format!("{partitions} partitions may lose writes that were acknowledged"))
}

/// Whether writes that were acknowledged may have been those of the lost replicas of a partition alone.
///
/// Who asks for one acknowledgement has said that one loss may cost writes, while a copy is left.
pub(crate) fn may_cost_writes(policy: &BucketPolicy, replicas: usize, lost: usize) -> bool {
    let quorum = policy.quorum(replicas as u8);
    lost >= usize::from(quorum.w.max(2)).min(replicas)
}

fn misses_copies(layout: &Layout, next: &Layout, is_up: impl Fn(NodeId) -> bool) -> Option<String> {
    let (before, after) = (layout.missing_copies(&is_up), next.missing_copies(&is_up));
    (after > before).then(|| {
        format!(
            "{after} copies of partitions would be missing, {before} are now: too few nodes that answer would be \
             left to hold what the buckets ask for, so start another one first"
        )
    })
}

/// Whether partitions of buckets that get another number of copies would lie where too few answer, and do not now.
fn loses_quorums(layout: &Layout, next: &Layout, is_up: impl Fn(NodeId) -> bool) -> Option<String> {
    let has_quorum = |holders: &Holders, policy: &BucketPolicy| {
        let quorum = policy.quorum(holders.target().len() as u8);
        let up = holders.target().iter().filter(|replica| is_up(replica.node)).count();
        up >= usize::from(quorum.r.max(quorum.w))
    };
    let mut partitions = 0_u64;
    for (id, before) in layout.buckets() {
        let after = next.buckets().get(id).filter(|after| after.policy.replicas != before.policy.replicas);
        let Some(after) = after else { continue };
        for partition in (0..layout.partition_count()).map(PartitionId) {
            let has_one = |layout: &Layout, policy| {
                layout.holders(*id, partition).is_some_and(|holders| has_quorum(holders, policy))
            };
            partitions += u64::from(has_one(layout, &before.policy) && !has_one(next, &after.policy));
        }
    }
    (partitions > 0).then(|| {
        format!(
            "{partitions} partitions would lie on nodes of which too few answer, and could neither be read nor \
             written: start those nodes first"
        )
    })
}

/// Whether a bucket's reads meet its writes now, and would not with the number of copies that it gets.
fn overlaps_no_more(layout: &Layout, next: &Layout) -> Option<String> {
    let overlaps = |policy: &BucketPolicy| {
        let quorum = policy.quorum(policy.replicas);
        quorum.r + quorum.w > quorum.n
    };
    let is_worse = |id, after: &BucketPolicy| {
        let before = layout.buckets().get(id);
        before.is_some_and(|before| overlaps(&before.policy) && !overlaps(after))
    };
    let (_, bucket) = next.buckets().iter().find(|(id, after)| is_worse(id, &after.policy))?;
    Some(format!(
        "the read_acks and write_acks of bucket \"{}\" are too few for {} copies: reads could miss writes that were \
         acknowledged",
        bucket.name, bucket.policy.replicas
    ))
}

#[cfg(test)]
mod tests {
    use slipring_model::BucketId;
    use slipring_ring::{Applied, Command, Spread};

    use super::*;
    use crate::wholeness::tests::{layout, node};

    fn changed(layout: &Layout, nodes: &[u8], state: NodeState) -> Layout {
        let change = |n: &u8| Change { node: node(*n), change: NodeChange::State(state) };
        layout.with(&nodes.iter().map(change).collect::<Vec<_>>().into()).expect("it is possible")
    }

    #[test]
    fn a_drain_is_objected_to_when_too_few_that_answer_would_be_left() {
        let drain = |nodes: u8, down: &[u8]| {
            let before = layout(nodes);
            let is_up = |id: NodeId| !down.iter().any(|n| node(*n) == id);
            misses_copies(&before, &changed(&before, &[1], NodeState::Drained), is_up).is_some()
        };
        assert!(!drain(4, &[]), "three are left for three copies");
        assert!(drain(3, &[]) && drain(2, &[]), "one copy fewer, whether or not there were enough");
        assert!(drain(4, &[4]), "of the three that are left one is down");
        assert!(!drain(3, &[1]), "the one that is down held nothing that counts");
    }

    fn respread(layout: &Layout, replicas: u8, drained: &[u8]) -> (Layout, Layout) {
        let drain = |n: &u8| Change { node: node(*n), change: NodeChange::State(NodeState::Drained) };
        let spreads = vec![Spread { bucket: BucketId(0), replicas }];
        let alone = Changes { nodes: Vec::new(), spreads: spreads.clone() };
        let all = Changes { nodes: drained.iter().map(drain).collect(), spreads };
        (layout.with(&alone).expect("possible"), layout.with(&all).expect("possible"))
    }

    #[test]
    fn another_number_of_copies_is_objected_to_for_the_nodes_alone() {
        let before = layout(4);
        let misses = |replicas, drained: &[u8]| {
            let (alone, all) = respread(&before, replicas, drained);
            misses_copies(&alone, &all, |_| true).is_some()
        };
        assert!(!misses(2, &[]) && !misses(7, &[]), "what is asked for is meant");
        assert!(!misses(2, &[1, 2]), "two are left for two");
        assert!(misses(5, &[1]), "three are left for five, and there were four");
    }

    #[test]
    fn fewer_copies_are_objected_to_when_those_that_would_be_left_do_not_answer() {
        let before = layout(3);
        let is_objected = |replicas, down: &[u8]| {
            let is_up = |id: NodeId| !down.iter().any(|n| node(*n) == id);
            loses_quorums(&before, &respread(&before, replicas, &[]).1, is_up).is_some()
        };
        assert!(!is_objected(1, &[]) && !is_objected(2, &[]));
        assert!(is_objected(1, &[1]), "some partition would lie there alone");
        assert!(is_objected(2, &[1]), "two of two are needed");
        assert!(!is_objected(1, &[1, 2]), "there is no quorum now");
        assert!(!is_objected(3, &[1]), "nothing changes");
    }

    #[test]
    fn more_copies_are_objected_to_when_reads_would_miss_writes() {
        let mut before = layout(3);
        let policy = BucketPolicy { read_acks: Some(2), write_acks: Some(2), ..BucketPolicy::durable() };
        let create = Command::CreateBucket { name: "two".parse().expect("a name"), policy };
        let Ok(Applied::Bucket(bucket)) = before.apply(90, &create) else { panic!("a bucket") };
        let objection = |bucket, replicas| {
            let spreads = vec![Spread { bucket, replicas }];
            let next = before.with(&Changes { nodes: Vec::new(), spreads }).expect("possible");
            overlaps_no_more(&before, &next)
        };
        assert_eq!(objection(bucket, 2), None);
        assert!(objection(bucket, 4).is_some_and(|why| why.contains("\"two\"")));
        assert_eq!(objection(BucketId(0), 5), None, "majorities always meet");
        assert_eq!(objection(BucketId(1), 5), None, "the cache has never promised it");
    }

    #[test]
    fn giving_up_is_objected_to_when_only_the_lost_may_have_acknowledged_a_write() {
        let give_up = |nodes: u8, lost: &[u8]| {
            let before = layout(nodes);
            loses_writes(&before, &changed(&before, lost, NodeState::Lost)).is_some()
        };
        assert!(!give_up(3, &[1]) && !give_up(2, &[1]), "every write is on another one, too");
        assert!(give_up(3, &[1, 2]), "two of three were a quorum");
        let before = changed(&layout(3), &[1], NodeState::Lost);
        assert!(
            loses_writes(&before, &changed(&before, &[2], NodeState::Lost)).is_some(),
            "one after the other"
        );
    }

    #[test]
    fn a_node_that_answers_is_not_given_up_by_accident() {
        let change = Change { node: node(1), change: NodeChange::State(NodeState::Lost) };
        assert!(answers_though_lost(std::slice::from_ref(&change), |_| true).is_some());
        assert!(answers_though_lost(&[change], |_| false).is_none());
    }

    #[test]
    fn living_nodes_are_given_up_by_force_only_under_their_whole_ids() {
        let lost = Change { node: node(1), change: NodeChange::State(NodeState::Lost) };
        let replaced = Change { node: node(2), change: NodeChange::Replaces(node(1)) };
        for change in [lost, replaced] {
            let judged = |named: &[NodeId], is_up: bool| {
                is_given_up_unnamed(std::slice::from_ref(&change), named, |_| is_up)
            };
            assert!(judged(&[], true).is_some_and(|why| why.contains("whole id")));
            assert!(judged(&[node(2)], true).is_some(), "another one is named");
            assert_eq!((judged(&[node(1)], true), judged(&[], false)), (None, None));
        }
        let leaves = Change { node: node(1), change: NodeChange::State(NodeState::Leaving) };
        assert_eq!(is_given_up_unnamed(&[leaves], &[], |_| true), None);
    }

    #[test]
    fn only_a_node_that_is_gone_is_replaced_and_only_by_one_that_is_there() {
        let change = [Change { node: node(2), change: NodeChange::Replaces(node(1)) }];
        let told = answers_though_lost(&change, |_| true).expect("it answers");
        assert!(told.contains(&format!("remove {}", node(1).short())), "{told}");
        assert!(answers_though_lost(&change, |id| id == node(2)).is_none());
        assert!(is_replaced_by_nobody(&change, |id| id == node(2)).is_none());
        assert!(is_replaced_by_nobody(&change, |_| false).is_some());
    }

    #[test]
    fn copies_are_not_counted_in_a_zone_in_which_they_do_not_lie() {
        let replace = [Change { node: node(2), change: NodeChange::Replaces(node(1)) }];
        let before = layout(3);
        assert_eq!(is_replaced_from_elsewhere(&before, &replace), None);
        let moved = vec![Change { node: node(2), change: NodeChange::Zone("b".to_owned()) }];
        let apart = before.with(&moved.into()).expect("possible");
        let told = is_replaced_from_elsewhere(&apart, &replace).expect("it stands elsewhere");
        assert!(told.contains("stands in zone b"), "{told}");
    }
}
