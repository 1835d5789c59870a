//! No phantom: every value that is read was written by a known attempt on that key, begun before the read
//! ended and not refused.
//!
//! Source: Burckhardt, "Principles of Eventual Consistency" (2014), 5: no values out of thin air.

use crate::history::{Operation, Outcome};
use crate::run::Violation;

use super::by_key;

/// Checks a history.
///
/// # Errors
/// The first read of a value that nobody can have written.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        for read in operations {
            if let Some(story) = phantom(read, operations) {
                return Err(Violation::new("no_phantom", story));
            }
        }
    }
    Ok(())
}

/// The first value a read saw that nobody can have written.
fn phantom(read: &Operation, operations: &[&Operation]) -> Option<String> {
    let (seen, at) = match &read.end {
        Some((at, Outcome::Found(Some(value)))) => (std::slice::from_ref(value), *at),
        Some((at, Outcome::FoundAll(values))) => (values.as_slice(), *at),
        _ => return None,
    };
    seen.iter().find_map(|seen| {
        let wrote = |write: &&&Operation| write.action.value() == Some(seen);
        match operations.iter().find(wrote) {
            Some(write) if write.may_have_written() && write.start_ms <= at => None,
            Some(write) => Some(format!("{}, but {}", read.describe(), write.describe())),
            None => Some(format!("{}, never written", read.describe())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acked, get, operation, refused, set, unknown};
    use crate::history::Action;

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        let known = [set("a", 0, acked(1)), set("b", 2, unknown(3)), set("c", 2, None)];
        for value in ["a", "b", "c"] {
            assert_eq!(check(&[&known[..], &[get(Some(value), 4, 5)]].concat()), Ok(()));
        }
        assert!(check(&[&known[..], &[get(Some("d"), 4, 5)]].concat()).is_err());
    }

    #[test]
    fn a_refused_write_that_is_read_and_a_value_from_the_future_are_found() {
        assert!(check(&[set("a", 0, refused(1)), get(Some("a"), 4, 5)]).is_err());
        assert!(check(&[set("a", 6, acked(7)), get(Some("a"), 4, 5)]).is_err());
    }

    #[test]
    fn each_of_several_values_must_have_been_written() {
        let all = |values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            operation(Action::GetAll, 4, Some((5, Outcome::FoundAll(values))))
        };
        let known = [set("a", 0, acked(1)), set("b", 2, unknown(3))];
        assert_eq!(check(&[&known[..], &[all(&["a", "b"])]].concat()), Ok(()));
        assert!(check(&[&known[..], &[all(&["a", "d"])]].concat()).is_err());
    }

    #[test]
    fn another_key_does_not_excuse_a_value() {
        let mut elsewhere = set("a", 0, acked(1));
        elsewhere.key = "other".to_owned();
        assert!(check(&[elsewhere, get(Some("a"), 4, 5)]).is_err());
    }
}
