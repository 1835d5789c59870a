//! The simulator bites: each planted mistake is caught within so many seeds.

use parking_lot::Mutex;
use slipring_sim::HUNTS;

#[test]
fn every_mutant_is_caught() {
    let hunts = Mutex::new(HUNTS.iter());
    let survivors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(hunt) = { hunts.lock().next() } {
                    match hunt.run() {
                        Some(report) => println!("{:?}: seed {}: {report}", hunt.mutant, report.seed),
                        None => survivors.lock().push(hunt.mutant),
                    }
                }
            });
        }
    });
    assert_eq!(survivors.into_inner(), [], "mutants that nobody caught");
}
