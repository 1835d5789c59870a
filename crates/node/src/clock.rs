//! The node's sources of time and randomness, so that a simulator can hand in its own.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// What time this node's wall clock shows. Only the comparison of clocks looks at it: requests go by the agreed time.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> u64;

    /// Microseconds since the Unix epoch, as exactly as the clock knows.
    fn wall_us(&self) -> u64 {
        self.wall_ms().saturating_mul(1_000)
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn wall_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Where ids and draws come from.
#[derive(Debug)]
pub enum Entropy {
    /// The operating system.
    System,
    /// A seeded generator, for runs that must repeat.
    Seeded(Mutex<fastrand::Rng>),
}

impl Entropy {
    /// A source that gives the same bytes for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Mutex::new(fastrand::Rng::with_seed(seed)))
    }

    /// Fresh random bytes.
    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match self {
            Self::System => getrandom::fill(&mut bytes).expect("the operating system gives randomness"),
            Self::Seeded(rng) => rng.lock().fill(&mut bytes),
        }
        bytes
    }
}
