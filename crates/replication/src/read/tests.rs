//! Reads meet digests, differences, failures and late answers.

use slipring_model::{Actor, Dot, Timestamp};
use slipring_service::Change;

use super::*;
use crate::quorums::{QuorumSet, Shortfall, Side};

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const C: NodeId = NodeId([3; 32]);

/// A cell written once by `assignment`.
fn cell(assignment: u64) -> (Bytes, u64) {
    let change = Change::Put { value: "v".into(), expires_at: None, seen: None };
    let dot = Dot { actor: Actor { assignment, incarnation: 1 }, counter: 1 };
    let cell = Cell::default().changed(&change, dot, Timestamp(assignment));
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    (Bytes::from(bytes), cell.digest())
}

fn merged(left: &Bytes, right: &Bytes) -> Bytes {
    let mut bytes = Vec::new();
    let cell = Cell::decode(left).expect("cell").merge(Cell::decode(right).expect("cell"));
    cell.encode(&mut bytes);
    Bytes::from(bytes)
}

fn of(members: &[NodeId], needed: u8) -> Quorums {
    Quorums::of(QuorumSet { members: members.iter().copied().collect(), needed })
}

fn answered(held: u8, needed: u8, members: u8) -> Shortfall {
    Shortfall { held, needed, members, side: Side::Only }
}

fn play(own: Option<(Bytes, u64)>, inputs: &[ReadInput]) -> Vec<ReadEffect> {
    let mut machine = ReadCoordinator::new(A, of(&[A, B, C], 2), own, [B, C]);
    let mut effects = Vec::new();
    machine.handle(ReadInput::Started, &mut effects);
    inputs.iter().for_each(|input| machine.handle(input.clone(), &mut effects));
    effects
}

#[test]
fn equal_digests_answer_at_once() {
    let (own, digest) = cell(1);
    let effects = play(Some((own.clone(), digest)), &[ReadInput::Digested { from: B, digest: Some(digest) }]);
    let settled = ReadEffect::Settle(ReadOutcome::Answered(Some(own)));
    assert_eq!(effects, [ReadEffect::Digest { to: B }, settled]);
}

#[test]
fn a_difference_is_fetched_merged_and_repaired_before_the_answer() {
    let (own, own_digest) = cell(1);
    let (theirs, their_digest) = cell(2);
    let both = merged(&own, &theirs);
    let before = [
        ReadInput::Digested { from: B, digest: Some(their_digest) },
        ReadInput::Fetched { from: B, cell: Some(theirs) },
    ];
    let expected = [
        ReadEffect::Digest { to: B },
        ReadEffect::Fetch { to: B },
        ReadEffect::RepairHere { cell: both.clone() },
        ReadEffect::Repair { to: B, cell: both.clone() },
    ];
    assert_eq!(play(Some((own.clone(), own_digest)), &before), expected);
    let after = [&before[..], &[ReadInput::Repaired { from: B }]].concat();
    let effects = play(Some((own, own_digest)), &after);
    assert_eq!(effects.last(), Some(&ReadEffect::Settle(ReadOutcome::Answered(Some(both)))));
}

#[test]
fn a_replica_that_lacks_the_key_is_repaired() {
    let (own, digest) = cell(1);
    let effects = play(Some((own.clone(), digest)), &[ReadInput::Digested { from: B, digest: None }]);
    assert_eq!(effects, [ReadEffect::Digest { to: B }, ReadEffect::Repair { to: B, cell: own }]);
}

#[test]
fn this_node_is_repaired_when_it_lacks_the_key() {
    let (theirs, digest) = cell(2);
    let effects = play(
        None,
        &[
            ReadInput::Digested { from: B, digest: Some(digest) },
            ReadInput::Fetched { from: B, cell: Some(theirs.clone()) },
        ],
    );
    let settled = ReadEffect::Settle(ReadOutcome::Answered(Some(theirs.clone())));
    assert_eq!(effects[2..], [ReadEffect::RepairHere { cell: theirs }, settled]);
}

#[test]
fn a_failure_is_made_up_for_by_the_next_replica() {
    let effects = play(
        None,
        &[
            ReadInput::Failed { from: B },
            ReadInput::Digested { from: B, digest: None },
            ReadInput::Digested { from: C, digest: None },
        ],
    );
    let settled = ReadEffect::Settle(ReadOutcome::Answered(None));
    assert_eq!(effects, [ReadEffect::Digest { to: B }, ReadEffect::Digest { to: C }, settled]);
}

#[test]
fn a_replica_lost_during_its_repair_does_not_count() {
    let (own, digest) = cell(1);
    let effects = play(
        Some((own, digest)),
        &[
            ReadInput::Digested { from: B, digest: None },
            ReadInput::Failed { from: B },
            ReadInput::Failed { from: C },
        ],
    );
    assert_eq!(
        effects.last(),
        Some(&ReadEffect::Settle(ReadOutcome::TooFew { answered: answered(1, 2, 3) }))
    );
}

#[test]
fn too_few_answers_are_said_so() {
    let lost = play(None, &[ReadInput::Failed { from: B }, ReadInput::Failed { from: C }]);
    assert_eq!(lost.last(), Some(&ReadEffect::Settle(ReadOutcome::TooFew { answered: answered(1, 2, 3) })));
    let late = play(None, &[ReadInput::Dawdled, ReadInput::DeadlinePassed]);
    let settled = ReadEffect::Settle(ReadOutcome::TooFew { answered: answered(1, 2, 3) });
    assert_eq!(late, [ReadEffect::Digest { to: B }, ReadEffect::Digest { to: C }, settled]);
}

