//! Replays: which datagrams of a sender have been seen.
//!
//! Each datagram carries its sender's start and a counter. Per sender a window over the last counters of its
//! latest start is kept; what is older than the window, or of an earlier start, counts as seen.
//!
//! Invariant: no datagram is accepted twice while its sender's window is kept; windows are bounded in number.

use std::collections::BTreeMap;

use slipring_model::NodeId;

const WORDS: usize = 16;
/// Counters that may arrive out of order.
const WINDOW: u64 = 64 * WORDS as u64;

#[derive(Clone, Debug)]
struct Window {
    start: u64,
    highest: u64,
    /// One bit per counter, at the counter modulo the window.
    seen: [u64; WORDS],
}

impl Window {
    fn new(start: u64, counter: u64) -> Self {
        let mut window = Self { start, highest: counter, seen: [0; WORDS] };
        window.mark(counter);
        window
    }

    fn accept(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let skipped = (counter - self.highest).min(WINDOW);
            for gone in 0..skipped {
                self.clear(counter - gone);
            }
            self.highest = counter;
        } else if self.highest - counter >= WINDOW {
            return false;
        }
        self.mark(counter)
    }

    /// Marks a counter; whether it was unmarked.
    fn mark(&mut self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        let Some(word) = self.seen.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = place(counter);
        if let Some(word) = self.seen.get_mut(word) {
            *word &= !bit;
        }
    }
}

fn place(counter: u64) -> (usize, u64) {
    let position = counter % WINDOW;
    (usize::try_from(position / 64).unwrap_or(0), 1 << (position % 64))
}

/// The windows of all senders.
#[derive(Debug)]
pub(crate) struct ReplayGuard {
    windows: BTreeMap<NodeId, Window>,
    senders_max: usize,
}

impl ReplayGuard {
    pub(crate) fn new(senders_max: usize) -> Self {
        Self { windows: BTreeMap::new(), senders_max }
    }

    /// Whether a datagram is new. A sender beyond the limit is refused: that can only be a holder of the key.
    pub(crate) fn accept(&mut self, sender: NodeId, start: u64, counter: u64) -> bool {
        let is_full = self.windows.len() >= self.senders_max;
        match self.windows.get_mut(&sender) {
            Some(window) if start == window.start => window.accept(counter),
            Some(window) if start < window.start => false,
            Some(window) => {
                *window = Window::new(start, counter);
                true
            }
            None if is_full => false,
            None => {
                self.windows.insert(sender, Window::new(start, counter));
                true
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Forgets every sender that `keep` does not want.
    pub(crate) fn retain(&mut self, keep: impl Fn(&NodeId) -> bool) {
        self.windows.retain(|sender, _| keep(sender));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_accepted_once_in_any_order_within_the_window() {
        let mut guard = ReplayGuard::new(2);
        let node = NodeId([1; 32]);
        for counter in [5, 3, 4, 2_000, 1_999, 977] {
            assert!(guard.accept(node, 1, counter), "{counter} is new");
            assert!(!guard.accept(node, 1, counter), "{counter} is a replay");
        }
        assert!(!guard.accept(node, 1, 976), "older than the window");
        assert!(guard.accept(node, 2, 1), "a later start begins again");
        assert!(!guard.accept(node, 1, 5_000), "an earlier start is over");
        assert!(!guard.accept(node, 2, 1));
    }

    #[test]
    fn counters_at_the_end_of_their_range_do_no_harm_and_senders_are_bounded() {
        let mut guard = ReplayGuard::new(1);
        assert!(guard.accept(NodeId([1; 32]), 1, 0));
        assert!(guard.accept(NodeId([1; 32]), 1, u64::MAX));
        assert!(!guard.accept(NodeId([1; 32]), 1, u64::MAX));
        assert!(!guard.accept(NodeId([2; 32]), 1, 1));
        guard.retain(|sender| *sender != NodeId([1; 32]));
        assert_eq!(guard.len(), 0);
        assert!(guard.accept(NodeId([2; 32]), 1, 1));
    }
}
