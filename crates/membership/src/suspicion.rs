//! A suspicion: how long a member has to speak for itself.
//!
//! Begins with the longest wait; each further member that suspects on its own brings it nearer to the shortest.
//! Source: Lifeguard, "Local Health Aware Suspicion".

use std::time::Duration;

use slipring_model::{Moment, NodeId};

#[derive(Clone, Debug)]
pub(crate) struct Suspicion {
    /// Who suspects: the first, and those who confirmed.
    by: Vec<NodeId>,
    began: Moment,
    shortest: Duration,
    longest: Duration,
    confirmations_max: usize,
    /// How much longer those who only heard of it leave the last probe to those who saw it themselves.
    patience: Duration,
    /// Time that does not count, because this node was not there to hear a refutation.
    forgiven: Duration,
}

impl Suspicion {
    /// Begins at `began`; with `confirmations_max` 0 the wait is the shortest one from the beginning.
    pub(crate) fn new(
        by: NodeId,
        began: Moment,
        (shortest, longest): (Duration, Duration),
        confirmations_max: usize,
        patience: Duration,
    ) -> Self {
        let forgiven = Duration::ZERO;
        Self { by: vec![by], began, shortest, longest, confirmations_max, patience, forgiven }
    }

    /// This node has seen by itself that the member does not answer.
    pub(crate) fn witness(&mut self) {
        self.patience = Duration::ZERO;
    }

    /// Counts one who suspects as well; whether that was news.
    pub(crate) fn confirm(&mut self, by: NodeId) -> bool {
        let is_news = self.by.len() <= self.confirmations_max && !self.by.contains(&by);
        if is_news {
            self.by.push(by);
        }
        is_news
    }

    /// Adds time in which this node could not hear.
    pub(crate) fn forgive(&mut self, pause: Duration) {
        self.forgiven = self.forgiven.saturating_add(pause);
    }

    /// When it ends.
    pub(crate) fn deadline(&self) -> Moment {
        self.began.after(self.wait().saturating_add(self.patience).saturating_add(self.forgiven))
    }

    fn wait(&self) -> Duration {
        if self.confirmations_max == 0 {
            return self.shortest;
        }
        let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let share = count(self.by.len()).ln() / count(self.confirmations_max.saturating_add(1)).ln();
        let span = self.longest.saturating_sub(self.shortest);
        self.longest.saturating_sub(span.mul_f64(share.clamp(0.0, 1.0))).max(self.shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITS: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(24));

    #[test]
    fn confirmations_by_others_shorten_it_to_the_shortest_and_no_further() {
        let node = |byte: u8| NodeId([byte; 32]);
        let mut suspicion = Suspicion::new(node(0), Moment(0), WAITS, 3, Duration::ZERO);
        assert_eq!(suspicion.deadline(), Moment(24_000_000));
        assert!(!suspicion.confirm(node(0)), "the same node again is no confirmation");
        let mut last = suspicion.deadline();
        for byte in 1..=3 {
            assert!(suspicion.confirm(node(byte)));
            assert!(suspicion.deadline() < last);
            last = suspicion.deadline();
        }
        assert_eq!(last, Moment(4_000_000));
        assert!(!suspicion.confirm(node(9)), "the list of suspecters is bounded");
    }

    #[test]
    fn time_in_which_the_node_was_paused_does_not_count() {
        let mut suspicion = Suspicion::new(NodeId([0; 32]), Moment(0), WAITS, 0, Duration::from_secs(2));
        suspicion.forgive(Duration::from_secs(5));
        assert_eq!(suspicion.deadline(), Moment(11_000_000));
        suspicion.witness();
        assert_eq!(suspicion.deadline(), Moment(9_000_000));
    }
}
