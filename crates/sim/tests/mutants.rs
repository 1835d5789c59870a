//! The simulator bites: each planted mistake is caught within so many seeds.

use parking_lot::Mutex;
use slipring_sim::{Mutant, Options, find_failure};

/// Each mutant, and the seeds from 0 on within which a simulation must have caught it.
const HUNTS: [(Mutant, u64); 19] = [
    (Mutant::AckBeforeStored, 5),
    (Mutant::AckBeforeSync, 5),
    (Mutant::CountHintAsAck, 40),
    (Mutant::ReadOneFewer, 5),
    (Mutant::SkipReadRepair, 30),
    (Mutant::SkipExchange, 5),
    (Mutant::ReuseDots, 5),
    (Mutant::DropTombstone, 60),
    (Mutant::DropExpired, 20),
    (Mutant::TimeOutIsFailure, 30),
    (Mutant::RetryUnknownWrite, 60),
    (Mutant::RestampOnReplay, 5),
    (Mutant::OldestWins, 5),
    (Mutant::AddOnMerge, 5),
    (Mutant::SyncNothing, 5),
    (Mutant::ServeDamaged, 100),
    (Mutant::AcceptRollback, 300),
    (Mutant::DecideOnStaleCopy, 600),
    (Mutant::ForgetVote, 20),
];

#[test]
fn every_mutant_is_caught() {
    let hunts = Mutex::new(HUNTS.iter());
    let survivors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((mutant, seeds)) = { hunts.lock().next() } {
                    let options = Options { mutant: Some(*mutant), ..Options::default() };
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
