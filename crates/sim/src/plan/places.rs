//! Plans in which hosts come back at other addresses, all at once or one alone.

use fastrand::Rng;

use super::{Fault, Plan};

/// Of so many seeds one has hosts that are relocated.
const SEEDS_PER_RELOCATION: u64 = 5;

impl Plan {
    /// Relocates all hosts or one of them, in one of so many seeds.
    pub(crate) fn relocate(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0070_6c61_6365);
        if rng.u64(..SEEDS_PER_RELOCATION) > 0 {
            return;
        }
        let (host, down_ms) = (rng.usize(..hosts), rng.u64(50..2_000));
        let fault = match rng.bool() {
            true => Fault::RelocateAll { down_ms },
            false => Fault::Relocate { host, down_ms },
        };
        self.faults.push((rng.u64(..storm_ms), fault));
        self.faults.sort_by_key(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_relocate_all_hosts_and_some_one_host() {
        let drawn = |seed| {
            let mut plan = Plan::default();
            plan.relocate(seed, 3, 8_000);
            plan.faults
        };
        let count =
            |is_it: fn(&Fault) -> bool| (0..200).flat_map(drawn).filter(|(_, fault)| is_it(fault)).count();
        let all = count(|fault| matches!(fault, Fault::RelocateAll { .. }));
        let one = count(|fault| matches!(fault, Fault::Relocate { host: 0..3, .. }));
        assert!(all > 5 && one > 5 && all + one < 100, "{all} and {one} of 200");
    }
}
