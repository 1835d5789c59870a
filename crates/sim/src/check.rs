//! The checkers: what must be true when everything is healed.

mod convergence;
mod counters;
mod no_lost_write;
mod no_phantom;
mod no_stale_read;

use std::collections::BTreeMap;
use std::fmt;

use slipring_service::Cell;

use crate::history::Operation;
use crate::host::Host;

pub(crate) use convergence::is_converged;

/// What is wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value of each key that has one.
pub(crate) type Values = BTreeMap<String, String>;

/// Checks everything.
pub(crate) fn all(hosts: &[Host], operations: &[Operation], has_lost_power: bool) -> Result<(), Violation> {
    let values = convergence::check(hosts)?;
    no_lost_write::check(operations, &values)?;
    no_phantom::check(operations, &values)?;
    if !has_lost_power {
        no_stale_read::check(operations)?;
    }
    counters::check(operations, &values)
}

fn value_of(cell: &[u8]) -> Option<String> {
    let cell = Cell::decode(cell).ok()?;
    cell.value(0).map(|value| String::from_utf8_lossy(&value.bytes).into_owned())
}

#[cfg(test)]
pub(crate) mod testing {
    //! Histories by hand.

    use crate::history::{Action, Operation, Outcome};

    pub(crate) fn operation(action: Action, began_ms: u64, ended: Option<(u64, Outcome)>) -> Operation {
        Operation { key: "k".to_owned(), action, host: 0, began_ms, ended }
    }

    pub(crate) fn set(value: &str, began_ms: u64, ended: Option<(u64, Outcome)>) -> Operation {
        operation(Action::Set(value.to_owned()), began_ms, ended)
    }

    pub(crate) fn acknowledged(at_ms: u64) -> Option<(u64, Outcome)> {
        Some((at_ms, Outcome::Acknowledged))
    }
}
