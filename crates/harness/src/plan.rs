//! What goes wrong in a run, and when: drawn from a seed, or written by hand.
//!
//! Invariant: a plan that is drawn has every kind of fault, each as often as any other, give or take one.

use fastrand::Rng;

/// One fault. Nodes are numbered from 0; every time is in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed and started again.
    Kill {
        /// Which.
        node: usize,
        /// Until it is started again.
        down_ms: u64,
    },
    /// All processes are killed at once.
    KillAll {
        /// Until they are started again.
        down_ms: u64,
    },
    /// The process is stopped, and goes on later as if nothing had been.
    Pause {
        /// Which.
        node: usize,
        /// How long.
        for_ms: u64,
    },
    /// Nothing more fits on a node's disk. A node that gives up is started again afterwards.
    FillDisk {
        /// Which.
        node: usize,
        /// How long.
        for_ms: u64,
    },
    /// Bytes of one node wait on their way to another; they arrive when the cut is over.
    Cut {
        /// Whose bytes wait.
        from: usize,
        /// Who waits for them.
        to: usize,
        /// How long.
        for_ms: u64,
    },
    /// A cut between two nodes, both ways.
    CutBoth {
        /// One.
        a: usize,
        /// The other.
        b: usize,
        /// How long.
        for_ms: u64,
    },
    /// A cut between one node and all others, both ways.
    Isolate {
        /// Which.
        node: usize,
        /// How long.
        for_ms: u64,
    },
    /// Bytes of one node vanish on their way to another; connections that lost some break when it is over.
    Drop {
        /// Whose bytes vanish.
        from: usize,
        /// Who does not get them.
        to: usize,
        /// How long.
        for_ms: u64,
    },
    /// Bytes take longer from one node to another.
    Delay {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How much longer.
        by_ms: u64,
        /// How long this lasts.
        for_ms: u64,
    },
    /// Only so much gets from one node to another.
    Throttle {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// How much.
        bytes_per_second: u32,
        /// How long this lasts.
        for_ms: u64,
    },
    /// Every connection between two nodes breaks.
    Reset {
        /// One.
        a: usize,
        /// The other.
        b: usize,
    },
}

/// The kinds of faults.
pub const KINDS: [&str; 11] = [
    "kills",
    "kills of all",
    "pauses",
    "full disks",
    "cuts one way",
    "cuts both ways",
    "isolations",
    "drops",
    "delays",
    "throttles",
    "resets",
];

impl Fault {
    /// Its kind, one of [`KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kills",
            Self::KillAll { .. } => "kills of all",
            Self::Pause { .. } => "pauses",
            Self::FillDisk { .. } => "full disks",
            Self::Cut { .. } => "cuts one way",
            Self::CutBoth { .. } => "cuts both ways",
            Self::Isolate { .. } => "isolations",
            Self::Drop { .. } => "drops",
            Self::Delay { .. } => "delays",
            Self::Throttle { .. } => "throttles",
            Self::Reset { .. } => "resets",
        }
    }

    /// How long it lasts, in milliseconds.
    #[must_use]
    pub fn lasts_ms(&self) -> u64 {
        match *self {
            Self::Kill { down_ms, .. } | Self::KillAll { down_ms } => down_ms,
            Self::Pause { for_ms, .. }
            | Self::FillDisk { for_ms, .. }
            | Self::Cut { for_ms, .. }
            | Self::CutBoth { for_ms, .. }
            | Self::Isolate { for_ms, .. }
            | Self::Drop { for_ms, .. }
            | Self::Delay { for_ms, .. }
            | Self::Throttle { for_ms, .. } => for_ms,
            Self::Reset { .. } => 0,
        }
    }
}

/// The faults of a run, in the order of their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// When, in milliseconds after the cluster has formed, and what.
    pub faults: Vec<(u64, Fault)>,
}

/// Milliseconds of storm for each fault, at most.
const FAULT_EVERY_MS: u64 = 1_500;

impl Plan {
    /// The plan of a seed for a storm of `storm_ms` over `nodes` nodes, of which there are at least two.
    #[must_use]
    pub fn draw(seed: u64, nodes: usize, storm_ms: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = (storm_ms / FAULT_EVERY_MS).max(KINDS.len() as u64);
        let slot_ms = (storm_ms / count).max(1);
        let mut kinds = Vec::new();
        let faults = (0..count).map(|slot| {
            if kinds.is_empty() {
                kinds.extend(KINDS);
                rng.shuffle(&mut kinds);
            }
            let kind = kinds.pop().unwrap_or("resets");
            (slot * slot_ms + rng.u64(..slot_ms), fault(&mut rng, kind, nodes))
        });
        Self { faults: faults.collect() }
    }
}

fn fault(rng: &mut Rng, kind: &str, nodes: usize) -> Fault {
    let node = rng.usize(..nodes);
    let other = (node + rng.usize(1..nodes)) % nodes;
    let (from, to, a, b) = (node, other, node, other);
    let for_ms = rng.u64(300..4_000);
    match kind {
        "kills" => Fault::Kill { node, down_ms: rng.u64(0..2_500) },
        "kills of all" => Fault::KillAll { down_ms: rng.u64(0..1_500) },
        "pauses" => Fault::Pause { node, for_ms },
        "full disks" => Fault::FillDisk { node, for_ms: 1_000 + for_ms / 2 },
        "cuts one way" => Fault::Cut { from, to, for_ms },
        "cuts both ways" => Fault::CutBoth { a, b, for_ms },
        "isolations" => Fault::Isolate { node, for_ms },
        "drops" => Fault::Drop { from, to, for_ms },
        "delays" => Fault::Delay { from, to, by_ms: rng.u64(20..600), for_ms },
        "throttles" => Fault::Throttle { from, to, bytes_per_second: rng.u32(2_000..40_000), for_ms },
        _ => Fault::Reset { a, b },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_faults_in_order() {
        let plan = Plan::draw(7, 3, 60_000);
        assert_eq!(plan, Plan::draw(7, 3, 60_000));
        assert_ne!(plan, Plan::draw(8, 3, 60_000));
        assert!(plan.faults.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert!(plan.faults.iter().all(|(at, _)| *at < 60_000));
    }

    #[test]
    fn even_a_short_storm_has_every_kind_and_no_node_is_its_own_peer() {
        for seed in 0..20 {
            let plan = Plan::draw(seed, 3, 5_000);
            for kind in KINDS {
                assert!(plan.faults.iter().any(|(_, fault)| fault.kind() == kind), "seed {seed}: no {kind}");
            }
            for (_, fault) in plan.faults {
                if let Fault::Cut { from, to, .. } | Fault::Drop { from, to, .. } = fault {
                    assert_ne!(from, to);
                }
            }
        }
    }
}
