//! Buckets whose number of copies changes.

use std::collections::BTreeSet;

use slipring_model::{BucketPolicy, PartitionId, Versions};

use super::*;
use crate::layout::tests::{arrive, change, entry, founded, node, of_four};
use crate::layout::{
    Applied, Change, Changes, Command, Holders, MoveId, NodeChange, NodeEntry, NodeState, Replica,
};

const DEFAULT: BucketId = BucketId(0);
const CACHE: BucketId = BucketId(1);

/// So many nodes that all speak the newest version, everything arrived.
fn of(nodes: u8) -> Layout {
    let mut layout = founded();
    layout.nodes.values_mut().for_each(|entry| entry.versions = Versions { oldest: 3, newest: 4 });
    for byte in 2..=nodes {
        let versions = Versions { oldest: 3, newest: 4 };
        let command =
            Command::AddNode { node: node(byte), entry: NodeEntry { versions, ..entry(byte, "a") } };
        layout.apply(u64::from(byte) * 10, &command).expect("it joins");
        arrive(&mut layout, u64::from(byte) * 10 + 1);
    }
    layout
}

fn spread(bucket: BucketId, replicas: u8) -> Spread {
    Spread { bucket, replicas }
}

fn reshape(spreads: &[Spread]) -> Command {
    Changes { nodes: Vec::new(), spreads: spreads.to_vec() }.command(None)
}

fn all(layout: &Layout, bucket: BucketId) -> Vec<Holders> {
    let partitions = (0..layout.partition_count()).map(PartitionId);
    partitions.map(|partition| layout.holders(bucket, partition).expect("it is held").clone()).collect()
}

fn set(replicas: &[Replica]) -> BTreeSet<Replica> {
    replicas.iter().copied().collect()
}

