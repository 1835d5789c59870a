//! When the values of a partition end: the soonest ends and where their keys are, so that dropping what has expired
//! reads nothing else.
//!
//! An end without its key takes about 37 bytes, and a bucket remembers a million of them at most, the soonest. Time
//! reaches those that were forgotten only after those that were not: then the partition is read through once, and
//! the soonest of what is left are remembered.
//!
//! Invariant: every end before `known_before` is in `soonest`, but for those of records not read yet while `reading`
//! is set, or while the partition is being counted.

use std::collections::BTreeSet;

use slipring_model::Position;

/// Ends that a bucket remembers.
const ENDS_MAX: usize = 1 << 20;

/// The ends of one partition.
pub(super) struct Ends {
    /// Unix milliseconds, and the position of the key.
    soonest: BTreeSet<(u64, u64)>,
    known_before: u64,
    /// From where on the partition is still to be read.
    reading: Option<Position>,
    /// How many are remembered.
    max: usize,
}

impl Default for Ends {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Ends {
    /// Nothing ends yet, in a partition that is one of `1 << bits`.
    pub(super) fn new(bits: u8) -> Self {
        Self { soonest: BTreeSet::new(), known_before: u64::MAX, reading: None, max: ENDS_MAX >> bits }
    }

    /// The record at a position ended at one time and now ends at another.
    pub(super) fn note(&mut self, at: Position, before: Option<u64>, after: Option<u64>) {
        if before == after {
            return;
        }
        if let Some(end) = before {
            self.soonest.remove(&(end, at.0));
        }
        if let Some(end) = after {
            self.add(end, at);
        }
    }

    /// A record at a position ends then.
    pub(super) fn add(&mut self, end: u64, at: Position) {
        if end >= self.known_before {
            return;
        }
        self.soonest.insert((end, at.0));
        while self.soonest.len() > self.max {
            self.known_before = self.soonest.pop_last().map_or(0, |(end, _)| end);
        }
    }

    /// How many have passed at `now_ms` within a range of positions.
    pub(super) fn passed(&self, now_ms: u64, from: Position, to: Position) -> usize {
        let passed = self.soonest.range(..=(now_ms, u64::MAX));
        passed.filter(|(_, at)| (from.0..=to.0).contains(at)).count()
    }

    /// How many have passed at `now_ms`, counted up to `limit`.
    pub(super) fn passed_up_to(&self, limit: usize, now_ms: u64) -> usize {
        self.soonest.range(..=(now_ms, u64::MAX)).take(limit).count()
    }

    /// Takes out where the soonest of those are that have passed at `now_ms`.
    pub(super) fn take_passed(&mut self, limit: usize, now_ms: u64) -> Vec<Position> {
        let mut taken = Vec::new();
        while taken.len() < limit && self.soonest.first().is_some_and(|(end, _)| *end <= now_ms) {
            taken.extend(self.soonest.pop_first().map(|(_, at)| Position(at)));
        }
        taken
    }

    /// Whether anything is to be done at `now_ms`.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.reading.is_some()
            || self.must_read(now_ms)
            || self.soonest.first().is_some_and(|(end, _)| *end <= now_ms)
    }

    /// Where to read on to learn of forgotten ends, if the time of any may have come.
    pub(super) fn read_on(&mut self, now_ms: u64, start: Position) -> Option<Position> {
        if self.reading.is_none() && self.must_read(now_ms) {
            (self.reading, self.known_before) = (Some(start), u64::MAX);
        }
        self.reading
    }

    /// The partition was read up to here.
    pub(super) fn read_until(&mut self, next: Option<Position>) {
        self.reading = next;
    }

    /// What is remembered may not be all.
    pub(super) fn doubt(&mut self) {
        (self.reading, self.known_before) = (None, 0);
    }

    /// Nothing is left that ends.
    pub(super) fn clear(&mut self) {
        (self.reading, self.known_before) = (None, u64::MAX);
        self.soonest.clear();
    }

