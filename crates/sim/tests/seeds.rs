//! Seeds: each run must hold all invariants, and repeat byte for byte.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use slipring_sim::{Options, run};

/// The seeds asked for in the environment as `from..to`, or a handful.
fn seeds() -> Range<u64> {
    let asked = std::env::var("SLIPRING_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| text.split_once(".."));
    range.and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?)).unwrap_or(0..6)
}

#[test]
fn every_seed_keeps_every_promise() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut failures = Vec::new();
        let mut faults = 0;
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return (failures, faults);
            }
            let report = run(seed, &Options::default());
            faults += report.faults.values().sum::<u64>();
            if let Some(violation) = report.violation {
                eprintln!("seed {seed}: {violation}\n{}", report.trace);
                failures.push(seed);
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join().expect("a run does not panic")).collect()
    });
    let failed: Vec<u64> = results.iter().flat_map(|(failures, _)| failures.clone()).collect();
    let faults: u64 = results.iter().map(|(_, faults)| faults).sum();
    println!("seeds {seeds:?}: {faults} faults, {} failed", failed.len());
    assert!(faults > 0, "no fault happened");
    assert_eq!(failed, Vec::<u64>::new());
}

#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in [1, 2] {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert!(first.trace.lines().count() > 300);
        assert!(first.trace == second.trace, "seed {seed} took another course");
    }
}
