//! Plans in which wall clocks are wrong: by a little, by a second, by hours, and not always by as much.

use fastrand::Rng;

use super::{Fault, Plan};

/// How far a clock is off, in milliseconds, forward or back.
const ERRORS_MS: [i64; 3] = [100, 1_000, 7_200_000];

impl Plan {
    /// Sets the clocks of some hosts wrong, in one of three seeds; a clock that is wrong may jump on, or back.
    pub(crate) fn set_clocks(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0063_6c6f_636b);
        if rng.u8(..3) > 0 {
            return;
        }
        let error = rng.choice(ERRORS_MS).unwrap_or_default();
        for host in 0..hosts {
            for _ in 0..rng.usize(..3) {
                let by_ms = rng.choice([error, -error, 0]).unwrap_or_default();
                self.faults.push((rng.u64(..storm_ms), Fault::Skew { host, by_ms }));
            }
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_set_clocks_wrong_by_hours_and_most_by_nothing() {
        let plan = |seed| {
            let mut plan = Plan::default();
            plan.set_clocks(seed, 3, 8_000);
            plan
        };
        let plans: Vec<Plan> = (0..60).map(plan).collect();
        assert!(plans.iter().filter(|plan| plan.faults.is_empty()).count() > 30);
        assert!(plans.iter().any(|plan| plan.skew_ms(8_000) >= 7_200_000));
        assert!(plans.iter().any(|plan| (1..7_200_000).contains(&plan.skew_ms(8_000))));
    }
}