    /// The ends of a part of the partition, one of `1 << bits`.
    pub(super) fn within(&self, from: Position, to: Position, bits: u8) -> Self {
        let known_before = if self.reading.is_some() { 0 } else { self.known_before };
        let mut part = Self { known_before, ..Self::new(bits) };
        let inside = self.soonest.iter().filter(|(_, at)| (from.0..=to.0).contains(at));
        inside.for_each(|(end, at)| part.add(*end, Position(*at)));
        part
    }

    /// It waits until there is room for what it will learn.
    fn must_read(&self, now_ms: u64) -> bool {
        self.known_before <= now_ms && self.soonest.len() <= self.max / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BITS: u8 = 18;
    const MAX: u64 = 4;

    fn filled(ends: impl Iterator<Item = u64>) -> Ends {
        let mut found = Ends::new(BITS);
        ends.for_each(|end| found.add(end, Position(end)));
        found
    }

    #[test]
    fn ends_come_out_soonest_first_and_once() {
        let mut ends = Ends::new(BITS);
        ends.note(Position(1), None, Some(30));
        ends.note(Position(2), None, Some(10));
        ends.note(Position(3), None, Some(20));
        ends.note(Position(3), Some(20), None);
        ends.note(Position(1), Some(30), Some(5));
        assert!(!ends.is_due(4) && ends.is_due(5));
        assert_eq!(ends.take_passed(9, 4), []);
        assert_eq!(ends.take_passed(1, 10), [Position(1)]);
        assert_eq!(ends.take_passed(9, 10), [Position(2)]);
        assert!(!ends.is_due(u64::MAX - 1));
    }

    #[test]
    fn passed_ends_are_counted_within_a_range() {
        let ends = filled([1, 2, 3].into_iter());
        let passed = |now_ms, from, to| ends.passed(now_ms, Position(from), Position(to));
        assert_eq!((passed(0, 0, 9), passed(2, 0, 9), passed(3, 2, 3), passed(3, 3, 3)), (0, 2, 2, 1));
        assert_eq!((ends.passed_up_to(2, 9), ends.passed_up_to(9, 2)), (2, 2));
    }

    #[test]
    fn forgotten_ends_are_read_again_when_their_time_comes() {
        for count in [MAX - 1, MAX] {
            assert!(!filled(1..=count).must_read(u64::MAX - 1), "{count} are remembered");
        }
        let mut ends = filled((1..=MAX + 2).rev());
        assert_eq!(ends.passed_up_to(9, 99), 4, "the latest two are forgotten");
        assert_eq!(ends.read_on(5, Position(0)), None, "there is no room for them yet");
        assert_eq!(ends.take_passed(9, 4).len(), 4);
        assert_eq!(ends.read_on(4, Position(0)), None, "their time has not come");
        assert!(ends.is_due(5) && !ends.is_due(4));
        assert_eq!(ends.read_on(5, Position(0)), Some(Position(0)));
        assert_eq!(ends.read_on(5, Position(7)), Some(Position(0)), "it goes on");
        [5, 6].into_iter().for_each(|end| ends.add(end, Position(end)));
        ends.read_until(None);
        assert_eq!((ends.take_passed(9, 6).len(), ends.is_due(99)), (2, false));
    }

    #[test]
    fn doubt_reads_all_again_and_a_part_takes_its_own() {
        let mut ends = filled([1, 8].into_iter());
        let part = ends.within(Position(5), Position(9), BITS);
        assert_eq!((part.passed_up_to(9, 99), part.must_read(99)), (1, false));
        ends.doubt();
        assert_eq!(ends.read_on(0, Position(3)), Some(Position(3)));
        assert!(ends.within(Position(5), Position(9), BITS).must_read(0), "the whole was not read yet");
        ends.clear();
        assert!(!ends.is_due(99));
    }
}
