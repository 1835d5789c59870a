//! What goes wrong in a run, and when: drawn from the seed.

/// One thing that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies and starts again after so many milliseconds. What was written stays.
    Crash {
        /// Which host.
        host: usize,
        /// How long it is away.
        away_ms: u64,
    },
    /// Every process dies at once; all start again after so many milliseconds.
    CrashAll {
        /// How long they are away.
        away_ms: u64,
    },
    /// The power of one host fails: what was not synced is gone.
    PowerLoss {
        /// Which host.
        host: usize,
        /// How long it is away.
        away_ms: u64,
    },
    /// Messages from one host to another are lost for so many milliseconds.
    Cut {
        /// The sender.
        from: usize,
        /// The receiver.
        to: usize,
        /// Whether the other direction is cut too.
        is_two_way: bool,
        /// How long.
        for_ms: u64,
    },
    /// Every message takes so many milliseconds longer, for so many milliseconds.
    Delay {
        /// How much longer.
        by_ms: u64,
        /// How long.
        for_ms: u64,
    },
    /// A connection breaks, and with it whatever was on the way.
    Reset {
        /// One end.
        from: usize,
        /// The other.
        to: usize,
    },
    /// A host does nothing at all for so many milliseconds.
    Pause {
        /// Which host.
        host: usize,
        /// How long.
        for_ms: u64,
    },
}

/// Faults and the simulated millisecond of each, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<(u64, Fault)>);

impl Plan {
    /// A plan for `hosts` hosts over `duration_ms`, drawn from `rng`.
    ///
    /// Power fails once at the most: a buffered bucket promises no more.
    #[must_use]
    pub fn draw(rng: &mut fastrand::Rng, hosts: usize, duration_ms: u64) -> Self {
        let mut faults: Vec<(u64, Fault)> = Vec::new();
        let mut has_lost_power = false;
        for _ in 0..rng.usize(2..6) {
            let at = rng.u64(0..duration_ms);
            let (host, other) = (rng.usize(0..hosts), rng.usize(1..hosts));
            let to = (host + other) % hosts;
            let fault = match rng.u8(0..8) {
                0 | 1 => Fault::Crash { host, away_ms: rng.u64(10..2_000) },
                2 => Fault::CrashAll { away_ms: rng.u64(10..500) },
                3 if !has_lost_power => {
                    has_lost_power = true;
                    Fault::PowerLoss { host, away_ms: rng.u64(10..2_000) }
                }
                3 | 4 => Fault::Cut { from: host, to, is_two_way: rng.bool(), for_ms: rng.u64(100..4_000) },
                5 => Fault::Delay { by_ms: rng.u64(1..80), for_ms: rng.u64(100..2_000) },
                6 => Fault::Reset { from: host, to },
                _ => Fault::Pause { host, for_ms: rng.u64(50..3_000) },
            };
            faults.push((at, fault));
        }
        faults.sort_by_key(|(at, _)| *at);
        Self(faults)
    }
}
