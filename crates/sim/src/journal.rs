//! The journal of a run: simulated time, what happened when, and how often.
//!
//! Invariant: the fingerprint covers every line and every frame, so two runs with equal ones were the same run.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use slipring_node::Clock;

/// What wall clocks show when a run begins: 2026-01-01, in Unix milliseconds.
pub(crate) const EPOCH_MS: u64 = 1_767_225_600_000;

/// What all parts of a run write to.
#[derive(Default)]
pub(crate) struct Journal {
    now_ms: AtomicU64,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    lines: Vec<String>,
    hasher: DefaultHasher,
    counts: BTreeMap<&'static str, u64>,
}

/// What a journal held at the end.
pub(crate) struct Record {
    pub(crate) lines: Vec<String>,
    pub(crate) fingerprint: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Journal {
    /// Milliseconds since the run began.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn advance_to(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Writes a line.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>6} {what}", self.now_ms());
        let mut pages = self.pages.lock();
        pages.hasher.write(line.as_bytes());
        pages.lines.push(line);
    }

    /// Marks bytes that travelled, without writing them down.
    pub(crate) fn mark(&self, from: usize, to: usize, bytes: &[u8]) {
        let mut pages = self.pages.lock();
        pages.hasher.write_u64(self.now_ms());
        pages.hasher.write_usize(from);
        pages.hasher.write_usize(to);
        pages.hasher.write(bytes);
    }

    pub(crate) fn count(&self, what: &'static str, times: u64) {
        if times > 0 {
            *self.pages.lock().counts.entry(what).or_default() += times;
        }
    }

    /// Closes the journal and hands over what it held.
    pub(crate) fn close(&self) -> Record {
        let pages = std::mem::take(&mut *self.pages.lock());
        Record { lines: pages.lines, fingerprint: pages.hasher.finish(), counts: pages.counts }
    }
}

/// One host's wall clock: simulated time, and how far it is off.
pub(crate) struct HostClock {
    journal: Arc<Journal>,
    skew_ms: AtomicI64,
    jump_ms: AtomicI64,
    /// Milliseconds gained in a second, and since when.
    drift: Mutex<(i64, u64)>,
}

impl HostClock {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self { journal, skew_ms: AtomicI64::new(0), jump_ms: AtomicI64::new(0), drift: Mutex::default() }
    }

    /// Sets the clock this far ahead of true time, or behind it when negative.
    pub(crate) fn set_skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }

    /// Lets the clock jump this far beyond its skew, or back onto it.
    pub(crate) fn set_jump(&self, jump_ms: i64) {
        self.jump_ms.store(jump_ms, Ordering::Relaxed);
    }

    /// Lets the clock gain so many milliseconds in a second from now on, or lose them when negative.
    pub(crate) fn set_drift(&self, ms_per_s: i64) {
        *self.drift.lock() = (ms_per_s, self.journal.now_ms());
    }
}

impl Clock for HostClock {
    fn wall_ms(&self) -> u64 {
        let now = self.journal.now_ms();
        let (ms_per_s, since) = *self.drift.lock();
        let drifted = ms_per_s * (now.saturating_sub(since) as i64) / 1_000;
        let off_ms = self.skew_ms.load(Ordering::Relaxed) + self.jump_ms.load(Ordering::Relaxed);
        (EPOCH_MS + now).saturating_add_signed(off_ms + drifted)
    }
}
