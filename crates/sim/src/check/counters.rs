//! A counter holds at least what was acknowledged, and at most what may have happened.
//!
//! Source: Jepsen's counter test.

use std::collections::BTreeMap;

use super::{Values, Violation};
use crate::history::{Action, Operation};

pub(super) fn check(operations: &[Operation], values: &Values) -> Result<(), Violation> {
    let mut bounds: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for operation in operations {
        if let Action::Add(delta) = operation.action {
            let (least, most) = bounds.entry(&operation.key).or_default();
            *least += if operation.is_acknowledged() { delta } else { 0 };
            *most += if operation.may_have_happened() { delta } else { 0 };
        }
    }
    for (key, (least, most)) in bounds {
        let value = values.get(key).map_or(Some(0), |text| text.parse().ok());
        if !value.is_some_and(|value| (least..=most).contains(&value)) {
            return Err(Violation(format!("{key} holds {value:?}, which is not in {least}..={most}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{acknowledged, operation};

    #[test]
    fn lost_and_doubled_increments_are_found() {
        let operations = [operation(Action::Add(5), 0, acknowledged(1)), operation(Action::Add(2), 0, None)];
        let holds = |value: &str| Values::from([("k".to_owned(), value.to_owned())]);
        for (value, is_right) in [("4", false), ("5", true), ("7", true), ("8", false), ("x", false)] {
            assert_eq!(check(&operations, &holds(value)).is_ok(), is_right, "{value}");
        }
        assert!(check(&operations, &Values::new()).is_err());
    }
}
