//! What a replacement moves, and what it is refused for.

use slipring_model::{BucketId, ClusterId, PartitionId, Versions};

use super::super::tests::{arrive, entry, node};
use super::super::{Applied, Change, Changes, Command, NodeChange, NodeEntry, NodeLoad, Spread};
use super::*;

/// The node that joins as a spare, unlike any other in zone and weight.
const SPARE: u8 = 100;

/// So many nodes in so many zones, of different weights if asked for, and a spare; nothing moves.
fn with_spare(nodes: u8, zones: u8, is_uneven: bool) -> Layout {
    let weight = |byte: u8| if is_uneven { 60 + 35 * u32::from(byte % 4) } else { 100 };
    let member = |byte: u8| {
        let role =
            Role { zone: format!("z{}", byte % zones), weight: weight(byte), state: NodeState::Active };
        NodeEntry { role, versions: Versions { oldest: 3, newest: 4 }, ..entry(byte, "") }
    };
    let mut layout = Layout::found(ClusterId([1; 16]), 6, (node(1), NodeEntry { raft_id: 1, ..member(1) }));
    let mut add = |byte: u8, entry: NodeEntry| {
        let index = 10 * u64::from(byte);
        layout.apply(index, &Command::AddNode { node: node(byte), entry }).expect("it joins");
        arrive(&mut layout, index + 1)
    };
    for byte in 2..=nodes {
        add(byte, member(byte));
    }
    let spare = Role { zone: "spare".to_owned(), weight: 1, state: NodeState::Drained };
    assert_eq!(add(SPARE, NodeEntry { role: spare, ..member(SPARE) }), 0, "a spare moves nothing");
    assert!(!layout.holds_any(node(SPARE)));
    layout
}

fn replacing(dead: u8, by: u8) -> Change {
    Change { node: node(by), change: NodeChange::Replaces(node(dead)) }
}

fn replace(dead: u8, by: u8) -> Command {
    Changes::from(vec![replacing(dead, by)]).command(None)
}

fn refusal(layout: &Layout, changes: Vec<Change>) -> String {
    layout.plan(&changes.into()).expect_err("refused").to_string()
}

/// Each partition of each table, the dead one's name read as the spare's.
fn renamed(layout: &Layout, dead: u8) -> Vec<Vec<NodeId>> {
    let name = |id: NodeId| if id == node(dead) { node(SPARE) } else { id };
    let rows = layout.tables.values().flatten();
    rows.map(|holders| holders.target().iter().map(|replica| name(replica.node)).collect()).collect()
}

/// Replaces one node by the spare; the spare then holds exactly what that held, and all others what they did.
fn check(before: &Layout, dead: u8) {
    let held = before.load().remove(&node(dead)).expect("a member");
    let plan = before.plan(&vec![replacing(dead, SPARE)].into()).expect("it is possible");
    assert_eq!(plan.moves.len() as u32, held.replicas, "one partition moves for each copy");
    let mut after = before.clone();
    let applied = after.apply(900, &replace(dead, SPARE));
    assert_eq!(applied, Ok(Applied::Changed { epoch: before.epoch() + 1 }), "by one change");
    let is_same = renamed(&after, dead) == renamed(before, dead);
    assert!(
        is_same,
        "nothing else moves, or changes places, when {dead} of {} is replaced",
        before.nodes().len()
    );
    assert_eq!(after.moves().count() as u32, held.replicas);
    assert_eq!(after.load().get(&node(SPARE)), Some(&held));
    let (was, is) = (before.nodes(), after.nodes());
    let share = |of: &BTreeMap<NodeId, NodeEntry>, byte| {
        of.get(&node(byte)).map(|entry| (entry.role.zone.clone(), entry.role.weight, entry.role.state))
    };
    assert_eq!(share(is, SPARE), share(was, dead), "zone, weight and state are those of the dead one");
    arrive(&mut after, 901);
    assert!(!after.nodes().contains_key(&node(dead)) && !after.is_moving());
}

#[test]
fn exactly_what_the_dead_one_held_moves_and_all_of_it_to_the_one_that_replaces_it() {
    for nodes in 4..=20 {
        let layout = with_spare(nodes, 1, false);
        [1, nodes / 2, nodes].into_iter().for_each(|dead| check(&layout, dead));
    }
}

