//! What goes wrong in a run, and when: a value drawn from the seed, which can also be written by hand.

mod aimed;
mod clocks;
mod majority;
mod places;

pub use aimed::Part;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Buckets whose copies change, by their numbers: those that ask for majorities, and the cache.
const RESPREAD: [u32; 4] = [0, 1, 2, 4];
/// Copies with which a majority bears the loss of one.
const COPIES_ENOUGH: u8 = 3;
/// Of so many seeds one has a host that sleeps for hours.
const SEEDS_PER_SLEEP: u64 = 150;
/// How far what a node reads of another's clock may be off: half the time that an answer may take.
const READING_ERROR_MS: u64 = 450;
/// How long what the clocks show must stand after a step forward before values are dropped by it.
const DROP_REST_MS: u64 = 10_000;

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
    /// As soon as data moves, whoever has a part in that is chosen, and dies a little later.
    KillMover {
        /// Which part.
        part: Part,
        /// How much later.
        after_ms: u64,
        /// Until it is started again.
        down_ms: u64,
    },
    /// All hosts die at once.
    KillAll {
        /// Until the first is started again; the others follow.
        down_ms: u64,
        /// As for one.
        loses_power: bool,
    },
    /// A host dies and comes back at another address.
    Relocate {
        /// Which.
        host: usize,
        /// Until it is started again.
        down_ms: u64,
    },
    /// All hosts die at once, and each comes back at another address.
    RelocateAll {
        /// Until the first is started again; the others follow.
        down_ms: u64,
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
    /// A host stands still for hours, and does not notice. The storm goes on after it has woken; in between
    /// clients rest most of the time.
    Sleep {
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
    /// A host's wall clock jumps far ahead, or behind when negative, and returns after a while. No checker excuses anything for it: the other clocks
    /// are a majority.
    Jump {
        /// Which.
        host: usize,
        /// How far.
        by_ms: i64,
        /// How long this lasts.
        for_ms: u64,
    },
    /// A host's wall clock runs fast, or slow when negative, until everything heals.
    Drift {
        /// Which.
        host: usize,
        /// Milliseconds gained in a second.
        ms_per_s: i64,
    },
    /// One way between two hosts closes and opens in turn.
    Flap {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How long it is closed, and then open.
        every_ms: u64,
        /// How long this lasts.
        for_ms: u64,
    },
    /// Packets of one way are lost; the connection sends them again, later each time.
    Lose {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How many in a hundred.
        percent: u8,
        /// How long this lasts.
        for_ms: u64,
    },
    /// Frames of one way come a second time, late and so out of order, as far as they may be said twice.
    Double {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How many in a hundred.
        percent: u8,
        /// How long this lasts.
        for_ms: u64,
    },
    /// A host's disk refuses writes and syncs until the host has been started again.
    FailDisk {
        /// Which.
        host: usize,
        /// Until it is started again, with what its disk had synced.
        down_ms: u64,
    },
    /// A host's disk fills: it has little room at first, then none, and then room again. The host goes on throughout.
    FillDisk {
        /// Which.
        host: usize,
        /// Until it has room again.
        down_ms: u64,
    },
    /// Every sync of a host's disk takes longer.
    SlowDisk {
        /// Which.
        host: usize,
        /// How much longer.
        by_ms: u64,
        /// How long this lasts.
        for_ms: u64,
    },
    /// Bits of records on a host's disk flip.
    FlipBits {
        /// Which.
        host: usize,
        /// How many.
        bits: u8,
    },
    /// A host dies and comes back with an empty data directory.
    LoseDirectory {
        /// Which.
        host: usize,
        /// Until it is started again.
        down_ms: u64,
    },
    /// A host dies and comes back with its data directory as it was when the storm began, provided that the
    /// cluster has agreed to a later start of it.
    RollBack {
        /// Which.
        host: usize,
        /// Until it is started again.
        down_ms: u64,
    },
    /// A host that was not among the founders joins.
    Join {
        /// Which; numbered after the founders.
        host: usize,
    },
    /// A host is told to give its data away and to leave.
    Leave {
        /// Which.
        host: usize,
    },
    /// A host is told to give its data away, and later to take its share again.
    Drain {
        /// Which.
        host: usize,
        /// How long it stays without.
        for_ms: u64,
    },
    /// A host's share changes.
    Weigh {
        /// Which.
        host: usize,
        /// Relative to the others, which have 100.
        weight: u32,
    },
    /// What moves is turned back.
    Revert,
    /// A bucket gets another number of copies.
    Respread {
        /// Its number.
        bucket: u32,
        /// The copies.
        replicas: u8,
    },
    /// Every partition is halved, as soon as nothing moves.
    Split,
    /// A client of a host clears a bucket.
    Clear {
        /// Which host.
        host: usize,
        /// The bucket's number: that of one whose clients write registers and counters.
        bucket: u32,
    },
    /// Hosts that are no members speak to a host in valid messages.
    Strangers {
        /// Whom they speak to.
        host: usize,
        /// How long.
        for_ms: u64,
    },
    /// Most voters of the layout group are lost for good, and given up by the operator, who recovers one that is left.
    LoseMajority {
        /// How long after that they come back all the same; never when absent.
        back_ms: Option<u64>,
    },
}

/// The faults of a run, in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// When, after the cluster has formed, and what.
    pub faults: Vec<(u64, Fault)>,
}

