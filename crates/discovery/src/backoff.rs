//! How long to wait before a source that failed is asked again.

use std::time::Duration;

/// The first rest and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Rests that double with each failure in a row, each shortened by a drawn part of it, so that nodes that
/// lost a source together do not come back together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Something went well: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to rest after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        let (first, longest) = RESTS;
        let rest = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        rest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let rests: Vec<Duration> = (0..100).map(|_| backoff.next()).collect();
        assert!(rests[0] <= RESTS.0 && rests[0] >= RESTS.0 / 2);
        assert!(rests[20..].iter().all(|rest| *rest <= RESTS.1 && *rest >= RESTS.1 / 2));
        backoff.reset();
        assert!(backoff.next() <= RESTS.0);
    }
}
