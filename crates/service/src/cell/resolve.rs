//! What a reader sees of a cell: one value, or nothing.
//!
//! Among truly concurrent registers and tombstones the latest stamp wins, ties by dot, so every replica
//! chooses the same one. Running sums add to it as far as they grew beyond the baselines noted.

use std::borrow::Cow;

use slipring_model::Dot;

use super::{Cell, Content, Sibling};

/// The value of a cell at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'c> {
    /// The bytes; an integer in decimal when increments are part of it.
    pub bytes: Cow<'c, [u8]>,
    /// Unix milliseconds at which it expires.
    pub expires_at: Option<u64>,
    /// How it came about.
    pub kind: ValueKind,
}

/// Whether a value is as somebody wrote it or a sum of increments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// The bytes of one write.
    Register,
    /// A number: the register beneath, if any, plus all increments.
    Counter(i64),
}

impl Cell<'_> {
    /// The value at `now_ms`; `None` when deleted, expired or never written.
    #[must_use]
    pub fn value(&self, now_ms: u64) -> Option<Value<'_>> {
        let base = self.base();
        let sums = self.grown();
        let is_over = base.is_some_and(|base| base.expires_at.is_some_and(|at| at <= now_ms));
        match (base.map(|base| (base, &base.content)), sums) {
            _ if is_over => None,
            (Some((_, Content::Expired)), _) => None,
            (Some((base, Content::Register(bytes))), None) => Some(register(bytes, base)),
            (Some((base, Content::Register(bytes))), Some(sum)) => Some(
                integer(bytes)
                    .map_or_else(|| register(bytes, base), |start| counter(start, sum, base.expires_at)),
            ),
            (_, Some(sum)) => Some(counter(0, sum, None)),
            (_, None) => None,
        }
    }

    /// Whether it has a value, or had one whose time is over and whose bytes are still kept.
    #[must_use]
    pub fn has_value(&self) -> bool {
        let is_dropped = self.base().is_some_and(|base| matches!(base.content, Content::Expired));
        !is_dropped && !self.is_bare()
    }

    /// Whether nothing is left but deletions, what expired, and what was added to that.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        let mut contents = self.siblings.iter().map(|sibling| &sibling.content);
        !self.has_value() && !contents.any(|content| matches!(content, Content::Register(_)))
    }

    /// Unix milliseconds at which the first of its values ends.
    #[must_use]
    pub fn first_end(&self) -> Option<u64> {
        let is_kept = |sibling: &&Sibling<'_>| matches!(sibling.content, Content::Register(_));
        self.siblings.iter().filter(is_kept).filter_map(|sibling| sibling.expires_at).min()
    }

    /// Every surviving register at `now_ms`, for buckets whose clients resolve conflicts.
    pub fn values(&self, now_ms: u64) -> impl Iterator<Item = &[u8]> {
        self.siblings.iter().filter_map(move |sibling| match &sibling.content {
            Content::Register(bytes) if sibling.expires_at.is_none_or(|at| at > now_ms) => {
                Some(bytes.as_ref())
            }
            _ => None,
        })
    }

    /// The register or tombstone that wins among the siblings.
    fn base(&self) -> Option<&Sibling<'_>> {
        let is_base = |sibling: &&Sibling<'_>| !matches!(sibling.content, Content::Sum(_));
        let bases = self.siblings.iter().filter(is_base);
        bases.max_by_key(|sibling| (sibling.stamp, sibling.dot))
    }

    /// The write of the register or tombstone that wins among the siblings.
    #[must_use]
    pub fn winner(&self) -> Option<Dot> {
        self.base().map(|base| base.dot)
    }

    /// Whether no write can win here that is older than the one of this dot: it wins itself, or a write that
    /// replaced it is alone.
    #[must_use]
    pub fn is_after(&self, write: Dot) -> bool {
        let is_base = |sibling: &&Sibling<'_>| !matches!(sibling.content, Content::Sum(_));
        let mut bases = self.siblings.iter().filter(is_base).map(|base| base.dot);
        self.winner() == Some(write)
            || self.context.covers(write) && bases.clone().count() == 1 && bases.all(|base| base != write)
    }

    /// Whether the value written last has outlived its time at `now_ms`.
    pub(crate) fn is_expired(&self, now_ms: u64) -> bool {
        let is_over = |base: &Sibling<'_>| {
            matches!(base.content, Content::Expired) || base.expires_at.is_some_and(|at| at <= now_ms)
        };
        self.base().is_some_and(is_over)
    }

    /// How far the running sums grew beyond what was noted when they were replaced; `None` when there are none.
    ///
    /// A note of a register that lost counts as well: whatever that register replaced came before it, and so
    /// before the winner.
    fn grown(&self) -> Option<i64> {
        let mut total = None;
        for sibling in &self.siblings {
            if let Content::Sum(sum) = sibling.content {
                let notes = self.baselines().filter(|(dot, _)| dot.actor == sibling.dot.actor);
                let noted = notes.max_by_key(|(dot, _)| dot.counter).map_or(0, |(_, sum)| sum);
                total = Some(total.unwrap_or(0_i64).wrapping_add(sum.wrapping_sub(noted)));
            }
        }
        total
    }
}

fn register<'c>(bytes: &'c [u8], base: &Sibling<'_>) -> Value<'c> {
    Value { bytes: Cow::Borrowed(bytes), expires_at: base.expires_at, kind: ValueKind::Register }
}

fn counter<'c>(start: i64, sum: i64, expires_at: Option<u64>) -> Value<'c> {
    let total = start.wrapping_add(sum);
    Value { bytes: Cow::Owned(total.to_string().into_bytes()), expires_at, kind: ValueKind::Counter(total) }
}

/// A canonical decimal integer, as Redis accepts it: no sign but `-`, no leading zeros, no spaces.
pub(crate) fn integer(bytes: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    let is_canonical = !matches!(bytes, [b'+', ..] | [b'0', _, ..] | [b'-', b'0', ..]);
    is_canonical.then_some(number)
}