#[test]
fn the_same_is_so_with_zones_and_with_other_weights() {
    for nodes in (5..=20).step_by(3) {
        for (zones, is_uneven) in [(3, false), (1, true), (3, true), (4, true)] {
            let layout = with_spare(nodes, zones, is_uneven);
            [1, 4, nodes].into_iter().for_each(|dead| check(&layout, dead));
        }
    }
}

#[test]
fn what_is_on_its_way_to_the_dead_one_goes_to_the_one_that_replaces_it() {
    let mut layout = with_spare(6, 1, false);
    let late = NodeEntry { versions: Versions { oldest: 3, newest: 4 }, ..entry(50, "z0") };
    layout.apply(800, &Command::AddNode { node: node(50), entry: late }).expect("it joins");
    let (aimed, moving) = (renamed(&layout, 50), layout.moves().count());
    assert!(moving > 0);
    layout.apply(801, &replace(50, SPARE)).expect("replaced");
    assert_eq!((renamed(&layout, 50), layout.moves().count()), (aimed, moving));
    assert!(!layout.nodes().contains_key(&node(50)), "it held nothing yet, so it is gone at once");
}

#[test]
fn two_are_replaced_in_one_change_each_by_its_own() {
    let mut layout = with_spare(7, 1, false);
    let second = Role { zone: "far".to_owned(), weight: 7, state: NodeState::Drained };
    let second = NodeEntry { role: second, versions: Versions { oldest: 3, newest: 4 }, ..entry(101, "") };
    layout.apply(800, &Command::AddNode { node: node(101), entry: second }).expect("it joins");
    let load = layout.load();
    let both = vec![replacing(2, SPARE), replacing(5, 101)];
    layout.apply(801, &Changes::from(both).command(None)).expect("replaced");
    let after = layout.load();
    for (dead, by) in [(2, SPARE), (5, 101)] {
        assert_eq!(after.get(&node(by)), load.get(&node(dead)));
    }
    let untouched = |byte: &u8| after.get(&node(*byte)) == load.get(&node(*byte));
    assert!([1, 3, 4, 6, 7].iter().all(untouched));
}

#[test]
fn who_holds_a_share_already_takes_the_place_and_little_moves() {
    let mut layout = with_spare(5, 1, false);
    let give_up = Change { node: node(2), change: NodeChange::State(NodeState::Lost) };
    let plan = |changes: Vec<Change>| layout.plan(&changes.into()).expect("it is possible");
    assert_eq!(plan(vec![replacing(2, 3)]), plan(vec![give_up]), "where it has the same zone and weight");
    layout.apply(800, &replace(2, 3)).expect("replaced");
    arrive(&mut layout, 801);
    let left = layout.load();
    assert_eq!(left.get(&node(SPARE)), Some(&NodeLoad::default()), "the spare stays one");
    let counts: Vec<u32> = [1, 3, 4, 5].iter().filter_map(|b| Some(left.get(&node(*b))?.replicas)).collect();
    assert_eq!(counts, [64 * 5 / 4; 4]);
}

#[test]
fn what_is_told_twice_is_done_once() {
    let mut layout = with_spare(5, 1, false);
    layout.apply(800, &replace(2, SPARE)).expect("replaced");
    let once = layout.clone();
    assert_eq!(layout.apply(801, &replace(2, SPARE)), Ok(Applied::Changed { epoch: once.epoch() }));
    assert_eq!(layout, once);
    let late = Changes::from(vec![replacing(3, 4)]).command(Some(once.epoch() - 1));
    assert_eq!(layout.apply(802, &late), Err(Refused::Moved { epoch: once.epoch() }));
}

#[test]
fn it_is_taken_back_but_for_what_was_given_up() {
    let mut layout = with_spare(5, 1, false);
    let own = layout.nodes().get(&node(SPARE)).map(|entry| entry.role.clone());
    layout.apply(800, &replace(2, SPARE)).expect("replaced");
    layout.apply(801, &Command::Revert).expect("taken back");
    assert_eq!(
        layout.nodes().get(&node(SPARE)).map(|entry| entry.role.clone()),
        own,
        "it is the spare again"
    );
    assert_eq!(layout.load().get(&node(SPARE)), Some(&NodeLoad::default()));
    assert_eq!(layout.nodes().get(&node(2)).map(|entry| entry.role.state), Some(NodeState::Lost));
}

