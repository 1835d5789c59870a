//! How many replicas must answer.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `n` replicas hold a key; `r` must answer a read, `w` must acknowledge a write.
///
/// `r + w > n` makes every read meet the newest completed write, in a layout that does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// Replicas of a key.
    pub n: u8,
    /// Answers a read waits for.
    pub r: u8,
    /// Acknowledgements a write waits for.
    pub w: u8,
}

/// More acknowledgements were asked for than there are replicas, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidQuorum;

impl fmt::Display for InvalidQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("read and write acknowledgements must lie between 1 and the number of replicas")
    }
}

impl std::error::Error for InvalidQuorum {}

impl Quorum {
    /// A quorum of `r` and `w` out of `n`, when both lie in `1..=n`.
    ///
    /// # Errors
    /// [`InvalidQuorum`] otherwise.
    pub fn new(n: u8, r: u8, w: u8) -> Result<Self, InvalidQuorum> {
        let fits = |acks| (1..=n).contains(&acks);
        if fits(r) && fits(w) { Ok(Self { n, r, w }) } else { Err(InvalidQuorum) }
    }

    /// More than half of `n`.
    #[must_use]
    pub fn majority(n: u8) -> u8 {
        n / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_possible_quorums_are_made() {
        assert_eq!(Quorum::new(3, 2, 2), Ok(Quorum { n: 3, r: 2, w: 2 }));
        for (r, w) in [(0, 1), (1, 0), (4, 1), (1, 4)] {
            assert_eq!(Quorum::new(3, r, w), Err(InvalidQuorum));
        }
        assert!(InvalidQuorum.to_string().contains("between 1 and"), "the error says what would do");
        assert_eq!([1, 2, 3, 4, 5].map(Quorum::majority), [1, 2, 2, 3, 3]);
    }
}