#[test]
fn a_late_answer_is_made_up_for_by_as_few_as_can_be() {
    let [d, e] = [NodeId([4; 32]), NodeId([5; 32])];
    let mut machine = ReadCoordinator::new(A, of(&[A, B, C, d, e], 3), None, [B, C, d, e]);
    let mut effects = Vec::new();
    machine.handle(ReadInput::Started, &mut effects);
    machine.handle(ReadInput::Digested { from: B, digest: None }, &mut effects);
    machine.handle(ReadInput::Dawdled, &mut effects);
    assert_eq!(effects, [B, C, d].map(|to| ReadEffect::Digest { to }), "this node, B and D are three");
    machine.handle(ReadInput::DeadlinePassed, &mut effects);
    assert_eq!(
        effects.last(),
        Some(&ReadEffect::Settle(ReadOutcome::TooFew { answered: answered(2, 3, 5) }))
    );
}

#[test]
fn who_was_not_asked_cannot_fail_for_another() {
    assert_eq!(play(None, &[ReadInput::Failed { from: C }]), [ReadEffect::Digest { to: B }]);
}

#[test]
fn what_a_replica_is_known_to_hold_is_awaited() {
    let ((own, own_digest), (_, their_digest)) = (cell(1), cell(2));
    let effects = play(
        Some((own, own_digest)),
        &[
            ReadInput::Digested { from: B, digest: Some(their_digest) },
            ReadInput::Dawdled,
            ReadInput::Digested { from: C, digest: Some(own_digest) },
        ],
    );
    let asked = [ReadEffect::Digest { to: B }, ReadEffect::Fetch { to: B }, ReadEffect::Digest { to: C }];
    assert_eq!(effects, asked, "a quorum agrees, and B holds more");
}

#[test]
fn damaged_bytes_count_as_a_failure() {
    let effects = play(
        None,
        &[
            ReadInput::Digested { from: B, digest: Some(7) },
            ReadInput::Fetched { from: B, cell: Some(Bytes::from_static(b"\xff")) },
        ],
    );
    assert_eq!(
        effects,
        [ReadEffect::Digest { to: B }, ReadEffect::Fetch { to: B }, ReadEffect::Digest { to: C }]
    );
}

#[test]
fn a_late_answer_that_adds_something_goes_to_those_repaired_before_it_too() {
    const D: NodeId = NodeId([4; 32]);
    let ((own, own_digest), (first, first_digest), (late, late_digest)) = (cell(1), cell(2), cell(3));
    let (both, all) = (merged(&own, &first), merged(&merged(&own, &first), &late));
    let mut machine = ReadCoordinator::new(A, of(&[A, B, C, D], 3), Some((own, own_digest)), [B, C, D]);
    let mut effects = Vec::new();
    let mut after = |input| {
        effects.clear();
        machine.handle(input, &mut effects);
        effects.clone()
    };
    after(ReadInput::Started);
    after(ReadInput::Dawdled);
    after(ReadInput::Digested { from: B, digest: Some(first_digest) });
    after(ReadInput::Fetched { from: B, cell: Some(first) });
    let repairs = after(ReadInput::Digested { from: C, digest: None });
    assert!(repairs.contains(&ReadEffect::Repair { to: B, cell: both.clone() }));
    assert!(repairs.contains(&ReadEffect::Repair { to: C, cell: both }));
    after(ReadInput::Digested { from: D, digest: Some(late_digest) });
    let repairs = after(ReadInput::Fetched { from: D, cell: Some(late) });
    assert!(repairs.contains(&ReadEffect::Repair { to: D, cell: all.clone() }));
    assert_eq!(after(ReadInput::Repaired { from: D }), []);
    for from in [B, C] {
        assert_eq!(after(ReadInput::Repaired { from }), [ReadEffect::Repair { to: from, cell: all.clone() }]);
    }
    assert_eq!(after(ReadInput::Repaired { from: B }), []);
    let settled = after(ReadInput::Repaired { from: C });
    assert_eq!(settled, [ReadEffect::Settle(ReadOutcome::Answered(Some(all)))]);
}

#[test]
fn a_moving_partition_is_read_from_both_sets_by_as_few_as_can_be() {
    const E: NodeId = NodeId([5; 32]);
    let set = |members: &[NodeId]| QuorumSet { members: members.iter().copied().collect(), needed: 2 };
    let asked = |next: &[NodeId]| {
        let quorums = Quorums::joint(set(&[A, B, C]), set(next));
        let others = quorums.nodes().into_iter().filter(|node| *node != A).collect::<Vec<_>>();
        let mut machine = ReadCoordinator::new(A, quorums, None, others);
        let mut effects = Vec::new();
        machine.handle(ReadInput::Started, &mut effects);
        (machine, effects)
    };
    let digest = |to| ReadEffect::Digest { to };
    let e = NodeId([9; 32]);
    assert_eq!(asked(&[A, C, E]).1, [digest(C)], "C stands in both");
    let (mut machine, effects) = asked(&[E, e, NodeId([8; 32])]);
    assert_eq!(effects, [digest(B), digest(E), digest(e)]);
    let mut effects = Vec::new();
    machine.handle(ReadInput::Digested { from: B, digest: None }, &mut effects);
    machine.handle(ReadInput::Digested { from: E, digest: None }, &mut effects);
    assert_eq!(effects, [], "one of two next replicas is not enough");
    machine.handle(ReadInput::Digested { from: e, digest: None }, &mut effects);
    assert_eq!(effects, [ReadEffect::Settle(ReadOutcome::Answered(None))]);
}