/// Another bucket with three copies.
fn with_another(layout: &mut Layout) -> BucketId {
    let command =
        Command::CreateBucket { name: "other".parse().expect("a name"), policy: BucketPolicy::durable() };
    match layout.apply(90, &command) {
        Ok(Applied::Bucket(bucket)) => bucket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_copies_are_added_to_those_that_are_and_other_buckets_stay() {
    let mut layout = of(5);
    let other = with_another(&mut layout);
    let (before, others) = (all(&layout, DEFAULT), all(&layout, other));
    layout.apply(100, &reshape(&[spread(DEFAULT, 5)])).expect("more");
    assert_eq!(layout.table_of(DEFAULT), Some(TableId::own(DEFAULT)));
    assert_eq!(all(&layout, other), others);
    for (before, now) in before.iter().zip(all(&layout, DEFAULT)) {
        assert_eq!(now.replicas, before.replicas, "nothing is given up before it has moved");
        let next = now.next.as_ref().expect("it moves");
        assert!(set(&next.replicas).is_superset(&set(&before.replicas)) && next.replicas.len() == 5);
        assert_eq!((next.session, now.since), (100, layout.epoch()));
        let fresh = next.replicas.iter().filter(|replica| !before.replicas.contains(replica));
        assert!(fresh.clone().all(|replica| replica.assignment >> 3 == 100) && fresh.count() == 2);
    }
    assert_eq!(arrive(&mut layout, 101), 256);
    assert!(!layout.is_moving() && layout.under_replicated() == 0);
}

#[test]
fn fewer_copies_are_some_of_those_that_were_and_nothing_is_copied() {
    for fewer in [2, 1] {
        let mut layout = of(5);
        let before = all(&layout, DEFAULT);
        layout.apply(100, &reshape(&[spread(DEFAULT, fewer)])).expect("fewer");
        for (before, now) in before.iter().zip(all(&layout, DEFAULT)) {
            assert!(set(now.target()).is_subset(&set(&before.replicas)), "{now:?} after {before:?}");
            assert_eq!((now.target().len(), &now.replicas), (usize::from(fewer), &before.replicas));
        }
        arrive(&mut layout, 101);
        let loads: Vec<usize> = (1..=5)
            .map(|byte| all(&layout, DEFAULT).iter().filter(|held| held.of(node(byte)).is_some()).count())
            .collect();
        let spare = loads.iter().max().zip(loads.iter().min()).map(|(most, least)| most - least);
        assert!(spare <= Some(1), "{loads:?}");
    }
}

#[test]
fn a_number_that_turns_back_while_it_moves_costs_no_copy() {
    let mut layout = of(5);
    let before = all(&layout, DEFAULT);
    layout.apply(100, &reshape(&[spread(DEFAULT, 5)])).expect("more");
    layout.apply(101, &reshape(&[spread(DEFAULT, 3)])).expect("three again");
    assert!(!layout.is_moving(), "what holds everything is kept");
    let is_same = |(before, now): (&Holders, &Holders)| set(&before.replicas) == set(&now.replicas);
    assert!(before.iter().zip(&all(&layout, DEFAULT)).all(is_same));
    // The copies that were on their way are no part of the next ones.
    layout.apply(102, &reshape(&[spread(DEFAULT, 4)])).expect("four");
    let placed = all(&layout, DEFAULT).into_iter().flat_map(|holders| holders.target().to_vec());
    assert!(placed.map(|replica| replica.assignment >> 3).all(|index| ![100, 101].contains(&index)));
}

#[test]
fn the_same_number_is_no_change_and_a_bucket_of_its_own_keeps_its_table() {
    let mut layout = of(4);
    layout.apply(99, &reshape(&[spread(DEFAULT, 3)])).expect("as it is");
    assert!(layout.can_be_read_by(Versions::UNTOLD).is_err(), "the command is in the log");
    let same = layout.clone();
    layout.apply(100, &reshape(&[spread(DEFAULT, 3), spread(CACHE, 2)])).expect("as it is");
    assert_eq!(layout, same);
    layout.apply(101, &reshape(&[spread(DEFAULT, 4)])).expect("more");
    arrive(&mut layout, 102);
    layout.apply(103, &reshape(&[spread(DEFAULT, 3)])).expect("three again");
    arrive(&mut layout, 104);
    // Three copies as a new bucket has, and not where those lie.
    let other = with_another(&mut layout);
    let tables = [DEFAULT, CACHE, other].map(|bucket| layout.table_of(bucket));
    let wanted = [TableId::own(DEFAULT), TableId::shared(2), TableId::shared(3)];
    assert_eq!(tables, wanted.map(Some));
    let numbered = |bucket| all(&layout, bucket).iter().all(|held| held.replicas.len() == 3);
    assert!(numbered(DEFAULT) && numbered(other));
}

#[test]
fn a_table_goes_with_the_last_bucket_that_uses_it() {
    let mut layout = of(4);
    let other = with_another(&mut layout);
    layout.apply(100, &reshape(&[spread(other, 1), spread(DEFAULT, 2)])).expect("fewer");
    let used = |layout: &Layout| layout.tables.keys().copied().collect::<Vec<_>>();
    assert_eq!(used(&layout), [TableId::shared(2), TableId::own(DEFAULT), TableId::own(other)]);
    layout.apply(101, &Command::DeleteBucket { name: "other".parse().expect("a name") }).expect("it goes");
    assert_eq!(used(&layout), [TableId::shared(2), TableId::own(DEFAULT)]);
    assert!(layout.is_moving() && !layout.copies_before.contains_key(&other));
    layout.apply(102, &Command::Revert).expect("reverted");
    assert_eq!(layout.buckets.get(&DEFAULT).map(|entry| entry.policy.replicas), Some(3));
}

#[test]
fn a_moving_partition_goes_on_under_its_session_when_its_bucket_goes_to_a_table_of_its_own() {
    let mut layout = of(4);
    layout.apply(90, &change(1, NodeChange::State(NodeState::Drained))).expect("drained");
    let moving: Vec<MoveId> = layout.moves().map(|(id, _)| id).collect();
    assert!(!moving.is_empty());
    // More than there are nodes for: who is to hold it stays the same.
    layout.apply(91, &reshape(&[spread(DEFAULT, 5)])).expect("more");
    let ids: BTreeSet<MoveId> = layout.moves().map(|(id, _)| id).collect();
    let own = |id: &MoveId| match id.table == TableId(3) {
        true => MoveId { table: TableId::own(DEFAULT), ..*id },
        false => *id,
    };
    assert_eq!(ids, moving.iter().map(own).collect());
    let stale: Vec<MoveId> = moving.iter().filter(|id| id.table == TableId(3)).copied().collect();
    let before = layout.clone();
    layout.apply(92, &Command::Arrived { moves: stale }).expect("passed over");
    assert_eq!(layout, before, "nobody has told that the moves of the new table are over");
}

#[test]
fn what_was_changed_together_is_taken_back_together() {
    let before = of(5);
    let mut layout = before.clone();
    let drain = Change { node: node(2), change: NodeChange::State(NodeState::Drained) };
    let changes = Changes { nodes: vec![drain], spreads: vec![spread(DEFAULT, 2), spread(CACHE, 3)] };
    let plan = layout.plan(&changes).expect("possible");
    let copies: BTreeSet<(TableId, u8)> =
        plan.moves.iter().map(|moved| (moved.table, moved.copies)).collect();
    assert_eq!(copies, BTreeSet::from([(TableId::own(DEFAULT), 2), (TableId::own(CACHE), 3)]));
    assert_eq!(plan.load_after.get(&node(2)).map(|load| load.replicas), Some(0));
    layout.apply(100, &changes.command(Some(plan.epoch))).expect("changed");
    layout.apply(101, &reshape(&[spread(DEFAULT, 4)])).expect("changed again");
    let half: Vec<MoveId> = layout.moves().map(|(id, _)| id).step_by(2).collect();
    layout.apply(102, &Command::Arrived { moves: half }).expect("half has arrived");
    layout.apply(103, &Command::Revert).expect("reverted");
    let copies =
        |layout: &Layout| layout.buckets.values().map(|entry| entry.policy.replicas).collect::<Vec<_>>();
    assert_eq!((copies(&layout), layout.nodes()), (copies(&before), before.nodes()));
    assert!(layout.is_moving(), "what had arrived goes back");
    arrive(&mut layout, 104);
    assert!(layout.under_replicated() == 0 && layout.copies_before.is_empty());
    // Once nothing moves there is nothing to take back.
    layout.apply(105, &reshape(&[spread(DEFAULT, 1)])).expect("one");
    arrive(&mut layout, 106);
    layout.apply(107, &Command::Revert).expect("nothing to take back");
    assert_eq!(copies(&layout), [1, 2]);
}

#[test]
fn impossible_numbers_are_refused_with_a_reason() {
    let mut layout = of(3);
    let name = "strict".parse().expect("a name");
    let policy = BucketPolicy { read_acks: Some(3), ..BucketPolicy::durable() };
    let strict = match layout.apply(90, &Command::CreateBucket { name, policy }) {
        Ok(Applied::Bucket(bucket)) => bucket,
        other => panic!("{other:?}"),
    };
    layout.apply(99, &reshape(&[spread(strict, 3)])).expect("as it is");
    let before = layout.clone();
    let mut refused = |spreads: &[Spread]| {
        let refused = layout.apply(100, &reshape(spreads)).expect_err("impossible").to_string();
        assert_eq!(layout, before, "a refusal changes nothing");
        refused
    };
    for replicas in [0, 8] {
        assert!(refused(&[spread(DEFAULT, replicas)]).contains("replicas must lie in 1..=7"));
    }
    assert!(refused(&[spread(strict, 2)]).contains("\"strict\": read_acks"), "no answer could have three");
    assert!(refused(&[spread(DEFAULT, 4), spread(strict, 2)]).contains("read_acks"), "all or nothing");
    assert!(refused(&[spread(BucketId(9), 2)]).contains("no bucket 9"));
    assert!(refused(&[spread(DEFAULT, 2), spread(DEFAULT, 4)]).contains("twice"));
}

#[test]
fn a_member_that_could_not_read_it_stands_against_it() {
    let mut layout = of_four();
    let refused = layout.apply(100, &reshape(&[spread(DEFAULT, 2)]));
    assert_eq!(refused, Err(Refused::Level { needed: 4, level: Versions::UNTOLD.newest }));
    let mut layout = of(3);
    layout.apply(100, &reshape(&[spread(DEFAULT, 2)])).expect("all can read it");
    let older = Command::AddNode { node: node(9), entry: entry(9, "a") };
    assert!(matches!(layout.apply(101, &older), Err(Refused::TooOld { floor: 4, .. })));
}

#[test]
fn documents_and_moves_are_written_as_before_while_no_number_has_changed() {
    let id = MoveId { table: TableId::shared(3), partition: 7, session: 40 };
    let json = r#"{"copies":3,"partition":7,"session":40}"#;
    assert_eq!(serde_json::to_string(&id).expect("plain data"), json);
    let mut layout = of(3);
    let document = serde_json::to_value(&layout).expect("plain data");
    assert!(document.get("copies_before").is_none() && document["buckets"]["0"].get("made_with").is_none());
    assert!(document["tables"].get("3").is_some() && document["tables"].get("2").is_some());
    layout.apply(100, &reshape(&[spread(DEFAULT, 2)])).expect("fewer");
    let text = serde_json::to_string(&layout).expect("plain data");
    assert_eq!(serde_json::from_str::<Layout>(&text).expect("its own text"), layout);
}

#[test]
fn the_same_nodes_ask_for_the_same_quorums_whatever_the_number_of_copies() {
    for (read_acks, write_acks) in [(None, None), (Some(1), Some(1)), (Some(3), Some(2)), (Some(2), None)] {
        for copies in 1..=limits::REPLICAS_MAX {
            let of = |replicas| BucketPolicy { replicas, read_acks, write_acks, ..BucketPolicy::durable() };
            for nodes in 1..=limits::REPLICAS_MAX {
                assert_eq!(of(copies).quorum(nodes), of(1).quorum(nodes), "old and new would not overlap");
            }
        }
    }
}

#[test]
fn a_lost_node_is_replaced_while_its_bucket_gets_fewer_copies() {
    let mut layout = of(4);
    let lost = Change { node: node(1), change: NodeChange::State(NodeState::Lost) };
    let changes = Changes { nodes: vec![lost], spreads: vec![spread(DEFAULT, 2)] };
    layout.apply(100, &changes.command(None)).expect("possible");
    let is_gone = |held: &Holders| held.target().iter().all(|replica| replica.node != node(1));
    assert!(all(&layout, DEFAULT).iter().all(is_gone) && layout.holds_any(node(1)));
    arrive(&mut layout, 101);
    assert!(!layout.nodes().contains_key(&node(1)) && !layout.is_moving());
}