/// What a run's faults may cost: drawn once, so that its checkers can still promise something.
#[derive(Clone, Copy)]
struct Stakes {
    /// Which hosts may lose what they have not synced.
    power: Power,
    /// Whether wall clocks may be wrong.
    is_skewed: bool,
    /// The host whose whole disk may be lost, rolled back or damaged.
    lost: Option<usize>,
}

#[derive(Clone, Copy)]
enum Power {
    Safe,
    Prone(usize),
    AllProne,
}

impl Plan {
    /// How many hosts there are with those that join.
    #[must_use]
    pub fn hosts(&self, founders: usize) -> usize {
        let joining = self.faults.iter().map(|(_, fault)| match fault {
            Fault::Join { host } => host + 1,
            _ => 0,
        });
        joining.max().unwrap_or(0).max(founders)
    }

    /// Adds joins, drains and leaves to the plan of a seed, one for every other seed.
    fn stir(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x6d6f_7669_6e67);
        let is_blocked = |fault: &Fault| matches!(fault, Fault::RollBack { .. } | Fault::FlipBits { .. });
        if rng.bool() || self.faults.iter().any(|(_, fault)| is_blocked(fault)) {
            return;
        }
        let mut joined = hosts;
        let mut leaver = None;
        for _ in 0..rng.usize(1..5) {
            let host = rng.usize(..hosts);
            let fault = match rng.u8(..8) {
                0..=2 if joined < hosts + 2 => {
                    joined += 1;
                    Fault::Join { host: joined - 1 }
                }
                3 | 4 => Fault::Drain { host, for_ms: rng.u64(200..4_000) },
                5 => Fault::Weigh { host, weight: rng.u32(1..4) * 50 },
                6 if leaver.is_none() => {
                    leaver = Some(host);
                    Fault::Leave { host }
                }
                _ => Fault::Revert,
            };
            self.faults.push((rng.u64(..storm_ms * 3 / 4), fault));
        }
    }

    /// Splits all partitions once or twice, in one of four seeds.
    fn split(&mut self, seed: u64, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0073_706c_6974);
        if rng.u8(..4) > 0 {
            return;
        }
        for _ in 0..rng.usize(1..=2) {
            self.faults.push((rng.u64(..storm_ms * 3 / 4), Fault::Split));
        }
    }

    /// Lets frames come twice, on some ways, in one of three seeds.
    fn double(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0064_6f75_626c_6500);
        if rng.u8(..3) > 0 {
            return;
        }
        for _ in 0..rng.usize(1..4) {
            let from = rng.usize(..hosts);
            let to = (from + rng.usize(1..hosts)) % hosts;
            let fault = Fault::Double { from, to, percent: rng.u8(5..60), for_ms: rng.u64(500..4_000) };
            self.faults.push((rng.u64(..storm_ms), fault));
        }
    }

    /// Lets the clock of one host jump, in one of two seeds.
    pub(crate) fn jump(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x6a75_6d70);
        // Of two clocks neither is a majority, and those that are left of a lost one may be wrong.
        let is_thinning = |fault: &Fault| matches!(fault, Fault::LoseMajority { .. } | Fault::Leave { .. });
        if rng.bool() || hosts < 3 || self.faults.iter().any(|(_, fault)| is_thinning(fault)) {
            return;
        }
        let host = rng.usize(..hosts);
        for _ in 0..rng.usize(1..4) {
            let far_ms = if rng.bool() { 7_200_000 } else { rng.i64(6_000..60_000) };
            let by_ms = if rng.u8(..4) > 0 { far_ms } else { -far_ms };
            let fault = Fault::Jump { host, by_ms, for_ms: rng.u64(500..5_000) };
            self.faults.push((rng.u64(..storm_ms), fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Lets strangers speak to some hosts, in one of three seeds.
    fn invite(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0069_6e76_6974_6500);
        if rng.u8(..3) > 0 {
            return;
        }
        for _ in 0..rng.usize(1..4) {
            let fault = Fault::Strangers { host: rng.usize(..hosts), for_ms: rng.u64(500..4_000) };
            self.faults.push((rng.u64(..storm_ms), fault));
        }
    }

    /// Lets a host sleep for hours, in one of so many seeds.
    pub(crate) fn send_to_sleep(&mut self, seed: u64, hosts: usize, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0073_6c65_6570);
        // A clock that drifts for hours would excuse too much.
        let is_drifting = self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Drift { .. }));
        if rng.u64(..SEEDS_PER_SLEEP) == 0 && !is_drifting {
            let host = rng.usize(..hosts);
            let at = rng.u64(storm_ms / 4..storm_ms);
            self.faults.push((at, Fault::Sleep { host, for_ms: rng.u64(2..4) * 1_800_000 }));
            self.faults.sort_by_key(|(at, _)| *at);
        }
    }

    /// Lets buckets get other numbers of copies, in one of three seeds.
    pub(crate) fn respread(&mut self, seed: u64, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x7370_7265_6164);
        // What has one copy only must not be damaged, nor lost.
        let is_damaging = |fault: &Fault| matches!(fault, Fault::RollBack { .. } | Fault::FlipBits { .. });
        if rng.u8(..3) > 0 || self.faults.iter().any(|(_, fault)| is_damaging(fault)) {
            return;
        }
        let is_one_lost = self.faults.iter().any(|(_, fault)| matches!(fault, Fault::LoseDirectory { .. }));
        let fewest = if is_one_lost || rng.bool() { COPIES_ENOUGH } else { 1 };
        for _ in 0..rng.usize(1..6) {
            let bucket = rng.choice(RESPREAD).unwrap_or_default();
            let fault = Fault::Respread { bucket, replicas: rng.u8(fewest..=5) };
            self.faults.push((rng.u64(..storm_ms * 3 / 4), fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Whether any bucket gets fewer copies than those with which a majority bears the loss of one.
    #[must_use]
    pub fn is_thin(&self) -> bool {
        let is_thin =
            |fault: &Fault| matches!(fault, Fault::Respread { replicas, .. } if *replicas < COPIES_ENOUGH);
        self.faults.iter().any(|(_, fault)| is_thin(fault))
    }

    /// When the last host that sleeps wakes, in milliseconds from the beginning of the storm.
    #[must_use]
    pub fn wakes_ms(&self) -> Option<u64> {
        let wakes = |(at, fault): &(u64, Fault)| match fault {
            Fault::Sleep { for_ms, .. } => Some(at + for_ms),
            _ => None,
        };
        self.faults.iter().filter_map(wakes).max()
    }

    /// The plan of a seed for a storm of `storm_ms` over `hosts` hosts, of which there are at least two.
    #[must_use]
    pub fn draw(seed: u64, hosts: usize, storm_ms: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0070_6c61_6e00);
        let power = match rng.u8(..3) {
            0 => Power::Safe,
            1 => Power::Prone(rng.usize(..hosts)),
            _ => Power::AllProne,
        };
        let stakes = Stakes {
            power,
            is_skewed: rng.u8(..3) == 0,
            lost: (rng.u8(..4) == 0 && matches!(power, Power::Safe)).then(|| rng.usize(..hosts)),
        };
        let mut faults: Vec<(u64, Fault)> = (0..rng.usize(4..12))
            .filter_map(|_| {
                let at = rng.u64(..storm_ms);
                fault(&mut rng, hosts, stakes).map(|fault| (at, fault))
            })
            .collect();
        if let Some(host) = stakes.lost {
            let at = rng.u64(storm_ms / 2..storm_ms);
            let down_ms = rng.u64(50..1_000);
            let fault = match rng.u8(..3) {
                0 => Fault::LoseDirectory { host, down_ms },
                1 => Fault::RollBack { host, down_ms },
                _ => Fault::FlipBits { host, bits: rng.u8(1..20) },
            };
            faults.push((at, fault));
        }
        let mut plan = Self { faults };
        plan.stir(seed, hosts, storm_ms);
        plan.double(seed, hosts, storm_ms);
        plan.split(seed, storm_ms);
        plan.invite(seed, hosts, storm_ms);
        plan.faults.sort_by_key(|(at, _)| *at);
        plan
    }

    /// The furthest two wall clocks are ever apart in a storm of `storm_ms`, in milliseconds; true time counts
    /// as one.
    #[must_use]
    pub fn skew_ms(&self, storm_ms: u64) -> u64 {
        let errors = || {
            let of = |(at, fault): &(u64, Fault)| match fault {
                Fault::Skew { by_ms, .. } => Some(*by_ms),
                Fault::Drift { ms_per_s, .. } => {
                    let seconds = storm_ms.saturating_sub(*at).div_ceil(1_000);
                    Some(ms_per_s.saturating_mul(i64::try_from(seconds).unwrap_or(i64::MAX)))
                }
                _ => None,
            };
            self.faults.iter().filter_map(of)
        };
        let ahead: i64 = errors().filter(|error| *error > 0).sum();
        let behind: i64 = errors().filter(|error| *error < 0).sum();
        ahead.abs_diff(behind)
    }
}

impl Plan {
    /// How many milliseconds a value may last beyond the skew. A host with a clock that has jumped reads the other clocks
    /// with an error. One that has jumped back wins while no majority answers, and the time by which values are dropped
    /// goes forward again after a rest.
    #[must_use]
    pub fn late_ms(&self) -> u64 {
        let late = |(_, fault): &(u64, Fault)| match fault {
            Fault::Jump { by_ms, .. } if *by_ms < 0 => by_ms.unsigned_abs() + DROP_REST_MS,
            Fault::Jump { .. } => READING_ERROR_MS,
            _ => 0,
        };
        self.faults.iter().map(late).max().unwrap_or(0)
    }
}

fn fault(rng: &mut Rng, hosts: usize, stakes: Stakes) -> Option<Fault> {
    let host = rng.usize(..hosts);
    let other = (host + rng.usize(1..hosts)) % hosts;
    let (from, to) = (host, other);
    let for_ms = rng.u64(100..3_500);
    let down_ms = rng.u64(50..3_000);
    let is_prone = match stakes.power {
        Power::Safe => false,
        Power::Prone(prone) => prone == host,
        Power::AllProne => true,
    };
    Some(match rng.u8(..18) {
        0..=2 => Fault::Kill { host, down_ms, loses_power: is_prone && rng.bool() },
        3 => Fault::KillAll { down_ms, loses_power: matches!(stakes.power, Power::AllProne) && rng.bool() },
        4 | 5 => Fault::Cut { from, to, for_ms },
        6 => Fault::Isolate { host, for_ms },
        7 => Fault::Slow { from, to, by_ms: rng.u64(10..400), for_ms },
        8 => Fault::Reset { a: host, b: other },
        9 => Fault::Pause { host, for_ms },
        10 => Fault::Flap { from, to, every_ms: rng.u64(20..600), for_ms },
        11 => Fault::Lose { from, to, percent: rng.u8(5..60), for_ms },
        12 => Fault::SlowDisk { host, by_ms: rng.u64(5..300), for_ms },
        13 => Fault::FillDisk { host, down_ms },
        14 if stakes.is_skewed => Fault::Skew { host, by_ms: rng.i64(-400..400) },
        15 if stakes.is_skewed => Fault::Drift { host, ms_per_s: rng.i64(-40..40) },
        16 | 17 if is_prone => Fault::FailDisk { host, down_ms },
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
    fn the_skew_adds_up_what_can_add_up() {
        let skew = |by_ms| (0, Fault::Skew { host: 0, by_ms });
        let drift = |at, ms_per_s| (at, Fault::Drift { host: 0, ms_per_s });
        assert_eq!(Plan { faults: vec![skew(-30)] }.skew_ms(8_000), 30);
        assert_eq!(Plan { faults: vec![skew(-30), skew(20)] }.skew_ms(8_000), 50);
        assert_eq!(Plan { faults: vec![skew(-30), drift(5_500, -4)] }.skew_ms(8_000), 42);
    }
}
