//! Health of the data path: which peers refuse requests or answer late or not at all, whatever gossip says of them.
//!
//! A forwarded request that its peer answers late, or never, or can do nothing about while
//! another peer can, is a strike against the peer: its disk may have failed, or it may reach nobody else. After a few in a row
//! the peer is passed over as coordinator for a while, and for longer each time it has not mended by then. It stays
//! a replica, is asked as one, and coordinates all the same when nobody else is left.
//!
//! Invariant: an answer in time ends it.
//! Source: Dean, Barroso, "The Tail at Scale" (2013), latency-induced probation.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::{Moment, NodeId};

use crate::core::Core;

/// Strikes in a row until a peer is avoided.
const STRIKES: u32 = 3;
/// How long a peer is avoided at first, and at most.
const AVOIDED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// An answer that takes longer than this part of the time-out of requests is late.
const LATE_DIVISOR: u32 = 4;

/// What became of a request that was forwarded to a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// It was done, or the client is to blame that it was not.
    Given {
        /// How long it took.
        after: Duration,
    },
    /// The peer could do nothing, and did nothing, though another one could.
    Refused,
    /// Its time is up.
    None {
        /// How long it had.
        after: Duration,
    },
}

impl Answer {
    /// Whether it speaks against the peer, which answers in time within `late`. A short time that is up says nothing.
    fn is_failing(self, late: Duration) -> Option<bool> {
        match self {
            Self::Given { after } => Some(after >= late),
            Self::Refused => Some(true),
            Self::None { after } => (after >= late).then_some(true),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Record {
    strikes: u32,
    /// Until when it is avoided, and for how long that was.
    probation: Option<(Moment, Duration)>,
}

/// What is known of peers; nothing of those that answer in time.
#[derive(Default)]
pub(crate) struct Health {
    records: Mutex<BTreeMap<NodeId, Record>>,
    /// Whether there are any records: most requests need to know no more.
    is_noting: AtomicBool,
}

impl Health {
    /// A peer answered in time.
    fn mended(&self, peer: NodeId) {
        if self.is_noting.load(Ordering::Acquire) {
            let mut records = self.records.lock();
            records.remove(&peer);
            self.is_noting.store(!records.is_empty(), Ordering::Release);
        }
    }

    /// A peer answered late, or not at all, or refused; whether it is avoided from now on.
    fn strike(&self, peer: NodeId, now: Moment) -> bool {
        let mut records = self.records.lock();
        let record = records.entry(peer).or_default();
        self.is_noting.store(true, Ordering::Release);
        if record.probation.is_some_and(|(until, _)| now < until) {
            // What was under way already says nothing new.
            return false;
        }
        record.strikes = record.strikes.saturating_add(1);
        if record.strikes < STRIKES {
            return false;
        }
        let longer = |(_, before): (Moment, Duration)| before.saturating_mul(2).min(AVOIDED.1);
        let wait = record.probation.map_or(AVOIDED.0, longer);
        record.probation = Some((now.after(wait), wait));
        true
    }

    fn is_avoided(&self, peer: NodeId, now: Moment) -> bool {
        self.is_noting.load(Ordering::Acquire)
            && self
                .records
                .lock()
                .get(&peer)
                .is_some_and(|record| record.probation.is_some_and(|(until, _)| now < until))
    }
}

impl Core {
    /// What a peer made of a forwarded request.
    pub(crate) fn judge(&self, peer: NodeId, answer: Answer) {
        let late = self.settings.request_timeout() / LATE_DIVISOR;
        match answer.is_failing(late) {
            Some(false) => self.health.mended(peer),
            Some(true) if self.health.strike(peer, self.now()) => {
                self.metrics.peers_avoided.inc();
                tracing::info!(peer = %peer.short(), "refuses or answers late; others coordinate for a while");
            }
            _ => {}
        }
    }

    /// Whether another node should coordinate if one can: this peer refuses or answers late, or gossip cannot reach it.
    pub(crate) fn is_doubtful(&self, peer: NodeId) -> bool {
        peer != self.me && (self.health.is_avoided(peer, self.now()) || self.gossip.doubts(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000)
    }

    fn strike_all(health: &Health, ms: u64) -> bool {
        (0..STRIKES).any(|_| health.strike(PEER, at(ms)))
    }

    #[test]
    fn a_few_strikes_in_a_row_are_a_reason_and_one_answer_in_time_ends_it() {
        let health = Health::default();
        assert!(!health.strike(PEER, at(0)) && !health.strike(PEER, at(1)));
        health.mended(PEER);
        assert!(!health.strike(PEER, at(2)) && !health.strike(PEER, at(3)));
        assert!(!health.is_avoided(PEER, at(3)));
        assert!(health.strike(PEER, at(4)));
        assert!(health.is_avoided(PEER, at(5)) && !health.is_avoided(NodeId([2; 32]), at(5)));
        health.mended(PEER);
        assert!(!health.is_avoided(PEER, at(5)));
    }

    #[test]
    fn who_refuses_or_is_late_fails_and_a_short_time_that_is_up_says_nothing() {
        let (late, soon) = (Duration::from_millis(500), Duration::from_millis(499));
        let judged = |answer: Answer| answer.is_failing(late);
        assert_eq!(judged(Answer::Given { after: soon }), Some(false));
        assert_eq!(judged(Answer::Given { after: late }), Some(true));
        assert_eq!(judged(Answer::Refused), Some(true));
        assert_eq!(
            (judged(Answer::None { after: soon }), judged(Answer::None { after: late })),
            (None, Some(true))
        );
    }

    #[test]
    fn who_has_not_mended_is_avoided_for_longer_each_time_up_to_a_limit() {
        let health = Health::default();
        assert!(strike_all(&health, 0));
        assert!(!strike_all(&health, 999), "what was under way does not count again");
        assert!(!health.is_avoided(PEER, at(1_000)), "it is tried again");
        assert!(health.strike(PEER, at(1_000)), "and one strike is enough now");
        assert!(health.is_avoided(PEER, at(2_999)) && !health.is_avoided(PEER, at(3_000)));
        for _ in 0..10 {
            health.strike(PEER, at(1_000_000));
            health.strike(PEER, at(2_000_000));
        }
        assert!(!health.is_avoided(PEER, at(2_030_000)));
    }
}
