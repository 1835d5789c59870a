//! A clock that is not believed at once: what it shows after a step counts when it has stood for a while.
//!
//! Invariant: between two steps the believed clock follows the one that is seen; a step that is undone leaves no trace.

use std::time::Duration;

use slipring_model::Moment;

/// A step that is no larger is followed at once, in microseconds.
pub(super) const STEP_US: i64 = 2_000_000;

/// How long a clock must stand after a step before it is believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// After a step forward.
    pub(super) ahead: Duration,
    /// After a step back.
    pub(super) back: Duration,
}

/// A clock as an offset to this node's monotonic clock, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Steady {
    believed: Option<i64>,
    /// Where it stands after a step, and since when.
    stepped: Option<(i64, Moment)>,
}

impl Steady {
    /// Believes this clock without any rest.
    pub(super) fn believe(&mut self, offset_us: i64) {
        *self = Self { believed: Some(offset_us), stepped: None };
    }

    /// The believed offset.
    pub(super) fn offset_us(&self) -> Option<i64> {
        self.believed
    }

    /// The clock is seen at this offset. One that was never believed must stand as after a step forward.
    pub(super) fn see(&mut self, now: Moment, offset_us: i64, rest: Rest) {
        let is_near = |other: i64| offset_us.abs_diff(other) <= STEP_US.unsigned_abs();
        let rest = match self.believed {
            Some(believed) if is_near(believed) => return self.believe(offset_us),
            Some(believed) if offset_us < believed => rest.back,
            _ => rest.ahead,
        };
        let since = match self.stepped {
            Some((at, since)) if is_near(at) => since,
            _ => now,
        };
        match now.since(since) >= rest {
            true => self.believe(offset_us),
            false => self.stepped = Some((offset_us, since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Rest = Rest { ahead: Duration::from_secs(10), back: Duration::ZERO };

    /// What is believed after each second's sight of a clock.
    fn believed(first: Option<i64>, seen: &[i64]) -> Vec<Option<i64>> {
        let mut clock = Steady::default();
        first.into_iter().for_each(|offset_us| clock.believe(offset_us));
        let mut see = |(second, offset_us): (usize, &i64)| {
            clock.see(Moment(second as u64 * 1_000_000), *offset_us, REST);
            clock.offset_us()
        };
        seen.iter().enumerate().map(&mut see).collect()
    }

    #[test]
    fn a_step_is_followed_at_once_up_to_the_limit() {
        for (step, is_followed) in
            [(1_999_999, true), (2_000_000, true), (2_000_001, false), (7_200_000_000, false)]
        {
            let expected = if is_followed { step } else { 0 };
            assert_eq!(believed(Some(0), &[step]), [Some(expected)], "{step}");
        }
    }

    #[test]
    fn a_step_forward_counts_when_it_has_stood() {
        let mut seen = vec![7_200_000_000; 11];
        seen.push(7_200_100_000);
        let all = believed(Some(0), &seen);
        assert_eq!(all.iter().take(10).collect::<Vec<_>>(), vec![&Some(0); 10]);
        assert_eq!(all.iter().skip(10).collect::<Vec<_>>(), [&Some(7_200_000_000), &Some(7_200_100_000)]);
    }

    #[test]
    fn a_step_that_is_undone_begins_its_rest_again() {
        let mut seen = vec![6_000_000; 9];
        seen.push(0);
        seen.extend([6_000_000; 10]);
        assert!(believed(Some(0), &seen).iter().all(|offset_us| *offset_us == Some(0)));
    }

    #[test]
    fn a_step_back_needs_no_rest_where_none_is_asked_for() {
        assert_eq!(
            believed(Some(0), &[-7_200_000_000, -7_199_000_000]),
            [Some(-7_200_000_000), Some(-7_199_000_000)]
        );
    }

    #[test]
    fn a_clock_that_was_never_believed_must_stand_first() {
        let all = believed(None, &[5; 11]);
        assert_eq!(all.iter().filter(|offset_us| offset_us.is_none()).count(), 10);
        assert_eq!(all.last(), Some(&Some(5)));
    }
}
