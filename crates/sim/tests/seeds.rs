//! Whole runs: seeds that must keep every promise, the same seed twice, and flaws that must be caught.

use std::collections::BTreeMap;
use std::ops::Range;

use slipring_sim::{Fault, HUNTS, Mutant, Options, Plan, run, run_all};

/// The seeds asked for in the environment as `from..to`, or a handful.
fn seeds() -> Range<u64> {
    let asked = std::env::var("SLIPRING_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| text.split_once(".."));
    range.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?)).unwrap_or(0..16)
}

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = seeds();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    run_all(seeds.clone(), 2, &Options::default(), |report| {
        if report.verdict.is_err() {
            eprintln!("{}\n{report}\nplan: {:?}", report.trace.join("\n"), report.plan);
            failed.push(report.seed);
        }
        for (what, times) in report.counts {
            *counts.entry(what).or_default() += times;
        }
    });
    println!("seeds {seeds:?}: {counts:?}");
    assert_eq!(failed, Vec::<u64>::new(), "seeds that broke a promise");
    if seeds.end - seeds.start >= 16 {
        let faults = ["process deaths", "power losses", "records lost", "ways cut", "slow ways", "pauses"];
        let effects = ["frames lost", "disconnects", "refusals", "outcomes unknown", "operations answered"];
        let repairs = ["read repairs", "hints delivered", "keys exchanged"];
        for what in faults.into_iter().chain(effects).chain(repairs) {
            assert!(counts.get(what).is_some_and(|times| *times > 0), "no {what} in {counts:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        let difference = first.trace.iter().zip(&second.trace).find(|(left, right)| left != right);
        assert_eq!(difference, None, "seed {seed}");
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}: frames differ");
        assert_ne!(first.fingerprint, run(seed + 100, &Options::default()).fingerprint);
    }
}

#[test]
fn replicas_that_acknowledge_without_storing_are_caught() {
    // All is well while the first replica of each key is there: it has coordinated every write.
    let death = Fault::Kill { host: 0, down_ms: 2_000, loses_power: false };
    let plan = Some(Plan { faults: vec![(4_000, death)] });
    let options = Options { plan, ..Options::default() };
    assert_eq!(run(1, &options).verdict, Ok(()), "honest replicas survive the same death");
    let options = Options { mutant: Some(Mutant::AckBeforeStored), ..options };
    let caught = run(1, &options).verdict.expect_err("the flaw");
    assert!(["no_lost_write", "counters"].contains(&caught.checker), "{caught}");
}

#[test]
fn disks_that_do_not_sync_are_caught() {
    let blackout = Fault::KillAll { down_ms: 500, loses_power: true };
    let plan = Some(Plan { faults: vec![(4_000, blackout)] });
    let options = Options { plan, ..Options::default() };
    assert_eq!(run(1, &options).verdict, Ok(()), "honest disks survive the same blackout");
    let caught = run(1, &Options { mutant: Some(Mutant::SyncNothing), ..options });
    let caught = caught.verdict.expect_err("the flaw");
    assert!(["no_lost_write", "counters"].contains(&caught.checker), "{caught}");
}

