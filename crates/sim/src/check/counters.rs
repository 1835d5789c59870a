//! Counters add up: a counter is never below the increments acknowledged before the read, nor above all that
//! may have happened by its end. One that may have been deleted may be below, but not below the increments that began
//! after the last deletion was over. An increment that is told the sum after it has read the counter, too.
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
    let is_deletion =
        |operation: &&&Operation| operation.action == Action::Delete && operation.may_have_written();
    let deletions = operations.iter().filter(is_deletion);
    let deleted_ms = deletions.map(|deletion| deletion.latest_effect_ms()).max();
    sum(operations, |operation| {
        let is_later = deleted_ms.is_none_or(|deleted_ms| deleted_ms < operation.start_ms);
        is_later && operation.acked_at().is_some_and(|acked| acked < at)
    })
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
    fn a_deletion_takes_with_it_what_was_added_before_and_no_more() {
        let deletion = |end| operation(Action::Delete, 10, end);
        let total = |total| operation(Action::Total, 40, Some((45, Outcome::Counted(total))));
        let is_right = |deletion, counted| {
            let adds = [(3, 0, 5), (4, 12, 15), (5, 30, 35)];
            let added = |(delta, start, end): (i64, u64, u64)| {
                operation(Action::Add(delta), start, Some((end, Outcome::Added(delta))))
            };
            let history = adds.map(added).into_iter().chain([deletion, total(counted)]).collect::<Vec<_>>();
            check(&history, &Terms::default()).is_ok()
        };
        let right = [0, 4, 5, 9, 12, 13].map(|counted| is_right(deletion(acked(20)), counted));
        assert_eq!(right, [false, false, true, true, true, false]);
        assert!(is_right(deletion(unknown(20)), 0), "it may come at any time");
        assert!(!is_right(deletion(refused(20)), 9));
    }

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
