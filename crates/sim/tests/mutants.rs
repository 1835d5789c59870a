//! The simulator bites: each planted mistake is caught within so many seeds.

use parking_lot::Mutex;
use slipring_sim::{Mutant, Options, find_failure};

/// Each mutant, the seeds from 0 on within which a simulation must have caught it, and the plan of faults that
/// shows it when those that the seeds draw rarely do.
const HUNTS: [(Mutant, u64, Option<&str>); 19] = [
    (Mutant::AckBeforeStored, 10, None),
    (Mutant::AckBeforeSync, 10, Some(include_str!("plans/blackout.json"))),
    (Mutant::CountHintAsAck, 60, None),
    (Mutant::ReadOneFewer, 20, None),
    (Mutant::SkipReadRepair, 40, None),
    (Mutant::SkipExchange, 10, None),
    (Mutant::ReuseDots, 10, None),
    (Mutant::DropTombstone, 60, None),
    (Mutant::DropExpired, 20, None),
    (Mutant::TimeOutIsFailure, 20, None),
    (Mutant::RetryUnknownWrite, 60, None),
    (Mutant::RestampOnReplay, 10, None),
    (Mutant::OldestWins, 10, None),
    (Mutant::AddOnMerge, 10, None),
    (Mutant::SyncNothing, 10, None),
    (Mutant::ServeDamaged, 40, None),
    (Mutant::AcceptRollback, 100, None),
    (Mutant::ForgetVote, 30, None),
    (Mutant::DecideOnStaleCopy, 120, Some(include_str!("plans/disks_fail_after_cuts.json"))),
];

#[test]
fn no_mutant_is_left_out() {
    let hunted = HUNTS.map(|(mutant, ..)| mutant);
    assert!(Mutant::ALL.iter().all(|mutant| hunted.contains(mutant)));
}

#[test]
fn every_mutant_is_caught() {
    let hunts = Mutex::new(HUNTS.iter());
    let survivors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((mutant, seeds, plan)) = { hunts.lock().next() } {
                    let plan = plan.map(|json| serde_json::from_str(json).expect("a plan"));
                    let options = Options { mutant: Some(*mutant), plan, ..Options::default() };
                    match find_failure(0..*seeds, &options) {
                        Some(report) => {
                            let violation = report.verdict.expect_err("a failure");
                            println!("{mutant:?}: seed {}: {violation}", report.seed);
                        }
                        None => survivors.lock().push(*mutant),
                    }
                }
            });
        }
    });
    assert_eq!(survivors.into_inner(), [], "mutants that nobody caught");
}
