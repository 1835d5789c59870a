//! Whole runs: a handful of seeds, the same seed twice, and flaws that must be caught.

use std::collections::BTreeMap;

use slipring_sim::{Fault, Options, Plan, Sabotage, run, run_all};

#[test]
fn a_handful_of_seeds_keep_every_promise_and_their_faults_happen() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    run_all(0, 16, 2, &Options::default(), |report| {
        assert!(report.verdict.is_ok(), "{report}\n{}", report.trace.join("\n"));
        for (what, times) in report.counts {
            *counts.entry(what).or_default() += times;
        }
    });
    let faults =
        ["process deaths", "power losses", "records lost", "ways cut", "slow ways", "pauses", "frames lost"];
    for what in
        faults.into_iter().chain(["disconnects", "refusals", "outcomes unknown", "operations answered"])
    {
        assert!(counts.get(what).is_some_and(|times| *times > 0), "no {what} in {counts:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4] {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        let difference = first.trace.iter().zip(&second.trace).find(|(left, right)| left != right);
        assert_eq!(difference, None, "seed {seed}");
        assert_eq!(first.fingerprint, second.fingerprint, "seed {seed}: frames differ");
    }
}

#[test]
fn replicas_that_acknowledge_without_storing_are_caught() {
    let options = Options {
        plan: Some(Plan::default()),
        sabotage: Some(Sabotage::AckWithoutStoring),
        ..Options::default()
    };
    let caught = run(1, &options).verdict.expect_err("the flaw");
    assert_eq!(caught.checker, "no_lost_write", "{caught}");
}

#[test]
fn disks_that_do_not_sync_are_caught() {
    let blackout = Fault::KillAll { down_ms: 500, loses_power: true };
    let plan = Plan { faults: vec![(4_000, blackout)] };
    let options = Options { plan: Some(plan.clone()), ..Options::default() };
    assert_eq!(run(1, &options).verdict, Ok(()), "honest disks survive the same blackout");
    let caught = run(1, &Options { sabotage: Some(Sabotage::SyncNothing), ..options });
    let caught = caught.verdict.expect_err("the flaw");
    assert!(["no_lost_write", "counters"].contains(&caught.checker), "{caught}");
}
