//! Counters add up: a counter is never below the increments acknowledged before the read, nor above all that
//! may have happened by its end. An increment that is told the sum after it has read the counter, too.
//!
//! Source: Jepsen's counter test; Shapiro et al., CRDT report (2011), PN-counter.

use crate::history::{Action, Operation, Outcome};
use crate::run::Violation;

use super::{Terms, by_key};

/// Checks a history.
///
/// # Errors
/// The first read of a counter outside its bounds.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        for read in operations {
            let (at, total, own) = match (&read.end, &read.action) {
                (Some((at, Outcome::Counted(total))), _) => (*at, total, 0),
                (Some((at, Outcome::Added(total))), Action::Add(own)) => (*at, total, *own),
                _ => continue,
            };
            let known = if terms.must_be_fresh(read) { acked_before(operations, read.start_ms) } else { 0 };
            let (least, most) = (known + own, begun_by(operations, at));
            if !(least..=most).contains(total) {
                let story = format!("{}, which is not in {least}..={most}", read.describe());
                return Err(Violation::new("counters", story));
            }
        }
    }
    Ok(())
}

fn acked_before(operations: &[&Operation], at: u64) -> i64 {
    sum(operations, |operation| operation.acked_at().is_some_and(|acked| acked < at))
}

fn begun_by(operations: &[&Operation], at: u64) -> i64 {
    sum(operations, |operation| operation.may_have_written() && operation.start_ms <= at)
}

fn sum(operations: &[&Operation], counts: impl Fn(&Operation) -> bool) -> i64 {
    let delta = |operation: &&Operation| match operation.action {
        Action::Add(delta) if counts(operation) => delta,
        _ => 0,
    };
    operations.iter().map(delta).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acked, operation, refused, unknown};

    #[test]
    fn a_lost_increment_and_one_counted_twice_are_found() {
        let history = [
            operation(Action::Add(3), 0, acked(5)),
            operation(Action::Add(4), 0, unknown(5)),
            operation(Action::Add(5), 0, refused(5)),
        ];
        let is_kept = |total| {
            let read = operation(Action::Total, 10, Some((20, Outcome::Counted(total))));
            check(&[&history[..], &[read]].concat(), &Terms::default()).is_ok()
        };
        assert!(is_kept(3) && is_kept(7));
        assert!(!is_kept(2), "an acknowledged increment is missing");
        assert!(!is_kept(10), "more than all that may have happened");
    }

    #[test]
    fn an_increment_that_does_not_see_those_before_it_is_found() {
        let add = |total| operation(Action::Add(4), 10, Some((20, Outcome::Added(total))));
        let is_kept =
            |total| check(&[operation(Action::Add(3), 0, acked(5)), add(total)], &Terms::default()).is_ok();
        assert!(is_kept(7) && !is_kept(4) && !is_kept(3) && !is_kept(8));
    }

    #[test]
    fn an_increment_acknowledged_after_the_read_began_may_be_missing() {
        let read = operation(Action::Total, 4, Some((20, Outcome::Counted(0))));
        assert_eq!(check(&[operation(Action::Add(3), 0, acked(5)), read], &Terms::default()), Ok(()));
    }
}
