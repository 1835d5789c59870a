//! Which recoveries a group has been through: what keeps those that were given up from leading the others.
//!
//! A member that was recovered goes on without the old majority. Should that majority come back, it would elect
//! a leader of its own, and Raft would let it overwrite what was agreed on since. So every message names the
//! sender's lineage; members take a later one over, as far as nothing is lost by it, and refuse an earlier one.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use slipring_model::NodeId;

use crate::log::Log;
use crate::protocol::LogId;

const LINEAGE: &str = "lineage";

/// A recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recovery {
    /// Who was recovered.
    pub(crate) by: NodeId,
    /// The last entry it held then.
    pub(crate) from: Option<LogId>,
}

/// All recoveries, the first one first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage(Vec<Recovery>);

/// What to make of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its sender is of this member's group.
    Known,
    /// Its sender was left behind by a recovery.
    LeftBehind,
    /// Its sender's group was recovered by somebody who knew less than this member.
    KnewLess,
    /// Both groups were recovered, apart from each other.
    Apart {
        /// Whether this member's group is the one that may go on.
        goes_on: bool,
    },
    /// Its sender's group was recovered, and only its leader may tell this member of that.
    NotYet,
}

/// A member's own lineage, on disk and at hand.
#[derive(Clone)]
pub(crate) struct Ancestry {
    log: Log,
    current: Arc<Mutex<Lineage>>,
}

impl Lineage {
    pub(crate) fn read(log: &Log) -> io::Result<Self> {
        Ok(log.get(LINEAGE)?.unwrap_or_default())
    }

    /// The lineage of a group that `by` recovers, which holds entries up to `from`.
    pub(crate) fn next(mut self, by: NodeId, from: Option<LogId>) -> Self {
        self.0.push(Recovery { by, from });
        self
    }

    /// Its name and bytes among what is kept beside the log.
    pub(crate) fn record(&self) -> (&'static str, bytes::Bytes) {
        (LINEAGE, crate::protocol::encode(self))
    }

    /// Whether a member that has applied all up to `applied` has what was agreed on after the last recovery.
    pub(crate) fn is_followed(&self, applied: Option<LogId>) -> bool {
        self.0.last().is_none_or(|last| applied > last.from)
    }

    /// Judges a message of the lineage `theirs` at a member of this one. What the first recovery that this member
    /// has not been through began with must have all that is `applied` here: the later ones follow from it.
    fn judge(&self, theirs: &Self, applied: Option<LogId>) -> Verdict {
        if let Some(later) = theirs.0.strip_prefix(self.0.as_slice()) {
            return match later.first() {
                None => Verdict::Known,
                Some(recovery) if applied > recovery.from => Verdict::KnewLess,
                Some(_) => Verdict::NotYet,
            };
        }
        match self.0.starts_with(&theirs.0) {
            true => Verdict::LeftBehind,
            false => Verdict::Apart { goes_on: self.outranks(theirs) },
        }
    }

    /// Of two groups that were recovered apart from each other one may go on; all members of both judge alike.
    fn outranks(&self, theirs: &Self) -> bool {
        let first = self.0.iter().zip(&theirs.0).find(|(mine, theirs)| mine != theirs);
        first.is_some_and(|(mine, theirs)| (mine.by, mine.from) > (theirs.by, theirs.from))
    }
}

impl Ancestry {
    pub(crate) fn open(log: Log) -> io::Result<Self> {
        let current = Arc::new(Mutex::new(Lineage::read(&log)?));
        Ok(Self { log, current })
    }

    pub(crate) fn current(&self) -> Lineage {
        self.current.lock().clone()
    }

    /// Judges a message of the lineage `theirs`; a later one is taken over when its sender `leads`.
    ///
    /// # Errors
    /// A later lineage could not be kept.
    pub(crate) fn meet(&self, theirs: &Lineage, applied: Option<LogId>, leads: bool) -> io::Result<Verdict> {
        let mut mine = self.current.lock();
        let verdict = mine.judge(theirs, applied);
        if verdict != Verdict::NotYet || !leads {
            return Ok(verdict);
        }
        let (name, _) = theirs.record();
        self.log.put(name, theirs)?;
        *mine = theirs.clone();
        Ok(Verdict::Known)
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::Vote;

    use super::*;

    fn entry(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(Vote::new(term, 1).leader_id, index))
    }

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn a_later_lineage_is_followed_where_nothing_is_lost_by_it() {
        let first = Lineage::default();
        let second = first.clone().next(node(1), entry(4, 20));
        assert_eq!(first.judge(&first, entry(4, 30)), Verdict::Known);
        assert_eq!(first.judge(&second, entry(4, 20)), Verdict::NotYet);
        assert_eq!(first.judge(&second, None), Verdict::NotYet);
        assert_eq!(first.judge(&second, entry(4, 30)), Verdict::KnewLess);
        assert_eq!(second.judge(&first, entry(5, 50)), Verdict::LeftBehind);
    }

    #[test]
    fn a_second_recovery_does_not_hide_what_the_first_one_lost() {
        let second = Lineage::default().next(node(1), entry(4, 20));
        let third = second.clone().next(node(2), entry(6, 25));
        assert_eq!(Lineage::default().judge(&third, entry(4, 30)), Verdict::KnewLess);
        assert_eq!(Lineage::default().judge(&third, entry(4, 20)), Verdict::NotYet);
        assert_eq!(second.judge(&third, entry(6, 24)), Verdict::NotYet);
        assert_eq!(third.judge(&second, entry(6, 26)), Verdict::LeftBehind);
    }

    #[test]
    fn groups_that_were_recovered_apart_stay_apart() {
        let one = Lineage::default().next(node(1), entry(4, 20));
        let other = Lineage::default().next(node(2), entry(4, 20));
        let again = Lineage::default().next(node(1), entry(4, 19));
        let later = other.clone().next(node(1), entry(7, 9));
        for (greater, lesser) in [(&other, &one), (&one, &again), (&later, &one)] {
            assert_eq!(greater.judge(lesser, None), Verdict::Apart { goes_on: true });
            assert_eq!(lesser.judge(greater, None), Verdict::Apart { goes_on: false });
        }
    }

    #[test]
    fn only_a_leader_brings_a_later_lineage() {
        let backend = redb::backends::InMemoryBackend::new();
        let database = redb::Builder::new().create_with_backend(backend).expect("in memory");
        let log = Log(Arc::new(database));
        let ancestry = Ancestry::open(log.clone()).expect("opened");
        let second = Lineage::default().next(node(1), entry(4, 20));
        assert_eq!(ancestry.meet(&second, None, false).expect("read"), Verdict::NotYet);
        assert_eq!(ancestry.current(), Lineage::default());
        assert_eq!(ancestry.meet(&second, None, true).expect("kept"), Verdict::Known);
        assert_eq!(Ancestry::open(log).expect("opened").current(), second);
    }
}
