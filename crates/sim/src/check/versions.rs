//! The writes of one key and what is known of their order.
//!
//! Values name their writes. A write that was acknowledged before another began is older, whatever the clocks.
//! One that was only seen by a read before another began is older if the clocks that stamp them do not differ
//! by more than the time between; of all others nothing is claimed.
//!
//! Source: Lamport, "On Interprocess Communication" (1986); for what was only seen, his "Time, Clocks, and the
//! Ordering of Events" (1978), on real time with bounded skew.

use std::collections::BTreeMap;

use crate::history::{Action, Operation};

/// One write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version<'h> {
    pub(super) write: &'h Operation,
    /// The last moment at which it can have been stamped; `u64::MAX` when nobody knows.
    pub(super) over_ms: u64,
}

/// The writes of one key.
pub(super) struct Versions<'h> {
    all: Vec<Version<'h>>,
    by_value: BTreeMap<&'h str, usize>,
    skew_ms: u64,
}

impl<'h> Versions<'h> {
    /// The registers and deletions among the operations of one key.
    pub(super) fn new(operations: &[&'h Operation], skew_ms: u64) -> Self {
        let is_version = |write: &&&'h Operation| {
            write.may_have_written() && !matches!(write.action, Action::Add(_) | Action::Replace { .. })
        };
        let writes = operations.iter().filter(is_version);
        let mut all: Vec<Version<'h>> =
            writes.map(|write| Version { write, over_ms: write.latest_effect_ms() }).collect();
        let by_value: BTreeMap<&'h str, usize> = all
            .iter()
            .enumerate()
            .filter_map(|(number, version)| Some((version.write.action.value()?, number)))
            .collect();
        for (seen, at) in operations.iter().filter_map(|read| read.seen()) {
            let number = seen.and_then(|seen| by_value.get(seen));
            if let Some(version) = number.and_then(|number| all.get_mut(*number)) {
                version.over_ms = version.over_ms.min(at);
            }
        }
        Self { all, by_value, skew_ms }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Version<'h>> {
        self.all.iter()
    }

    /// The write of a value.
    pub(super) fn of(&self, value: &str) -> Option<&Version<'h>> {
        self.all.get(*self.by_value.get(value)?)
    }

    /// Whether `left` is certainly older than `right`.
    pub(super) fn is_older(&self, left: &Version<'_>, right: &Version<'_>) -> bool {
        let is_acked_before = left.write.acked_at().is_some_and(|acked| acked < right.write.start_ms);
        is_acked_before || left.over_ms.saturating_add(self.skew_ms) < right.write.start_ms
    }

    /// The writes that can be what a read saw: that of its value or, when it saw nothing, deletions and values
    /// whose time was up.
    pub(super) fn explanations<'s>(
        &'s self,
        seen: Option<&'s str>,
        at: u64,
    ) -> impl Iterator<Item = &'s Version<'h>> {
        self.all.iter().filter(move |version| {
            let explains = match (&version.write.action, seen) {
                (action, Some(seen)) => action.value() == Some(seen),
                (Action::Set { expires_at: Some(expires_at), .. }, None) => *expires_at <= at + self.skew_ms,
                (action, None) => *action == Action::Delete,
            };
            explains && version.write.start_ms <= at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acked, get, set, unknown};

    #[test]
    fn a_write_is_over_when_it_is_acknowledged_or_seen() {
        let history =
            [set("a", 0, unknown(10)), set("b", 0, acked(20)), set("c", 0, None), get(Some("a"), 30, 40)];
        let versions = Versions::new(&history.iter().collect::<Vec<_>>(), 0);
        let over = |value| versions.of(value).map(|version| version.over_ms);
        assert_eq!([over("a"), over("b"), over("c"), over("d")], [Some(40), Some(20), Some(u64::MAX), None]);
    }

    #[test]
    fn writes_that_touch_or_were_only_seen_within_the_skew_are_not_ordered() {
        let history = [
            set("a", 0, unknown(10)),
            set("b", 10, acked(20)),
            set("c", 16, acked(30)),
            set("d", 21, acked(40)),
            get(Some("a"), 5, 10),
        ];
        let is_older = |left, right, skew_ms| {
            let versions = Versions::new(&history.iter().collect::<Vec<_>>(), skew_ms);
            let of = |value| *versions.of(value).expect("it was written");
            versions.is_older(&of(left), &of(right))
        };
        assert!(!is_older("a", "b", 0) && is_older("a", "c", 0));
        assert!(is_older("a", "c", 5) && !is_older("a", "c", 6), "nobody had acknowledged it");
        assert!(is_older("b", "d", 1_000) && !is_older("b", "c", 0));
    }
}
