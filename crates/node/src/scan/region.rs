//! Parts of the ring that a walk, a count or a clearing is about: the whole ring, or the slots of one node.
//!
//! Invariant: the ranges ascend, and none touches the one behind it.

use std::ops::RangeInclusive;

use slipring_model::{Position, Slot};

/// Ranges of positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    ranges: Vec<RangeInclusive<Position>>,
}

impl Region {
    /// All positions.
    #[must_use]
    pub fn whole() -> Self {
        Self { ranges: vec![Position(0)..=Position(u64::MAX)] }
    }

    /// The positions of slots, given as ranges of them in ascending order.
    #[must_use]
    pub fn of_slots(slots: impl IntoIterator<Item = RangeInclusive<u16>>) -> Self {
        let mut ranges: Vec<RangeInclusive<Position>> = Vec::new();
        for slots in slots {
            let (start, end) = (Slot(*slots.start()).start(), Slot(*slots.end()).end());
            match ranges.last_mut().filter(|last| last.end().0.checked_add(1) == Some(start.0)) {
                Some(last) => *last = *last.start()..=end,
                None => ranges.push(start..=end),
            }
        }
        Self { ranges }
    }

    /// Whether it has a position.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        self.from(position).is_some_and(|rest| *rest.start() == position)
    }

    /// The rest, from a position on, of the range that has it, or else the next range; none behind the last one.
    pub(super) fn from(&self, position: Position) -> Option<RangeInclusive<Position>> {
        let at = self.ranges.partition_point(|range| *range.end() < position);
        self.ranges.get(at).map(|range| position.max(*range.start())..=*range.end())
    }

    /// The first pieces of the region from a position on, so many at most, each within one partition.
    pub(crate) fn pieces(&self, bits: u8, from: Position, count: usize) -> Vec<RangeInclusive<Position>> {
        let mut next = Some(from);
        let piece = || {
            let (start, end) = self.from(next?)?.into_inner();
            let end = end.min(start.partition(bits).end(bits));
            next = end.0.checked_add(1).map(Position);
            Some(start..=end)
        };
        std::iter::from_fn(piece).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 1 << 63;

    fn slots(ranges: &[(u16, u16)]) -> Region {
        Region::of_slots(ranges.iter().map(|(first, last)| *first..=*last))
    }

    #[test]
    fn pieces_begin_and_end_where_they_are_asked_to() {
        let whole = Region::whole();
        let all = whole.pieces(1, Position(5), 9);
        assert_eq!(all, [Position(5)..=Position(HALF - 1), Position(HALF)..=Position(u64::MAX)]);
        assert_eq!(whole.pieces(1, Position(5), 1), [Position(5)..=Position(HALF - 1)]);
        assert_eq!(whole.pieces(1, Position(u64::MAX), 9), [Position(u64::MAX)..=Position(u64::MAX)]);
    }

    #[test]
    fn pieces_leave_out_slots_of_others() {
        let region = slots(&[(0, 3), (8, 11), (12, 16)]);
        let of = |first: u16, last: u16| Slot(first).start()..=Slot(last).end();
        assert_eq!(region, slots(&[(0, 3), (8, 16)]), "neighbours are one range");
        assert_eq!(region.pieces(12, Position(0), 9), [of(0, 3), of(8, 11), of(12, 15), of(16, 16)]);
        assert_eq!(region.pieces(12, Slot(5).start(), 1), [of(8, 11)]);
        assert_eq!(region.pieces(12, Slot(17).start(), 9), []);
    }

    #[test]
    fn positions_are_in_it_from_the_first_to_the_last() {
        let region = slots(&[(2, 3), (5, 5)]);
        let [before, first, last, behind] =
            [Position(Slot(2).start().0 - 1), Slot(2).start(), Slot(3).end(), Slot(4).start()];
        assert_eq!([before, first, last, behind].map(|at| region.contains(at)), [false, true, true, false]);
        assert!(Region::whole().contains(Position(u64::MAX)) && !slots(&[]).contains(Position(0)));
    }
}
