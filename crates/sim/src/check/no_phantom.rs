//! Every value that is read was written by somebody, to that key, and not after it was read.
//!
//! Source: "no values out of thin air", a part of every consistency model.

use super::{Values, Violation};
use crate::history::{Action, Operation, Outcome};

pub(super) fn check(operations: &[Operation], values: &Values) -> Result<(), Violation> {
    let reads = operations.iter().filter_map(|operation| match &operation.ended {
        Some((at, Outcome::Found(Some(value)))) => Some((&operation.key, value, *at)),
        _ => None,
    });
    let last = values.iter().map(|(key, value)| (key, value, u64::MAX));
    for (key, value, at) in reads.chain(last).filter(|(key, ..)| !key.starts_with("counter")) {
        let wrote = |operation: &Operation| {
            operation.key == *key
                && operation.began_ms <= at
                && operation.may_have_happened()
                && operation.action == Action::Set(value.clone())
        };
        if !operations.iter().any(wrote) {
            return Err(Violation(format!("\"{value}\" was read of \"{key}\", and nobody had written it")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{acknowledged, operation, set};

    #[test]
    fn a_value_that_nobody_wrote_is_found() {
        let read =
            |value: &str, at| operation(Action::Get, at, Some((at, Outcome::Found(Some(value.to_owned())))));
        let write = set("a", 5, acknowledged(6));
        assert_eq!(check(&[write.clone(), read("a", 5)], &Values::new()), Ok(()));
        assert!(check(&[write.clone(), read("b", 9)], &Values::new()).is_err());
        assert!(check(&[write, read("a", 4)], &Values::new()).is_err(), "read before it was written");
        let refused = set("a", 0, Some((1, Outcome::Refused)));
        assert!(check(&[refused, read("a", 4)], &Values::new()).is_err(), "a refused write has no effect");
    }
}
