//! Local health: how far a node trusts its own probes.
//!
//! A score from 0 (healthy) upwards. Missed answers, having to refute, and timers that fire late raise it;
//! answered probes lower it. All waits that could lead to a suspicion are scaled by it.
//! Source: Lifeguard, "Local Health Multiplier".

use std::time::Duration;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Awareness {
    score: u32,
    score_max: u32,
}

impl Awareness {
    /// A healthy node; with `score_max` 0 it stays so.
    pub(crate) fn new(score_max: u32) -> Self {
        Self { score: 0, score_max }
    }

    pub(crate) fn score(self) -> u32 {
        self.score
    }

    pub(crate) fn worsen(&mut self, by: u32) {
        self.score = self.score.saturating_add(by).min(self.score_max);
    }

    pub(crate) fn improve(&mut self) {
        self.score = self.score.saturating_sub(1);
    }

    /// A wait, as long as this node's health asks for.
    pub(crate) fn scale(self, wait: Duration) -> Duration {
        wait.saturating_mul(self.score.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_bounded_on_both_sides_and_scales_waits() {
        let mut awareness = Awareness::new(8);
        awareness.improve();
        assert_eq!(awareness.scale(Duration::from_secs(1)), Duration::from_secs(1));
        awareness.worsen(100);
        assert_eq!(awareness.scale(Duration::from_secs(1)), Duration::from_secs(9));
        awareness.improve();
        assert_eq!(awareness.score(), 7);
    }
}
