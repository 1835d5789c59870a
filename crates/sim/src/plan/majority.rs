//! Plans in which the layout group loses its majority for good.

use fastrand::Rng;

use super::{Fault, Plan};

/// Of so many seeds one may lose it.
const SEEDS_PER_LOSS: u64 = 10;
/// The most copies a bucket may have.
const COPIES_MAX: usize = 7;
/// Buckets that ask for majorities, by their numbers.
const MAJORITIES: [u32; 3] = [0, 2, 4];

impl Plan {
    /// Lets a majority of the voters be lost for good, in one of so many seeds. In most of these nodes join before, and
    /// buckets get so many copies that each write has one that is left.
    pub(crate) fn lose_majority(&mut self, seed: u64, founders: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x006d_616a_6f72_6974);
        // What is lost or damaged elsewhere, too, is nowhere; and nobody waits hours for an operator.
        let is_blocked = |fault: &Fault| {
            matches!(
                fault,
                Fault::LoseDirectory { .. }
                    | Fault::RollBack { .. }
                    | Fault::FlipBits { .. }
                    | Fault::Sleep { .. }
            )
        };
        if rng.u64(..SEEDS_PER_LOSS) > 0 || self.faults.iter().any(|(_, fault)| is_blocked(fault)) {
            return;
        }
        if rng.u8(..4) > 0 {
            let hosts = self.hosts(founders);
            // Of four nodes two are lost, of six or more three: with an even number writes ask for one more.
            let wanted = hosts.next_multiple_of(2);
            for host in hosts..wanted {
                self.faults.push((rng.u64(..500), Fault::Join { host }));
            }
            for bucket in MAJORITIES {
                let replicas = wanted.min(COPIES_MAX) as u8;
                self.faults.push((rng.u64(200..1_500), Fault::Respread { bucket, replicas }));
            }
        }
        let back_ms = rng.bool().then(|| rng.u64(..5_000));
        self.faults.push((rng.u64(storm_ms / 2..storm_ms), Fault::LoseMajority { back_ms }));
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_plans_lose_it_and_none_that_loses_a_directory() {
        let plans = (0..200).map(|seed| {
            let mut plan = Plan::draw(seed, 3, 8_000);
            let before = plan.clone();
            plan.lose_majority(seed, 3, 8_000);
            (before, plan)
        });
        let losing = plans.filter(|(before, plan)| before != plan);
        let losing: Vec<Plan> = losing.map(|(_, plan)| plan).collect();
        assert!((5..40).contains(&losing.len()), "{} of 200", losing.len());
        let is_lost = |(_, fault): &(u64, Fault)| matches!(fault, Fault::LoseDirectory { .. });
        assert!(!losing.iter().any(|plan| plan.faults.iter().any(is_lost)));
    }
}
