//! Hosts that start at once: whatever goes wrong meanwhile, they end in one cluster.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Range;

use slipring_sim::forming::{Forming, run, run_founder_again};

/// How many seeds a test runs, or as many as the environment asks for.
fn seeds(default: u64) -> u64 {
    std::env::var("SLIPRING_FORMINGS").ok().and_then(|asked| asked.parse().ok()).unwrap_or(default)
}

fn run_all(seeds: Range<u64>, forming: impl Fn(u64) -> Forming) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for seed in seeds.clone() {
        let report = run(seed, forming(seed));
        assert_eq!(report.verdict, Ok(()), "{}", report.story());
        report.counts.into_iter().for_each(|(what, times)| *counts.entry(what).or_default() += times);
    }
    println!("seeds {seeds:?}: {counts:?}");
    counts
}

#[test]
fn hosts_that_expect_each_other_form_one_cluster() {
    // Most times there are more than are expected, and the others just join.
    let hosts = |seed: u64| 5 + 2 * (seed % 3) as usize;
    let expected = NonZeroU32::new(5);
    // Of these, 85 catches a node that founds before all have promised to follow it.
    let counts =
        run_all(66..66 + seeds(24), |seed| Forming { hosts: hosts(seed), expected, storm_ms: 18_000 });
    for what in ["process deaths", "power losses", "ways cut", "pauses", "members before all was well"] {
        assert!(counts.get(what).is_some_and(|times| *times > 0), "no {what} in {counts:?}");
    }
}

#[test]
fn without_faults_all_are_members_soon() {
    let expected = NonZeroU32::new(5);
    let counts = run_all(0..5, |_| Forming { hosts: 5, expected, storm_ms: 0 });
    assert!(counts.contains_key("members before all was well"));
}

#[test]
fn twenty_that_join_one_at_once_all_become_members() {
    run_all(0..seeds(3), |seed| {
        let storm_ms = if seed == 0 { 0 } else { 6_000 };
        Forming { hosts: 21, expected: None, storm_ms }
    });
}

#[test]
fn the_same_seed_forms_the_same_cluster() {
    let forming = Forming { hosts: 5, expected: NonZeroU32::new(5), storm_ms: 6_000 };
    assert_eq!(run(1, forming).fingerprint, run(1, forming).fingerprint);
    assert_ne!(run(1, forming).fingerprint, run(2, forming).fingerprint);
}

#[test]
fn a_founder_that_lost_its_disks_never_serves_beside_its_cluster() {
    for seed in 0..seeds(6) {
        for is_cut in [false, true] {
            let report = run_founder_again(seed, is_cut);
            assert_eq!(report.verdict, Ok(()), "{}", report.story());
        }
    }
}
