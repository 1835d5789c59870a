//! No phantom: every value that is read was written by a known attempt on that key, begun before the read
//! ended and not refused.
//!
//! Source: Burckhardt, "Principles of Eventual Consistency" (2014), 5: no values out of thin air.

use crate::history::{Action, Operation};
use crate::run::Violation;

use super::by_key;

/// Checks a history.
///
/// # Errors
/// The first read of a value that nobody can have written.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        for read in operations {
            let Some((Some(seen), at)) = read.seen() else { continue };
            let wrote =
                |write: &&&Operation| matches!(&write.action, Action::Set { value, .. } if value == seen);
            let can_have_written = |write: &Operation| write.may_have_written() && write.start_ms <= at;
            match operations.iter().find(wrote) {
                Some(write) if can_have_written(write) => {}
                Some(write) => {
                    let story = format!("{}, but {}", read.describe(), write.describe());
                    return Err(Violation::new("no_phantom", story));
                }
                None => {
                    return Err(Violation::new("no_phantom", format!("{}, never written", read.describe())));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acked, get, refused, set, unknown};

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
    fn another_key_does_not_excuse_a_value() {
        let mut elsewhere = set("a", 0, acked(1));
        elsewhere.key = "other".to_owned();
        assert!(check(&[elsewhere, get(Some("a"), 4, 5)]).is_err());
    }
}
