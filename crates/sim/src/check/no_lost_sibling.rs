//! No lost sibling: where clients resolve concurrent values, an acknowledged value is there until a write
//! that had seen it takes its place, and once such a write is acknowledged it is there no more.
//!
//! Source: Preguiça et al., "Dotted Version Vectors" (2010), 3: no lost updates, no false concurrency; Riak's
//! sibling tests.

use crate::history::{Action, Operation, Outcome};
use crate::run::Violation;

use super::{Terms, by_key};

/// Checks a history.
///
/// # Errors
/// The first read that lacks a value or shows one that was replaced.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        // A write that has seen nothing replaces what its coordinator holds, and nobody knows what that was.
        if operations.iter().any(|write| write.may_have_written() && seen_by(write).is_none()) {
            continue;
        }
        for read in operations.iter().filter(|read| terms.must_be_fresh(read)) {
            if let Some(story) = lost(read, operations).or_else(|| returned(read, operations)) {
                return Err(Violation::new("no_lost_sibling", story));
            }
        }
    }
    Ok(())
}

/// The acknowledged value that a read lacks though nobody may have replaced it.
fn lost(read: &Operation, operations: &[&Operation]) -> Option<String> {
    let (values, at) = found(read)?;
    let is_due = |write: &&&Operation| write.acked_at().is_some_and(|acked| acked < read.start_ms);
    let missing = operations.iter().filter(is_due).find(|write| {
        let Some(value) = write.action.value() else { return false };
        let replaces =
            |other: &&Operation| other.may_have_written() && other.start_ms <= at && has_seen(other, value);
        !values.iter().any(|found| found == value) && !operations.iter().any(replaces)
    })?;
    Some(format!("{}, but nobody replaced: {}", read.describe(), missing.describe()))
}

/// The replaced value that a read shows.
fn returned(read: &Operation, operations: &[&Operation]) -> Option<String> {
    let (values, _) = found(read)?;
    let replaces = |write: &&&Operation| {
        write.acked_at().is_some_and(|acked| acked < read.start_ms)
            && values.iter().any(|value| has_seen(write, value))
    };
    let replacement = operations.iter().find(replaces)?;
    Some(format!("{}, but before it {}", read.describe(), replacement.describe()))
}

fn found(read: &Operation) -> Option<(&[String], u64)> {
    match &read.end {
        Some((at, Outcome::FoundAll(values))) => Some((values, *at)),
        _ => None,
    }
}

fn seen_by(write: &Operation) -> Option<&[String]> {
    match &write.action {
        Action::Replace { seen, .. } => Some(seen),
        _ => None,
    }
}

fn has_seen(write: &Operation, value: &str) -> bool {
    seen_by(write).is_some_and(|seen| seen.iter().any(|seen| seen == value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acked, operation, set, unknown};

    fn owned(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn replace(seen: &[&str], value: Option<&str>, start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
        let value = value.map(str::to_owned);
        operation(Action::Replace { value, seen: owned(seen) }, start_ms, end)
    }

    fn all(values: &[&str], start_ms: u64, end_ms: u64) -> Operation {
        operation(Action::GetAll, start_ms, Some((end_ms, Outcome::FoundAll(owned(values)))))
    }

    fn is_kept(operations: &[Operation]) -> bool {
        check(operations, &Terms::default()).is_ok()
    }

    #[test]
    fn of_two_concurrent_values_none_may_be_lost() {
        let writes = [replace(&[], Some("a"), 0, acked(10)), replace(&[], Some("b"), 0, acked(10))];
        let reads = |values: &[&str]| is_kept(&[&writes[..], &[all(values, 20, 30)]].concat());
        assert!(reads(&["a", "b"]));
        assert!(!reads(&["b"]) && !reads(&[]));
    }

    #[test]
    fn a_value_gives_way_to_a_write_that_had_seen_it_even_one_of_unknown_outcome() {
        let first = replace(&[], Some("a"), 0, acked(10));
        for end in [acked(30), unknown(30), None] {
            let second = replace(&["a"], Some("b"), 20, end);
            assert!(is_kept(&[first.clone(), second, all(&["b"], 40, 50)]));
        }
        let blind = replace(&[], Some("b"), 20, acked(30));
        assert!(!is_kept(&[first, blind, all(&["b"], 40, 50)]));
    }

    #[test]
    fn a_replaced_or_deleted_value_that_returns_is_found() {
        let first = replace(&[], Some("a"), 0, acked(10));
        for (value, seen) in [(Some("b"), &["a", "b"][..]), (None, &["a"])] {
            let second = replace(&["a"], value, 20, acked(30));
            assert!(!is_kept(&[first.clone(), second.clone(), all(seen, 40, 50)]));
            assert!(is_kept(&[first.clone(), second, all(seen, 25, 50)]), "the read began too early");
        }
        let unknown = replace(&["a"], Some("b"), 20, unknown(30));
        assert!(is_kept(&[first, unknown, all(&["a"], 40, 50)]));
    }

    #[test]
    fn a_blind_write_ends_all_claims_on_its_key() {
        let writes = [replace(&[], Some("a"), 0, acked(10)), set("b", 0, acked(10))];
        assert!(is_kept(&[&writes[..], &[all(&["b"], 20, 30)]].concat()));
    }
}
