//! What a view tells of the layout, and the layouts that the tests of moves look at.

use slipring_model::{BucketPolicy, ClusterId, StorageId, Versions};
use slipring_ring::{
    Addresses, Change, Changes, Command, MoveId, NodeChange, NodeEntry, NodeState, Role, Spread,
};
use slipring_storage::MemoryEngine;

use super::*;

pub(crate) fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn entry(byte: u8) -> NodeEntry {
    NodeEntry {
        storage: StorageId([byte; 16]),
        incarnation: 1,
        boot: 1,
        raft_id: u64::from(byte),
        addresses: Addresses::default(),
        versions: Versions { oldest: 3, newest: 4 },
        role: Role { zone: String::new(), weight: 100, state: NodeState::Active },
        signature: None,
    }
}

/// Two partitions on the nodes 1 to `count`; nothing moves.
pub(crate) fn settled(count: u8) -> Layout {
    let mut layout = Layout::found(ClusterId([1; 16]), 1, (node(1), entry(1)));
    for byte in 2..=count {
        join(&mut layout, byte);
        arrive(&mut layout);
    }
    layout
}

pub(crate) fn join(layout: &mut Layout, byte: u8) {
    let command = Command::AddNode { node: node(byte), entry: entry(byte) };
    layout.apply(u64::from(byte) * 10, &command).expect("it joins");
}

pub(crate) fn arrive(layout: &mut Layout) {
    let moves: Vec<MoveId> = layout.moves().map(|(id, _)| id).collect();
    layout.apply(1_000, &Command::Arrived { moves }).expect("they arrive");
}

pub(crate) fn give_state(layout: &mut Layout, byte: u8, state: NodeState) {
    let changes = vec![Change { node: node(byte), change: NodeChange::State(state) }];
    layout.apply(500, &Command::Change { changes, expected_epoch: None }).expect("it can be so");
}

pub(crate) fn split(layout: &mut Layout) {
    let command = Command::Split { bits: layout.bits() + 1, expected_epoch: None };
    layout.apply(2_000, &command).expect("split");
}

pub(crate) fn create_bucket(layout: &mut Layout, name: &str) {
    let name = name.parse().expect("a name");
    layout.apply(600, &Command::CreateBucket { name, policy: BucketPolicy::durable() }).expect("made");
}

/// The first bucket gets another number of copies, at this index of the log.
pub(crate) fn respread(layout: &mut Layout, index: u64, replicas: u8) {
    let spreads = vec![Spread { bucket: BucketId(0), replicas }];
    let changes = Changes { nodes: Vec::new(), spreads };
    layout.apply(index, &changes.command(None)).expect("it can be so");
}

pub(crate) fn view_of(layout: &Layout, me: u8) -> View {
    let engine = Arc::new(MemoryEngine::new());
    View::new(Arc::new(layout.clone()), node(me), |id| {
        let entry = layout.buckets().get(&id).expect("the id comes from this layout");
        let (name, policy) = (entry.name.clone(), entry.policy.clone());
        Arc::new(Bucket::open(id, name, policy, engine.clone(), layout.bits()).expect("it is empty"))
    })
}

/// A place of the nodes `replicas` on its way to the nodes `next`, from epoch 5 on.
pub(crate) fn place(replicas: &[u8], next: Option<&[u8]>) -> Place {
    let nodes = |bytes: &[u8]| bytes.iter().map(|byte| node(*byte)).collect();
    let quorum = |bytes: &[u8]| Quorum { n: bytes.len() as u8, r: 1, w: bytes.len() as u8 };
    Place {
        replicas: nodes(replicas),
        mine: Some(9),
        quorum: quorum(replicas),
        next: next.map(|next| Box::new(NextPlace { replicas: nodes(next), quorum: quorum(next) })),
        since: 5,
    }
}

