//! A read that begins after a write was acknowledged sees it, or one that was not before it.
//!
//! Holds while reads and writes meet on a replica (`r + w > n`). A power loss may take an acknowledged write
//! from one replica of a buffered bucket, so runs with one are not asked.
//!
//! Source: regular registers, Lamport, "On Interprocess Communication" (1986).

use super::Violation;
use crate::history::{Action, Operation, Outcome};

pub(super) fn check(operations: &[Operation]) -> Result<(), Violation> {
    for read in operations.iter().filter(|operation| operation.action == Action::Get) {
        let Some((_, Outcome::Found(found))) = &read.ended else { continue };
        let of_key = |other: &&Operation| other.key == read.key;
        let is_seen = |write: &Operation| {
            let explains = |other: &&Operation| match &other.action {
                Action::Set(value) => found.as_ref() == Some(value),
                Action::Delete => found.is_none(),
                _ => false,
            };
            operations
                .iter()
                .filter(of_key)
                .filter(explains)
                .any(|other| other.may_have_happened() && !other.is_before(write))
        };
        let is_write = |other: &&Operation| matches!(other.action, Action::Set(_) | Action::Delete);
        let before = operations
            .iter()
            .filter(of_key)
            .filter(is_write)
            .filter(|write| write.is_acknowledged() && write.is_before(read));
        if let Some(missed) = before.into_iter().find(|write| !is_seen(write)) {
            return Err(Violation(format!(
                "{read:?} missed {missed:?}, which was acknowledged before it began"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{acknowledged, operation, set};

    #[test]
    fn a_read_that_misses_an_acknowledged_write_is_found() {
        let read = |value: Option<&str>, began_ms| {
            operation(Action::Get, began_ms, Some((began_ms + 1, Outcome::Found(value.map(str::to_owned)))))
        };
        let writes = [set("a", 0, acknowledged(1)), set("b", 2, acknowledged(4))];
        let with = |read: Operation| check(&[writes[0].clone(), writes[1].clone(), read]);
        assert_eq!(with(read(Some("b"), 9)), Ok(()));
        assert_eq!(with(read(Some("a"), 3)), Ok(()), "the second write was under way");
        assert!(with(read(Some("a"), 9)).is_err());
        assert!(with(read(None, 9)).is_err());
    }
}