#[test]
fn one_that_joined_while_data_moved_is_a_spare_with_its_own_role_again() {
    let mut layout = with_spare(5, 1, false);
    let drain = vec![Change { node: node(4), change: NodeChange::State(NodeState::Drained) }];
    layout.apply(800, &Changes::from(drain).command(None)).expect("drained");
    assert!(layout.is_moving());
    let own = Role { zone: "far".to_owned(), weight: 7, state: NodeState::Drained };
    let late = NodeEntry { role: own.clone(), versions: Versions { oldest: 3, newest: 4 }, ..entry(101, "") };
    layout.apply(801, &Command::AddNode { node: node(101), entry: late }).expect("it joins");
    layout.apply(802, &replace(2, 101)).expect("replaced");
    layout.apply(803, &Command::Revert).expect("taken back");
    assert_eq!(layout.nodes().get(&node(101)).map(|entry| entry.role.clone()), Some(own));
}

#[test]
fn nobody_takes_a_place_that_is_none_or_in_a_state_of_its_own() {
    let mut layout = with_spare(6, 1, false);
    let set = |byte, state| Change { node: node(byte), change: NodeChange::State(state) };
    assert_eq!(layout.plan(&vec![replacing(2, 77)].into()), Err(Refused::UnknownNode { node: node(77) }));
    assert_eq!(layout.plan(&vec![replacing(77, 2)].into()), Err(Refused::UnknownNode { node: node(77) }));
    let told = refusal(&layout, vec![replacing(2, 2)]);
    assert!(told.contains("cannot replace itself"), "{told}");
    let told = refusal(&layout, vec![replacing(SPARE, 2)]);
    assert!(told.contains("is drained already") && told.contains("slipring restore"), "{told}");
    for contradicting in [
        vec![replacing(2, SPARE), set(2, NodeState::Active)],
        vec![set(SPARE, NodeState::Leaving), replacing(2, SPARE)],
        vec![replacing(2, SPARE), Change { node: node(SPARE), change: NodeChange::Weight(3) }],
        vec![replacing(2, SPARE), Change { node: node(2), change: NodeChange::Zone("b".to_owned()) }],
        vec![replacing(2, SPARE), replacing(3, SPARE)],
        vec![replacing(2, SPARE), replacing(2, 3)],
        vec![replacing(2, 3), replacing(3, SPARE)],
    ] {
        let told = refusal(&layout, contradicting);
        assert!(told.contains("more than one"), "{told}");
    }
    for (state, word) in [(NodeState::Leaving, "leaving"), (NodeState::Lost, "lost")] {
        layout.apply(800, &Changes::from(vec![set(3, state)]).command(None)).expect("changed");
        let told = refusal(&layout, vec![replacing(2, 3)]);
        assert!(told.contains(&format!("is {word} itself")), "{told}");
        let told = refusal(&layout, vec![replacing(3, SPARE)]);
        assert!(told.contains(&format!("is {word} already")), "{told}");
    }
}

#[test]
fn members_of_older_releases_are_not_told_what_they_cannot_read() {
    let mut layout = with_spare(4, 1, false);
    let weight = Change { node: node(1), change: NodeChange::Weight(5) };
    assert_eq!(Changes::from(vec![weight.clone()]).command(None).level(), Versions::UNTOLD.newest);
    assert_eq!(Changes::from(vec![weight, replacing(2, SPARE)]).command(None).level(), 4);
    let old = layout.nodes.get_mut(&node(4)).expect("a member");
    old.versions = Versions { oldest: 3, newest: 3 };
    let refused = layout.apply(800, &replace(2, SPARE));
    assert_eq!(refused, Err(Refused::Level { needed: 4, level: 3 }));
}

#[test]
fn a_bucket_gets_fewer_copies_in_the_same_change() {
    let mut layout = with_spare(5, 1, false);
    let spreads = vec![Spread { bucket: BucketId(0), replicas: 2 }];
    let changes = Changes { nodes: vec![replacing(2, SPARE)], spreads };
    layout.apply(800, &changes.command(None)).expect("changed");
    arrive(&mut layout, 801);
    let holders = |p| layout.replicas(BucketId(0), PartitionId(p));
    assert!((0..64).all(|p| holders(p).len() == 2 && holders(p).iter().all(|copy| copy.node != node(2))));
}
