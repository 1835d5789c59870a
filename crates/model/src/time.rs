//! Time as a value: moments for timers, timestamps for ordering concurrent writes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on a node's own monotonic clock, in microseconds since that clock's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `after` this one; saturates.
    #[must_use]
    pub fn after(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A hybrid logical clock reading: milliseconds since the Unix epoch in the top 48 bits, a counter below.
///
/// Source: Kulkarni et al., "Logical Physical Clocks" (2014).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest that there is, some time in the year 4199: clocks that say more are taken to say this, and cells
    /// with later stamps are no cells. Writes that meet here are told apart by what they have seen.
    pub const LATEST: Self = Self(1 << 62);

    /// The earliest timestamp of a wall-clock millisecond.
    #[must_use]
    pub fn from_unix_ms(ms: u64) -> Self {
        Self(ms.min(Self::LATEST.unix_ms()) << 16)
    }

    /// The wall-clock part, milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0 >> 16
    }

    /// A stamp for a new write: not before `wall`, and after both stamps given, as far as there are later ones.
    #[must_use]
    pub fn next(wall_ms: u64, last: Self, stored: Self) -> Self {
        let floor = last.max(stored).0.saturating_add(1);
        Self(Self::from_unix_ms(wall_ms).0.max(floor)).min(Self::LATEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_always_after_what_it_replaces() {
        let stored = Timestamp::from_unix_ms(90);
        assert!(Timestamp::next(10, Timestamp(0), stored) > stored);
        assert_eq!(Timestamp::next(100, Timestamp(0), stored), Timestamp::from_unix_ms(100));
        assert_eq!(Timestamp::next(90, stored, Timestamp(0)).unix_ms(), 90, "the counter is not time");
    }

    #[test]
    fn no_clock_and_no_number_of_writes_leads_beyond_the_latest_stamp() {
        let Timestamp(latest) = Timestamp::LATEST;
        for ms in [(1 << 46) - 1, 1 << 46, (1 << 46) + 1, 1 << 48, u64::MAX] {
            let stamp = Timestamp::next(ms, Timestamp(0), Timestamp(0));
            assert_eq!(stamp == Timestamp::LATEST, ms >= 1 << 46, "{ms}");
            assert!(stamp <= Timestamp::LATEST);
        }
        let after = |stored| Timestamp::next(7, Timestamp(0), Timestamp(stored));
        assert_eq!(after(latest - 2), Timestamp(latest - 1));
        assert_eq!([latest - 1, latest, u64::MAX].map(after), [Timestamp::LATEST; 3]);
    }

    #[test]
    fn moments_saturate_at_both_ends() {
        let later = Moment(7).after(Duration::from_micros(5));
        assert_eq!((later, later.since(Moment(7))), (Moment(12), Duration::from_micros(5)));
        assert_eq!(Moment(7).since(later), Duration::ZERO);
        assert_eq!(later.after(Duration::MAX), Moment(u64::MAX));
    }
}
