//! One stored, versioned value: its concurrent siblings and all the writes it has seen.
//!
//! A write supersedes what its coordinator held; what that coordinator had not seen stays beside it as a
//! sibling. Counters are siblings too: each actor keeps one running sum, so increments made at the same
//! time on different replicas add up. A register or tombstone that replaces sums notes them as its
//! baselines, so that a sum that grows unseen at that moment adds only its growth. Which of several notes on
//! one sum is the latest, its dot says and no clock.
//!
//! Invariant: `context` covers the dot of every sibling; merging is commutative, associative, idempotent.
//! Source: Preguiça et al., "Dotted Version Vectors" (2010); Shapiro et al., CRDT report (2011), PN-counter.

mod codec;
mod resolve;

use std::borrow::Cow;
use std::cmp::Reverse;

use slipring_model::{Dot, Mutant, Timestamp, VersionVector};

pub use codec::InvalidCell;
pub(crate) use resolve::integer;
pub use resolve::{Value, ValueKind};

use crate::Change;

/// A cell, borrowing its bytes from wherever it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell<'a> {
    /// Values that no other value here has seen, in dot order.
    pub siblings: Vec<Sibling<'a>>,
    /// Every write this cell has seen, those of its siblings among them.
    pub context: VersionVector,
}

/// One surviving write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling<'a> {
    /// Its birth certificate.
    pub dot: Dot,
    /// When it was written, to choose among concurrent ones.
    pub stamp: Timestamp,
    /// Unix milliseconds from which it counts as absent.
    pub expires_at: Option<u64>,
    /// What was written.
    pub content: Content<'a>,
    /// Running sums this write replaced, each with the dot that raised it last; empty unless counters were involved.
    pub baselines: Vec<(Dot, i64)>,
}

/// What one write left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// A value.
    Register(Cow<'a, [u8]>),
    /// The running sum of one actor's increments.
    Sum(i64),
    /// A deletion.
    Tombstone,
    /// A value that expired and whose bytes were dropped.
    Expired,
}

impl<'a> Cell<'a> {
    /// Everything both cells know: each keeps what the other holds too or has not seen.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let survives = |sibling: &Sibling<'_>, there: &Cell<'_>| {
            !there.context.covers(sibling.dot)
                || there.siblings.iter().any(|held| held.dot == sibling.dot)
                || Mutant::AddOnMerge.is_planted() && matches!(sibling.content, Content::Sum(_))
        };
        let from_other: Vec<Sibling<'a>> = other
            .siblings
            .iter()
            .filter(|sibling| {
                survives(sibling, &self) && !self.siblings.iter().any(|held| held.dot == sibling.dot)
            })
            .cloned()
            .collect();
        let mut siblings: Vec<Sibling<'a>> =
            self.siblings.into_iter().filter(|sibling| survives(sibling, &other)).collect();
        siblings.extend(from_other);
        siblings.sort_by_key(|sibling| sibling.dot);
        let mut context = self.context;
        context.join(&other.context);
        Self { siblings, context }
    }

    /// The newest stamp among the siblings; a new write must come after it.
    #[must_use]
    pub fn last_stamp(&self) -> Timestamp {
        self.siblings.iter().map(|sibling| sibling.stamp).max().unwrap_or_default()
    }

    /// The cell after `change`, written as `dot` at `stamp` by the replica that holds this cell.
    #[must_use]
    pub fn changed(self, change: &'a Change, dot: Dot, stamp: Timestamp) -> Self {
        match change {
            Change::Put { value, expires_at, seen } => {
                let content = Content::Register(Cow::Borrowed(value));
                self.superseded(seen.as_ref(), content, *expires_at, dot, stamp)
            }
            Change::Remove { seen } => self.superseded(seen.as_ref(), Content::Tombstone, None, dot, stamp),
            Change::Add(delta) => self.increased(*delta, dot, stamp),
        }
    }

    /// Whether nothing is left but deletions and what expired.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.siblings.iter().all(|sibling| matches!(sibling.content, Content::Tombstone | Content::Expired))
    }

    /// The same cell without the bytes of its values, as if they were deletions: what another replica must know of it
    /// to delete all that it holds.
    #[must_use]
    pub fn without_values(mut self) -> Self {
        for sibling in &mut self.siblings {
            if matches!(sibling.content, Content::Register(_) | Content::Expired) {
                sibling.content = Content::Tombstone;
            }
        }
        self
    }

    /// The same cell with the bytes of values that expired by `now_ms` dropped; `None` when nothing has.
    #[must_use]
    pub fn expired(mut self, now_ms: u64) -> Option<Self> {
        let mut dropped = false;
        for sibling in &mut self.siblings {
            let is_over = sibling.expires_at.is_some_and(|at| at <= now_ms);
            if is_over && matches!(sibling.content, Content::Register(_)) {
                sibling.content = Content::Expired;
                dropped = true;
            }
        }
        dropped.then_some(self)
    }

    /// Replaces what `seen` covers (all when absent) by one new sibling.
    fn superseded(
        self,
        seen: Option<&VersionVector>,
        content: Content<'a>,
        expires_at: Option<u64>,
        dot: Dot,
        stamp: Timestamp,
    ) -> Self {
        let baselines = self.sums();
        let mut siblings = self.siblings;
        siblings.retain(|sibling| seen.is_some_and(|seen| !seen.covers(sibling.dot)));
        siblings.push(Sibling { dot, stamp, expires_at, content, baselines });
        siblings.sort_by_key(|sibling| sibling.dot);
        let mut context = self.context;
        context.add(dot);
        Self { siblings, context }
    }

    /// Raises the running sum of the dot's actor. Sums wrap around: only their growth is ever looked at.
    fn increased(self, delta: i64, dot: Dot, stamp: Timestamp) -> Self {
        let before = self.sums().iter().find(|(last, _)| last.actor == dot.actor).map_or(0, |(_, sum)| *sum);
        let mut siblings = self.siblings;
        siblings.retain(|sibling| {
            !(sibling.dot.actor == dot.actor && matches!(sibling.content, Content::Sum(_)))
        });
        let content = Content::Sum(before.wrapping_add(delta));
        siblings.push(Sibling { dot, stamp, expires_at: None, content, baselines: Vec::new() });
        siblings.sort_by_key(|sibling| sibling.dot);
        let mut context = self.context;
        context.add(dot);
        Self { siblings, context }
    }

    /// The latest running sum known of every actor that ever added here, in actor order.
    fn sums(&self) -> Vec<(Dot, i64)> {
        let own = self.siblings.iter().filter_map(|sibling| match sibling.content {
            Content::Sum(sum) => Some((sibling.dot, sum)),
            _ => None,
        });
        latest(own.chain(self.baselines()))
    }

    /// Every baseline noted here.
    fn baselines(&self) -> impl Iterator<Item = (Dot, i64)> {
        self.siblings.iter().flat_map(|sibling| sibling.baselines.iter().copied())
    }
}

/// Of each actor the sum with its last dot, in actor order.
fn latest(sums: impl Iterator<Item = (Dot, i64)>) -> Vec<(Dot, i64)> {
    let mut sums: Vec<(Dot, i64)> = sums.collect();
    sums.sort_unstable_by_key(|(dot, _)| (dot.actor, Reverse(dot.counter)));
    sums.dedup_by_key(|(dot, _)| dot.actor);
    sums
}

#[cfg(test)]
mod tests;