#[test]
fn a_host_that_slept_for_an_hour_does_no_harm() {
    // It wakes as a replica of partitions that have moved away, with requests of an hour ago in its hands.
    let plan = serde_json::from_str(include_str!("../plans/sleeper.json")).expect("a plan");
    let report = run(1, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
    let times = |what| report.counts.get(what).copied().unwrap_or(0);
    assert!(times("sleeps for hours") == 1 && times("joins") == 1 && times("roles changed") == 2, "{report}");
}

#[test]
fn every_promise_is_kept_while_partitions_are_split() {
    let plan: Plan = serde_json::from_str(include_str!("../plans/splits.json")).expect("a plan");
    for seed in 0..4 {
        let report = run(seed, &Options { plan: Some(plan.clone()), ..Options::default() });
        assert_eq!(report.verdict, Ok(()), "{report}");
        let times = |what| report.counts.get(what).copied().unwrap_or(0);
        assert!(times("splits") == 2 && times("joins") == 1 && times("process deaths") >= 2, "{report}");
    }
}

#[test]
fn every_promise_is_kept_while_buckets_are_cleared() {
    let plan: Plan = serde_json::from_str(include_str!("../plans/clears.json")).expect("a plan");
    for seed in 0..4 {
        let report = run(seed, &Options { plan: Some(plan.clone()), ..Options::default() });
        assert_eq!(report.verdict, Ok(()), "{report}");
        let times = |what| report.counts.get(what).copied().unwrap_or(0);
        assert!(times("clearings") == 4 && times("buckets cleared") >= 2, "{report}");
    }
}

#[test]
fn a_host_that_slept_through_two_splits_does_no_harm() {
    // It wakes with requests and copies of partitions that are four each by now, some of them elsewhere.
    let plan = serde_json::from_str(include_str!("../plans/sleeps_through_splits.json")).expect("a plan");
    let report = run(1, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
    let times = |what| report.counts.get(what).copied().unwrap_or(0);
    assert!(times("sleeps for hours") == 1 && times("splits") == 2, "{report}");
}

#[test]
fn copies_come_and_go_and_come_again() {
    let plan: Plan = serde_json::from_str(include_str!("../plans/copies.json")).expect("a plan");
    for (hosts, seed) in [(5, 1), (5, 2), (3, 3)] {
        let report =
            run(seed, &Options { plan: Some(plan.clone()), hosts: Some(hosts), ..Options::default() });
        assert_eq!(report.verdict, Ok(()), "{report}");
        assert_eq!(report.counts.get("copies changed"), Some(&8), "{report}");
    }
}

#[test]
fn a_host_that_was_away_while_copies_came_and_went_has_nothing_left_of_them() {
    let plan = serde_json::from_str(include_str!("../plans/copies_while_one_is_away.json")).expect("a plan");
    for seed in 0..3 {
        let report = run(seed, &Options { plan: Some(Plan::clone(&plan)), ..Options::default() });
        assert_eq!(report.verdict, Ok(()), "{report}");
    }
}

#[test]
fn a_member_that_restarts_before_it_has_heard_all_works_with_no_older_layout() {
    // Found by seed 972: it went back to the layout of the founding, which had fewer buckets.
    let plan = serde_json::from_str(include_str!("../plans/dies_after_joining.json")).expect("a plan");
    let report = run(972, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
}

#[test]
fn what_is_given_back_while_it_is_wiped_and_away_again_is_wiped() {
    // Found by seed 936: what a node had been given back in the meantime was noted as gone, and was not.
    let plan = serde_json::from_str(include_str!("../plans/given_back_while_wiped.json")).expect("a plan");
    let report = run(936, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
}

#[test]
fn node_with_wrong_clock_behind_slow_way_ends_no_value_early() {
    // Found by seed 437: half the way from another clock was more than the time that was left.
    let plan =
        serde_json::from_str(include_str!("../plans/clock_jumps_behind_a_slow_way.json")).expect("a plan");
    let report = run(437, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
}

#[test]
fn member_follows_recovered_node_that_it_did_not_know() {
    // Found by seed 413: the recovered node had joined while this one was away, so its layout knew no such member.
    let plan = serde_json::from_str(include_str!("../plans/recovered_after_joining.json")).expect("a plan");
    let report = run(413, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
}

#[test]
fn strangers_that_speak_the_protocol_change_nothing() {
    let counts = kept(include_str!("../plans/strangers.json"), 3, 0..4);
    assert!(counts.get("messages of strangers").is_some_and(|times| *times > 1_000), "{counts:?}");
}

#[test]
fn replies_of_strangers_that_count_are_caught() {
    let hunt = HUNTS.iter().find(|hunt| hunt.mutant == Mutant::TrustUnaskedReply).expect("it is hunted");
    let caught = hunt.run().and_then(|report| report.verdict.err()).expect("the flaw");
    println!("{caught}");
}

#[test]
fn hosts_that_come_back_at_other_addresses_find_each_other() {
    let counts = kept(include_str!("../plans/all_relocated.json"), 3, 0..3);
    assert_eq!(counts.get("hosts relocated"), Some(&12), "{counts:?}");
}

/// Runs a plan on a few seeds, which must keep every promise; how often each thing happened in all of them.
fn kept(plan: &str, hosts: usize, seeds: Range<u64>) -> BTreeMap<&'static str, u64> {
    let plan: Plan = serde_json::from_str(plan).expect("a plan");
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds {
        let report =
            run(seed, &Options { plan: Some(plan.clone()), hosts: Some(hosts), ..Options::default() });
        assert_eq!(report.verdict, Ok(()), "{report}");
        for (what, times) in report.counts {
            *counts.entry(what).or_default() += times;
        }
    }
    counts
}

#[test]
fn nothing_is_lost_with_a_majority_of_voters_while_each_write_has_a_copy_left() {
    // The lost ones come back as well, with what they had, and are told that they are no members.
    let counts = kept(include_str!("../plans/voters_come_back.json"), 3, 0..3);
    for what in ["majorities lost", "majorities recovered without a loss", "majorities back"] {
        assert_eq!(counts.get(what), Some(&3), "{what} in {counts:?}");
    }
    assert!(counts.get("hosts kept out").is_some_and(|times| *times >= 6), "{counts:?}");
}

#[test]
fn lost_voters_are_given_up_where_the_others_decide() {
    // Found by seed 269: a voter had not finished its start, so one voter fewer was lost than most of them.
    kept(include_str!("../plans/voter_still_starting.json"), 5, 269..270);
}

#[test]
fn what_a_host_had_not_synced_is_no_breach_because_the_host_is_lost_later() {
    // Found by seed 16: the rules forgot the first loss for the second one.
    let fail = Fault::FailDisk { host: 1, down_ms: 240 };
    let plan = Plan { faults: vec![(1389, fail), (4282, Fault::LoseMajority { back_ms: None })] };
    let report = run(16, &Options { plan: Some(plan), ..Options::default() });
    assert_eq!(report.verdict, Ok(()), "{report}");
    assert!(report.counts.get("records lost").is_some_and(|records| *records > 0), "{report}");
}

#[test]
fn lost_voters_that_agree_on_something_among_themselves_are_kept_out() {
    // They come back while the others stand still, and elect a leader.
    let counts = kept(include_str!("../plans/voters_elect_first.json"), 3, 0..3);
    assert!(counts.get("hosts kept out").is_some_and(|times| *times >= 6), "{counts:?}");
}

#[test]
fn the_data_path_goes_on_without_a_majority_of_voters() {
    let plan = r#"{ "faults": [[7900, { "LoseMajority": { "back_ms": null } }]] }"#;
    for hosts in [4, 5] {
        let counts = kept(plan, hosts, 0..2);
        assert!(counts.get("writes without a majority").is_some_and(|times| *times > 0), "{counts:?}");
        assert_eq!(counts.get("majorities recovered"), Some(&2), "{counts:?}");
    }
}

#[test]
fn a_node_goes_on_without_the_one_voter_of_a_cluster_of_two() {
    let plan = r#"{ "faults": [
        [1000, { "Leave": { "host": 2 } }], [5000, { "LoseDirectory": { "host": 0, "down_ms": 500 } }]
    ] }"#;
    let counts = kept(plan, 3, 0..3);
    assert_eq!(counts.get("majorities recovered"), Some(&3), "{counts:?}");
}

#[test]
fn a_drained_node_can_be_recovered_when_no_other_is_left() {
    // Found by seed 303: there was nobody to hold what the lost nodes had held, so they could not be given up.
    let plan = r#"{ "faults": [
        [4534, { "LoseMajority": { "back_ms": null } }], [5370, { "Drain": { "host": 0, "for_ms": 1426 } }]
    ] }"#;
    kept(plan, 3, 303..304);
}
