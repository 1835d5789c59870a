//! Linearizability: a key of which there is one copy behaves as if every operation happened at one instant
//! between its call and its answer.
//!
//! Keys are independent, so each is decided by itself. An operation whose outcome is unknown may happen at any
//! time after its call, or never; one that was refused did not. The search is bounded: a key may stay
//! undecided, which is neither kept nor broken.
//!
//! Source: Herlihy and Wing, "Linearizability" (1990), with its locality for keys.

mod model;
mod search;

use std::collections::BTreeMap;

use crate::history::{BucketKind, Operation};
use crate::run::Violation;

use super::{Fresh, Terms, by_key};

pub use model::{State, Step};
pub use search::{Span, Verdict, search};

/// How many attempts to place an operation one key may cost.
const STEPS_MAX: u64 = 500_000;

/// How many keys were decided, and how many were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// Keys found to be linearizable.
    pub keys: u64,
    /// Keys whose search was broken off.
    pub undecided: u64,
}

/// Checks the bucket of single copies, when no host has lost what it had acknowledged.
///
/// # Errors
/// The first key that is not linearizable.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<Decided, Violation> {
    let mut decided = Decided::default();
    if terms.fresh(BucketKind::Single) != Fresh::Always {
        return Ok(decided);
    }
    let single = operations.iter().filter(|operation| operation.bucket == BucketKind::Single);
    let keys: BTreeMap<_, _> = by_key(single);
    for ((_, key), operations) in keys {
        match check_key(&operations, STEPS_MAX) {
            Verdict::Linearizable => decided.keys += 1,
            Verdict::Undecided => decided.undecided += 1,
            Verdict::Broken { stuck_at } => {
                let told = stuck_at.and_then(|place| operations.get(place)).map(|stuck| stuck.describe());
                let told = told.unwrap_or_default();
                let all: Vec<String> = operations.iter().map(|operation| operation.describe()).collect();
                let story = format!("{key} has no order that explains: {told}\n  {}", all.join("\n  "));
                return Err(Violation::new("linearizable", story));
            }
        }
    }
    Ok(decided)
}

/// Decides the operations of one key, trying at most `steps_max` times to place one of them.
#[must_use]
pub fn check_key(operations: &[&Operation], steps_max: u64) -> Verdict {
    let operations = operations.iter().enumerate();
    let spans: Vec<_> = operations.filter_map(|(place, operation)| model::span(place, operation)).collect();
    search(&spans, steps_max)
}

#[cfg(test)]
mod tests;
