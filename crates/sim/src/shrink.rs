//! Shrinking: of the faults of a failing run, the fewest that still make it fail.

use crate::plan::Plan;
use crate::run::Report;

/// Leaves out faults, many at a time and then one by one, as long as `run` still breaks the same promise.
///
/// Each try is one whole run; `tries` bounds them. Gives the last failing report, `report` itself when nothing
/// can go. Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (2002).
#[must_use]
pub fn shrink(report: Report, tries: usize, run: impl Fn(u64, Plan) -> Report) -> Report {
    let Err(violation) = &report.verdict else { return report };
    let checker = violation.checker;
    let (mut best, mut left) = (report, tries);
    let mut share = best.plan.faults.len();
    while share > 0 {
        let mut at = 0;
        while at < best.plan.faults.len() && left > 0 {
            left -= 1;
            let again = run(best.seed, without(&best.plan, at, share));
            match &again.verdict {
                Err(violation) if violation.checker == checker => best = again,
                _ => at += share,
            }
        }
        share /= 2;
    }
    best
}

/// The plan without `count` faults from `at` on.
fn without(plan: &Plan, at: usize, count: usize) -> Plan {
    let kept = plan.faults.iter().enumerate().filter(|(index, _)| !(at..at + count).contains(index));
    Plan { faults: kept.map(|(_, fault)| *fault).collect() }
}

#[cfg(test)]
mod tests {
    use slipring_model::Mutant;

    use super::*;
    use crate::plan::Fault;
    use crate::run::{Options, run};

    #[test]
    fn the_fault_that_matters_is_left_and_most_others_are_not() {
        let blackout = Fault::KillAll { down_ms: 500, loses_power: true };
        let slow = |host| Fault::SlowDisk { host, by_ms: 20, for_ms: 300 };
        let reset = Fault::Reset { a: 0, b: 1 };
        let faults =
            vec![(500, slow(0)), (1_000, reset), (4_000, blackout), (5_000, slow(1)), (6_000, reset)];
        let options =
            Options { plan: Some(Plan { faults }), mutant: Some(Mutant::SyncNothing), ..Options::default() };
        let again = |seed, plan| run(seed, &Options { plan: Some(plan), ..options.clone() });
        let report = shrink(run(1, &options), 40, again);
        assert!(report.plan.faults.contains(&(4_000, blackout)) && report.plan.faults.len() < 4, "{report}");
        assert!(report.verdict.is_err());
    }
}
