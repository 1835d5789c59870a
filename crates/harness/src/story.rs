//! One clock and one account of a run: what happened to which node, and when.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Differences between clocks below this come from rounding to milliseconds.
const ROUNDING_MS: u64 = 2;

/// The run's clock, and what was noted by it.
#[derive(Debug)]
pub(crate) struct Story {
    began: Instant,
    /// Unix time at the beginning.
    epoch_ms: u64,
    lines: Mutex<Vec<(u64, String)>>,
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self { began: Instant::now(), epoch_ms: unix_ms(), lines: Mutex::default() }
    }

    /// Milliseconds since the run began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A time of the run as Unix time.
    pub(crate) fn unix_ms(&self, at_ms: u64) -> u64 {
        self.epoch_ms + at_ms
    }

    /// How far the clock that nodes read has moved away from this one.
    pub(crate) fn skew_ms(&self) -> u64 {
        unix_ms().abs_diff(self.unix_ms(self.now_ms())) + ROUNDING_MS
    }

    pub(crate) fn note(&self, what: impl Into<String>) {
        self.lines.lock().push((self.now_ms(), what.into()));
    }

    pub(crate) fn note_node(&self, node: usize, what: &str) {
        self.note(format!("node {node}: {what}"));
    }

    pub(crate) fn lines(&self) -> Vec<(u64, String)> {
        self.lines.lock().clone()
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
