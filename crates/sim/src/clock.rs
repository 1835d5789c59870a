//! The wall clock all simulated nodes look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use slipring_node::Clock;

/// Simulated milliseconds since the Unix epoch.
#[derive(Clone)]
pub(crate) struct SimClock(Arc<AtomicU64>);

impl SimClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000_000)))
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
