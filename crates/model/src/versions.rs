//! Versions of the protocol between nodes: which a node speaks, and which of them two nodes use.

use serde::{Deserialize, Serialize};

/// The versions of the protocol between nodes that a node speaks, all from the oldest to the newest.
///
/// The default is what nodes speak that do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest. Of a new version this is the one before it, so that a cluster can be upgraded node by node.
    pub oldest: u8,
    /// The newest; not older than the oldest.
    pub newest: u8,
}

impl Versions {
    /// What nodes speak that do not tell.
    pub const UNTOLD: Self = Self { oldest: 2, newest: 2 };

    /// Whether the oldest is not newer than the newest.
    #[must_use]
    pub fn is_range(self) -> bool {
        self.oldest <= self.newest
    }

    /// The newest version that both speak; nothing when they have none in common.
    #[must_use]
    pub fn agree(self, other: Self) -> Option<u8> {
        let (oldest, newest) = (self.oldest.max(other.oldest), self.newest.min(other.newest));
        (oldest <= newest).then_some(newest)
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::UNTOLD
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} to {}", self.oldest, self.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u8, newest: u8) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn two_nodes_use_the_newest_version_that_both_speak_whoever_asks() {
        for (one, other, agreed) in [
            (versions(2, 2), versions(2, 2), Some(2)),
            (versions(2, 3), versions(3, 4), Some(3)),
            (versions(2, 5), versions(3, 4), Some(4)),
            (versions(1, 2), versions(2, 9), Some(2)),
            (versions(1, 2), versions(3, 4), None),
        ] {
            assert_eq!((one.agree(other), other.agree(one)), (agreed, agreed));
        }
    }
}
