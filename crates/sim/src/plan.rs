//! What goes wrong in a run, and when: a value drawn from the seed, which can also be written by hand.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// One fault. Hosts are numbered from 0; every time is in simulated milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The process dies and is started again.
    Kill {
        /// Which.
        host: usize,
        /// Until it is started again.
        down_ms: u64,
        /// Whether the machine dies with it: what was not synced is lost, and peers are told nothing.
        loses_power: bool,
    },
    /// All hosts die at once.
    KillAll {
        /// Until the first is started again; the others follow.
        down_ms: u64,
        /// As for one.
        loses_power: bool,
    },
    /// Nothing gets from one host to another; the other way it does.
    Cut {
        /// Whose words are lost.
        from: usize,
        /// Who does not hear them.
        to: usize,
        /// How long.
        for_ms: u64,
    },
    /// Nothing gets from or to a host.
    Isolate {
        /// Which.
        host: usize,
        /// How long.
        for_ms: u64,
    },
    /// Everything from one host to another takes longer.
    Slow {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How much longer.
        by_ms: u64,
        /// How long this lasts.
        for_ms: u64,
    },
    /// The connection of two hosts breaks, with all that was on its way.
    Reset {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
    /// A host stands still, and does not notice.
    Pause {
        /// Which.
        host: usize,
        /// How long.
        for_ms: u64,
    },
    /// A host's wall clock is set off true time.
    Skew {
        /// Which.
        host: usize,
        /// How far ahead; behind when negative.
        by_ms: i64,
    },
    /// A host's disk refuses writes and syncs until the host has been started again.
    FailDisk {
        /// Which.
        host: usize,
        /// Until it is started again, with what its disk had synced.
        down_ms: u64,
    },
}

/// The faults of a run, in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// When, after the cluster has formed, and what.
    pub faults: Vec<(u64, Fault)>,
}

/// Which hosts may lose what they have not synced.
#[derive(Clone, Copy)]
enum Power {
    Safe,
    Prone(usize),
    AllProne,
}

impl Plan {
    /// The plan of a seed for a storm of `storm_ms` over `hosts` hosts, of which there are at least two.
    #[must_use]
    pub fn draw(seed: u64, hosts: usize, storm_ms: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0070_6c61_6e00);
        let power = match rng.u8(..3) {
            0 => Power::Safe,
            1 => Power::Prone(rng.usize(..hosts)),
            _ => Power::AllProne,
        };
        let is_skewed = rng.u8(..3) == 0;
        let mut faults: Vec<(u64, Fault)> = (0..rng.usize(4..10))
            .filter_map(|_| {
                let at = rng.u64(..storm_ms);
                fault(&mut rng, hosts, power, is_skewed).map(|fault| (at, fault))
            })
            .collect();
        faults.sort_by_key(|(at, _)| *at);
        Self { faults }
    }

    /// The furthest two wall clocks are ever apart, in milliseconds; true time counts as one.
    #[must_use]
    pub fn skew_ms(&self) -> u64 {
        let skews = || {
            let of = |(_, fault): &(u64, Fault)| match fault {
                Fault::Skew { by_ms, .. } => Some(*by_ms),
                _ => None,
            };
            self.faults.iter().filter_map(of).chain([0])
        };
        skews().max().unwrap_or(0).abs_diff(skews().min().unwrap_or(0))
    }
}

fn fault(rng: &mut Rng, hosts: usize, power: Power, is_skewed: bool) -> Option<Fault> {
    let host = rng.usize(..hosts);
    let other = (host + rng.usize(1..hosts)) % hosts;
    let for_ms = rng.u64(100..3_500);
    let down_ms = rng.u64(50..3_000);
    let is_prone = match power {
        Power::Safe => false,
        Power::Prone(prone) => prone == host,
        Power::AllProne => true,
    };
    Some(match rng.u8(..12) {
        0..=2 => Fault::Kill { host, down_ms, loses_power: is_prone && rng.bool() },
        3 => Fault::KillAll { down_ms, loses_power: matches!(power, Power::AllProne) && rng.bool() },
        4 | 5 => Fault::Cut { from: host, to: other, for_ms },
        6 => Fault::Isolate { host, for_ms },
        7 => Fault::Slow { from: host, to: other, by_ms: rng.u64(10..400), for_ms },
        8 => Fault::Reset { a: host, b: other },
        9 => Fault::Pause { host, for_ms },
        10 if is_skewed => Fault::Skew { host, by_ms: rng.i64(-400..400) },
        11 if is_prone => Fault::FailDisk { host, down_ms },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults_in_order() {
        let plan = Plan::draw(7, 3, 8_000);
        assert_eq!(plan, Plan::draw(7, 3, 8_000));
        assert!((0..50).any(|seed| Plan::draw(seed, 3, 8_000) != plan));
        assert!(plan.faults.iter().zip(plan.faults.iter().skip(1)).all(|(left, right)| left.0 <= right.0));
    }

    #[test]
    fn the_skew_is_between_the_extremes_and_true_time() {
        let skew = |by_ms| (0, Fault::Skew { host: 0, by_ms });
        assert_eq!(Plan { faults: vec![skew(-30), skew(-10)] }.skew_ms(), 30);
        assert_eq!(Plan { faults: vec![skew(-30), skew(20)] }.skew_ms(), 50);
    }
}
