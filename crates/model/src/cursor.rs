//! Where a walk over a bucket goes on: a number that every client can hold exactly.
//!
//! JavaScript and many readers of JSON round integers from 2^53 on. So a cursor does not name a position but a cell of
//! 2^11 positions side by side, of which there are 2^53. A walk stops only between two cells.

use crate::Position;

/// How many positions a cell has, as a power of two.
const CELL_BITS: u32 = 11;

/// The first cell that a walk has not seen; the first of all at its beginning, and again at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(u64);

impl Cursor {
    /// The beginning of a walk, and its end.
    pub const START: Self = Self(0);

    /// The cursor of this number, if it is below 2^53.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        (number <= u64::MAX >> CELL_BITS).then_some(Self(number))
    }

    /// The cell that a position is in.
    #[must_use]
    pub fn of(position: Position) -> Self {
        Self(position.0 >> CELL_BITS)
    }

    /// Its number, below 2^53.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// Whether a walk begins here, or has ended.
    #[must_use]
    pub fn is_start(self) -> bool {
        self == Self::START
    }

    /// The first position of the cell.
    #[must_use]
    pub fn position(self) -> Position {
        Position(self.0 << CELL_BITS)
    }

    /// The last position of the cell.
    #[must_use]
    pub fn last_position(self) -> Position {
        Position(self.position().0 | ((1 << CELL_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_below_two_to_the_53rd_exist() {
        assert_eq!(Cursor::new((1 << 53) - 2).map(Cursor::number), Some((1 << 53) - 2));
        assert_eq!(Cursor::new((1 << 53) - 1).map(Cursor::last_position), Some(Position(u64::MAX)));
        assert_eq!(Cursor::new(1 << 53), None);
        assert_eq!(Cursor::new(u64::MAX), None);
    }

    #[test]
    fn cell_holds_the_positions_that_name_it() {
        for position in [0, 1, 2_047, 2_048, 1 << 50, u64::MAX].map(Position) {
            let cell = Cursor::of(position);
            assert!((cell.position()..=cell.last_position()).contains(&position), "{position:?}");
            assert_eq!(Cursor::new(cell.number()), Some(cell));
        }
        assert_eq!(Cursor::of(Position(2_047)), Cursor::START);
        assert_ne!(Cursor::of(Position(2_048)), Cursor::START);
    }
}
