//! What is wrong with the way from one node to another, and what came of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// One thing that is wrong with a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Impairment {
    /// Bytes wait until it is over.
    Cut,
    /// Bytes vanish.
    Drop,
    /// Bytes take this much longer.
    Delay(Duration),
    /// At most so many bytes a second.
    Throttle(u32),
}

/// All that is wrong with a way at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) is_cut: bool,
    pub(crate) is_dropping: bool,
    pub(crate) delay: Duration,
    pub(crate) bytes_per_second: Option<u32>,
    /// How often its connections were told to break.
    pub(crate) resets: u64,
}

/// What came of the bytes of a way.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) forwarded: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) delayed: AtomicU64,
    pub(crate) throttled: AtomicU64,
    pub(crate) broken: AtomicU64,
}

/// The way from one node to another.
#[derive(Debug)]
pub(crate) struct Link {
    impairments: Mutex<Vec<(usize, Impairment)>>,
    condition: watch::Sender<Condition>,
    pub(crate) counts: Counts,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            impairments: Mutex::default(),
            condition: watch::Sender::new(Condition::default()),
            counts: Counts::default(),
        }
    }
}

impl Link {
    /// Something goes wrong; `cause` names it until it is over.
    pub(crate) fn impair(&self, cause: usize, impairment: Impairment) {
        let mut impairments = self.impairments.lock();
        impairments.push((cause, impairment));
        self.publish(&impairments);
    }

    /// What `cause` did is over.
    pub(crate) fn relieve(&self, cause: usize) {
        let mut impairments = self.impairments.lock();
        impairments.retain(|(known, _)| *known != cause);
        self.publish(&impairments);
    }

    /// Everything is over.
    pub(crate) fn clear(&self) {
        let mut impairments = self.impairments.lock();
        impairments.clear();
        self.publish(&impairments);
    }

    /// Breaks every connection that uses this way.
    pub(crate) fn reset(&self) {
        self.condition.send_modify(|condition| condition.resets += 1);
    }

    pub(crate) fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// Waits for a condition; for ever, should it never come.
    pub(crate) async fn until(&self, is_so: impl FnMut(&Condition) -> bool) {
        // The sender lives as long as this does.
        let _ = self.condition.subscribe().wait_for(is_so).await;
    }

    fn publish(&self, impairments: &[(usize, Impairment)]) {
        let resets = self.condition().resets;
        let mut now = Condition { resets, ..Condition::default() };
        for (_, impairment) in impairments {
            match *impairment {
                Impairment::Cut => now.is_cut = true,
                Impairment::Drop => now.is_dropping = true,
                Impairment::Delay(by) => now.delay += by,
                Impairment::Throttle(rate) => {
                    now.bytes_per_second = Some(now.bytes_per_second.map_or(rate, |known| known.min(rate)));
                }
            }
        }
        self.condition.send_replace(now);
    }
}

impl Counts {
    pub(crate) fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_overlaps_ends_each_by_its_own_cause() {
        let link = Link::default();
        link.impair(1, Impairment::Cut);
        link.impair(2, Impairment::Cut);
        link.impair(3, Impairment::Throttle(9));
        link.impair(4, Impairment::Throttle(5));
        link.relieve(1);
        assert!(link.condition().is_cut);
        link.relieve(2);
        assert!(!link.condition().is_cut);
        assert_eq!(link.condition().bytes_per_second, Some(5));
        link.relieve(4);
        assert_eq!(link.condition().bytes_per_second, Some(9));
        link.reset();
        link.clear();
        assert_eq!(link.condition(), Condition { resets: 1, ..Condition::default() });
    }
}
