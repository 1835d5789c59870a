//! How long to wait before a source that failed is asked again.

use std::time::Duration;

/// The first rest and the longest.
const RESTS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// The longest rest that a source is granted when it asks for one.
const GRANTED_MAX: Duration = Duration::from_secs(60);

/// Rests that double with each failure in a row, each shortened by a drawn part of it, so that nodes that
/// lost a source together do not come back together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Something went well for so long. When it has lasted, the next failure is a first one; what answers and fails
    /// at once, over and over, must not be asked as often as that.
    pub(crate) fn went_well(&mut self, lasted: Duration) {
        if lasted >= RESTS.1 {
            self.failures = 0;
        }
    }

    /// How long to rest after one more failure: at least as long as was asked for, within reason.
    pub(crate) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let (first, longest) = RESTS;
        let rest = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        let drawn = rest.mul_f64(0.5 + fastrand::f64() / 2.0);
        asked.map_or(drawn, |asked| asked.min(GRANTED_MAX) + drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_the_longest_and_begin_anew_after_a_success_that_lasted() {
        let mut backoff = Backoff::default();
        let rests: Vec<Duration> = (0..100).map(|_| backoff.next(None)).collect();
        assert!(rests[0] <= RESTS.0 && rests[0] >= RESTS.0 / 2);
        assert!(rests[20..].iter().all(|rest| *rest <= RESTS.1 && *rest >= RESTS.1 / 2));
        backoff.went_well(Duration::from_secs(1));
        assert!(backoff.next(None) >= RESTS.1 / 2);
        backoff.went_well(RESTS.1);
        assert!(backoff.next(None) <= RESTS.0);
    }

    #[test]
    fn a_rest_that_is_asked_for_is_granted_within_reason() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(3);
        let rest = backoff.next(Some(asked));
        assert!(rest > asked && rest <= asked + RESTS.0, "{rest:?}");
        assert!(backoff.next(Some(Duration::MAX)) <= GRANTED_MAX + RESTS.1);
    }
}
