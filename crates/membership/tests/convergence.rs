//! Clusters on simulated time: joining, dying, returning, leaving, and what faults must not do.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../simulation/world.rs"]
mod world;

use std::time::Duration;

use slipring_membership::{Effect, Input, Liveness, Metadata, Settings, Zone};
use world::{World, address, id};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn downs(world: &World) -> usize {
    world.notes.iter().filter(|note| matches!(note.effect, Effect::Down(_))).count()
}

#[test]
fn twenty_nodes_that_start_at_once_find_each_other() {
    let mut world = World::new(1, Settings::lan());
    (0..20).for_each(|_| {
        world.add();
    });
    let took = world.run_until(seconds(30), World::is_complete).expect("all found each other");
    assert!(took <= seconds(5), "took {took:?}");
    world.run(seconds(60));
    assert_eq!(world.false_downs, 0);
}

#[test]
fn a_dead_node_is_seen_to_be_down_by_all_in_bounded_time() {
    let mut world = World::cluster(2, Settings::lan(), 20);
    world.kill(7);
    let took = world.run_until(seconds(60), World::is_complete).expect("all noticed");
    assert!(took >= seconds(4) && took <= seconds(20), "took {took:?}");
    assert_eq!((world.false_downs, downs(&world)), (0, 19));
    assert!((0..20).filter(|node| *node != 7).all(|node| !world.machine(node).is_alive(&id(7))));
}

#[test]
fn a_node_that_starts_again_is_not_taken_for_the_dead_one() {
    let mut world = World::cluster(2, Settings::lan(), 10);
    for death in 0..100 {
        let victim = (death * 7 + 3) % 10;
        world.kill(victim);
        world.run_until(seconds(600), World::is_complete).expect("all noticed");
        world.start(victim);
        world.run_until(seconds(600), World::is_complete).expect("it is back");
        world.run(seconds(20));
        assert_eq!(world.false_downs, 0, "after {death} other deaths");
    }
}

#[test]
fn a_node_cut_off_for_an_hour_rejoins_by_itself() {
    let mut world = World::cluster(3, Settings::lan(), 12);
    world.cuts = (0..11).flat_map(|node| [(node, 11), (11, node)]).collect();
    world.run(seconds(3_600));
    assert_eq!(world.liveness(0, 11), Some(Liveness::Down));
    assert_eq!(world.liveness(11, 0), Some(Liveness::Down));
    world.cuts.clear();
    let took = world.run_until(seconds(300), World::is_complete).expect("the cut has healed");
    assert!(took <= seconds(80), "took {took:?}");
}

#[test]
fn two_halves_rejoin_after_an_hour_and_after_the_memory_of_each_other_has_ended() {
    let settings = Settings { forget_after_ms: 600_000, ..Settings::lan() };
    let mut world = World::cluster(4, settings, 12);
    world.cut_at(6);
    world.run(seconds(3_600));
    assert_eq!(world.liveness(0, 11), None, "forgotten in the view, still a known peer");
    world.cuts.clear();
    let took = world.run_until(seconds(300), World::is_complete).expect("the cut has healed");
    assert!(took <= seconds(80), "took {took:?}");
}

#[test]
fn a_one_way_cut_of_one_pair_takes_nobody_down() {
    let mut world = World::cluster(5, Settings::lan(), 10);
    world.cuts.insert((2, 3));
    world.run(seconds(300));
    assert_eq!(world.false_downs, 0);
    assert!(world.is_complete());
}

#[test]
fn a_restarted_node_replaces_its_old_self_at_once() {
    let mut world = World::cluster(6, Settings::lan(), 10);
    world.kill(4);
    world.run(Duration::from_millis(300));
    world.start(4);
    let is_replaced = |world: &World| {
        let start_of_4 = |node: usize| {
            let machine = world.machine(node);
            machine
                .members()
                .find(|(member, _)| member.node == id(4))
                .map(|(member, _)| member.incarnation.start)
        };
        (0..10).filter(|node| *node != 4).all(|node| start_of_4(node) == Some(2)) && world.is_complete()
    };
    let took = world.run_until(seconds(30), is_replaced).expect("the new start is known");
    assert!(took <= seconds(3), "took {took:?}");
    assert_eq!(downs(&world), 0);
    let ups =
        world.notes.iter().filter(|note| note.node != 4 && matches!(note.effect, Effect::Up(_))).count();
    assert_eq!(ups, 9, "each other node is told once that the node is new");
}

#[test]
fn a_node_whose_disk_was_set_back_goes_on_with_a_later_start() {
    let mut world = World::cluster(7, Settings::lan(), 8);
    for _ in 0..3 {
        world.kill(5);
        world.start(5);
        world.run(seconds(10));
    }
    world.kill(5);
    world.nodes[5].start = 0;
    world.start(5);
    world.run_until(seconds(120), |world| world.machine(5).me().incarnation.start > 4).expect("it learnt");
    world.run_until(seconds(30), World::is_complete).expect("it is back");
    assert!(world.notes.iter().any(|note| note.effect == Effect::StartRaised(5)));
}

