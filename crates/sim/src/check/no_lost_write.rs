//! An acknowledged write is there at the end, unless a write that was not before it took its place.
//!
//! Source: Jepsen's "set" and register tests: an unacknowledged write is unknown, not lost.

use super::{Values, Violation};
use crate::history::{Action, Operation};

pub(super) fn check(operations: &[Operation], values: &Values) -> Result<(), Violation> {
    let is_write = |operation: &&Operation| matches!(operation.action, Action::Set(_) | Action::Delete);
    for acknowledged in operations.iter().filter(is_write).filter(|operation| operation.is_acknowledged()) {
        let found = values.get(&acknowledged.key);
        let explains = |other: &&Operation| {
            other.key == acknowledged.key
                && other.may_have_happened()
                && match &other.action {
                    Action::Set(value) => found == Some(value),
                    Action::Delete => found.is_none(),
                    _ => false,
                }
        };
        let is_explained = operations.iter().filter(explains).any(|other| !other.is_before(acknowledged));
        if !is_explained {
            let message = format!(
                "{acknowledged:?} was acknowledged, and the key holds {found:?}, which was before it"
            );
            return Err(Violation(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{acknowledged, operation, set};

    fn holds(value: Option<&str>) -> Values {
        value.map(|value| ("k".to_owned(), value.to_owned())).into_iter().collect()
    }

    #[test]
    fn a_lost_write_is_found() {
        let operations = [set("a", 0, acknowledged(1)), set("b", 2, acknowledged(3))];
        assert_eq!(check(&operations, &holds(Some("b"))), Ok(()));
        assert!(check(&operations, &holds(Some("a"))).is_err(), "the later write is lost");
        assert!(check(&operations, &holds(None)).is_err(), "nobody deleted");
    }

    #[test]
    fn concurrent_and_unknown_writes_may_take_its_place() {
        let concurrent = [set("a", 0, acknowledged(5)), set("b", 2, acknowledged(3))];
        assert_eq!(check(&concurrent, &holds(Some("a"))), Ok(()));
        let unknown = [operation(Action::Delete, 0, None), set("a", 1, acknowledged(2))];
        assert_eq!(check(&unknown, &holds(None)), Ok(()));
    }
}
