//! No answer that no fault excuses: damaged bytes, an internal error, a right call refused as wrong.
//!
//! Source: the meaning of each `ErrorKind` in the model crate.

use crate::history::{Operation, Outcome};
use crate::run::Violation;

/// Checks a history.
///
/// # Errors
/// The first such answer.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    let is_broken = |operation: &&Operation| matches!(operation.end, Some((_, Outcome::Broken(_))));
    match operations.iter().find(is_broken) {
        Some(operation) => Err(Violation::new("no_broken_answer", operation.describe())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{set, unknown};

    #[test]
    fn an_internal_error_is_found_among_excusable_ones() {
        let mut operations = vec![set("a", 0, unknown(5)), set("b", 0, None)];
        assert_eq!(check(&operations), Ok(()));
        operations.push(set("c", 0, Some((1, Outcome::Broken("Internal".to_owned())))));
        assert!(check(&operations).is_err());
    }
}