#[test]
fn a_suspected_node_refutes_and_is_restored() {
    let mut world = World::cluster(8, Settings::lan(), 10);
    world.pause(3, seconds(4));
    world
        .run_until(seconds(4), |world| world.liveness(0, 3) == Some(Liveness::Suspected))
        .expect("suspected");
    let before = world.machine(3).me().incarnation;
    world.run(seconds(10));
    assert!(world.machine(3).me().incarnation > before);
    assert!(world.machine(3).counters().refutations > 0);
    assert!((0..10).all(|node| world.liveness(node, 3) == Some(Liveness::Alive)));
    assert_eq!(world.false_downs, 0);
}

#[test]
fn a_node_that_was_paused_for_a_minute_declares_nobody_down_on_return() {
    let mut world = World::cluster(9, Settings::lan(), 10);
    world.pause(3, seconds(60));
    world.run(seconds(59));
    let is_of_3 = |note: &&world::Note| note.node == 3 && matches!(note.effect, Effect::Down(_));
    world.run(seconds(60));
    assert_eq!(world.notes.iter().filter(is_of_3).count(), 0);
    assert!(world.machine(3).counters().pauses >= 1);
    assert!(world.is_complete(), "it was down for the others and is back");
}

#[test]
fn a_node_that_only_streams_reach_is_kept_alive_and_without_them_it_is_not() {
    for is_stream_probing in [true, false] {
        let mut world = World::cluster(10, Settings { is_stream_probing, ..Settings::lan() }, 8);
        world.deaf.insert(6);
        world.run(seconds(120));
        let downs_of_6 = world.notes.iter().filter(|note| note.effect == Effect::Down(id(6))).count();
        assert_eq!(downs_of_6 == 0, is_stream_probing, "{downs_of_6}");
    }
}

#[test]
fn a_node_that_leaves_is_gone_at_once_without_a_suspicion_and_comes_back() {
    let mut world = World::cluster(11, Settings::lan(), 20);
    world.input(9, Input::Leaving);
    let has_left = |world: &World| {
        (0..20).filter(|node| *node != 9).all(|node| world.liveness(node, 9) == Some(Liveness::Left))
    };
    let took = world.run_until(seconds(20), has_left).expect("all know");
    assert!(took <= seconds(2), "took {took:?}");
    world.run(seconds(30));
    assert!(world.notes.iter().any(|note| note.node == 9 && note.effect == Effect::Departed));
    let is_wrong = |effect: &Effect| matches!(effect, Effect::Suspected(_) | Effect::Down(_));
    assert!(!world.notes.iter().any(|note| is_wrong(&note.effect)));
    world.start(9);
    world.run_until(seconds(20), World::is_complete).expect("it is back");
}

#[test]
fn a_new_layout_epoch_spreads_to_all() {
    let mut world = World::cluster(12, Settings::lan(), 30);
    let metadata = Metadata { layout_epoch: 8, layout_hash: 99, zone: Zone::new("b").unwrap() };
    world.input(0, Input::Announced(metadata.clone()));
    let is_known = |world: &World| {
        (1..30).all(|node| {
            world
                .machine(node)
                .members()
                .any(|(member, _)| member.node == id(0) && member.metadata == metadata)
        })
    };
    let took = world.run_until(seconds(20), is_known).expect("all know");
    assert!(took <= seconds(3), "took {took:?}");
    let changes = world.notes.iter().filter(|note| matches!(note.effect, Effect::Changed(_))).count();
    assert_eq!(changes, 29);
}

#[test]
fn known_peers_are_kept_and_lead_back_after_all_nodes_restarted() {
    let mut world = World::cluster(13, Settings::lan(), 6);
    assert!(world.nodes.iter().all(|node| node.kept.len() == 5), "each keeps all others");
    (0..6).for_each(|node| world.kill(node));
    world.run(seconds(600));
    (3..6).for_each(|node| world.start(node));
    world.run_until(seconds(20), World::is_complete).expect("those find each other without the seeds");
    assert_eq!(world.machine(3).known_peers().iter().filter(|peer| peer.address == address(0)).count(), 1);
}

#[test]
fn starved_nodes_take_others_down_far_less_often_than_in_plain_swim() {
    let falsely_down = |is_aware: bool| {
        let settings = Settings { is_health_aware: is_aware, is_stream_probing: is_aware, ..Settings::lan() };
        let mut world = World::cluster(14, settings, 20);
        (0..2).for_each(|node| world.starve(node * 7, seconds(5), seconds(20)));
        world.run(seconds(1_500));
        world.false_downs
    };
    let (plain, aware) = (falsely_down(false), falsely_down(true));
    assert!(plain >= 50, "plain SWIM did well: {plain}");
    assert!(aware * 50 <= plain, "{aware} against {plain}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = World::cluster(seed, Settings::lan(), 10);
        world.starve(2, seconds(5), seconds(20));
        world.kill(3);
        world.run(seconds(60));
        (world.trace, world.notes)
    };
    let (first, again, other) = (run(15), run(15), run(16));
    assert!(first == again);
    assert_ne!(first.0, other.0);
}