#[test]
fn each_key_is_found_where_the_layout_says() {
    let mut layout = settled(4);
    create_bucket(&mut layout, "two");
    create_bucket(&mut layout, "three");
    layout.apply(700, &Command::DeleteBucket { name: "two".parse().expect("a name") }).expect("it goes");
    let view = view_of(&layout, 1);
    assert_eq!(view.epoch(), layout.epoch());
    assert_eq!(view.buckets().map(|found| found.bucket.id.0).collect::<Vec<_>>(), [0, 1, 3]);
    assert!(view.bucket(BucketId(2)).is_none() && view.place(BucketId(4), Position(0)).is_none());
    for (bucket, position) in [(0, Position(0)), (1, Position(u64::MAX)), (3, Position(u64::MAX))] {
        let (found, place) = view.place(BucketId(bucket), position).expect("it is there");
        let holders = layout.holders(BucketId(bucket), position.partition(1)).expect("it is held");
        assert_eq!((found.bucket.id, place.since), (BucketId(bucket), holders.since));
        assert!(place.replicas.iter().eq(holders.replicas.iter().map(|replica| &replica.node)));
        assert_eq!(place.mine, holders.of(node(1)).map(|replica| replica.assignment));
    }
}

#[test]
fn a_moving_partition_needs_a_quorum_of_each_set_whatever_the_request_wishes() {
    let place = place(&[1, 2, 3], Some(&[3, 4]));
    let joint = |old, next| {
        let set =
            |bytes: &[u8], needed| QuorumSet { members: bytes.iter().map(|b| node(*b)).collect(), needed };
        Quorums::joint(set(&[1, 2, 3], old), set(&[3, 4], next))
    };
    assert_eq!((place.read_quorums(None), place.write_quorums(None)), (joint(1, 1), joint(3, 2)));
    for (wish, old, next) in [(0, 1, 1), (1, 1, 1), (2, 2, 2), (3, 3, 3), (9, 9, 9)] {
        assert_eq!(place.read_quorums(Some(wish)), joint(old, next));
        assert_eq!(place.write_quorums(Some(wish)), joint(old, next));
    }
    assert!(!place.write_quorums(Some(3)).is_met(|_| true), "two members never acknowledge three times");
}

#[test]
fn members_are_named_once_and_only_the_old_ones_hold_everything() {
    let place = place(&[1, 2, 3], Some(&[3, 4]));
    assert_eq!(place.members().collect::<Vec<_>>(), [1, 2, 3, 4].map(node));
    assert_eq!(place.others(node(2)).collect::<Vec<_>>(), [1, 3, 4].map(node));
    assert_eq!([1, 3, 4].map(|byte| place.is_held_by(node(byte))), [true, true, false]);
}

#[test]
fn only_the_one_replica_of_a_partition_that_stays_is_alone() {
    assert_eq!(place(&[1], None).alone(), Some(9));
    assert_eq!(place(&[1], Some(&[1, 2])).alone(), None);
    assert_eq!(place(&[1, 2], None).alone(), None);
}

#[test]
fn what_was_read_counts_while_the_copy_is_the_same() {
    let mut place = place(&[1, 2, 3], None);
    assert_eq!([4, 5, 6].map(|epoch| place.still_counts(epoch)), [false, true, true]);
    place.mine = None;
    assert!(!place.still_counts(6), "nothing is held here any more");
}

#[test]
fn a_view_knows_how_its_ring_is_cut_and_what_its_founders_cut_it_into() {
    let mut layout = settled(2);
    let cuts = |layout: &Layout| [None, Some(1), Some(2)].map(|bits| view_of(layout, 1).is_cut_into(bits));
    assert_eq!(cuts(&layout), [true, true, false]);
    split(&mut layout);
    assert_eq!(cuts(&layout), [false, false, true], "who names no bits means those of the founding");
}

#[test]
fn what_a_view_refuses_while_it_ends_goes_on_under_the_next_one() {
    let view = view_of(&settled(2), 1);
    assert_eq!(view.epoch_to_wait_for(), view.epoch());
    view.end();
    assert_eq!(view.epoch_to_wait_for(), view.epoch() + 1);
}
