//! No resurrection: once a deletion is acknowledged and nobody wrote or may have written since, the key stays
//! away, in the last reads of every host, too.
//!
//! Source: the tombstones of Dynamo's descendants (Cassandra's `gc_grace_seconds`, Riak's `delete_mode`): what
//! forgets a deletion before all replicas have it brings the value back.

use crate::history::{Action, Operation};
use crate::run::Violation;

use super::versions::{Version, Versions};
use super::{Terms, by_key};

/// Checks a history.
///
/// # Errors
/// The first read of a value that was deleted for good.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        let versions = Versions::new(operations, terms.skew_ms);
        let Some((deletion, acked)) = last_word(&versions) else { continue };
        let sees_something =
            |read: &&&Operation| matches!(read.seen(), Some((Some(_), _))) && read.start_ms > acked;
        let mut later = operations.iter().filter(|read| terms.must_be_fresh(read));
        if let Some(read) = later.find(sees_something) {
            let story = format!("{}, though nobody wrote after: {}", read.describe(), deletion.describe());
            return Err(Violation::new("no_resurrection", story));
        }
    }
    Ok(())
}

/// The deletion that came certainly after every value of its key, and when it was acknowledged.
fn last_word<'h>(versions: &Versions<'h>) -> Option<(&'h Operation, u64)> {
    let is_value = |version: &&Version<'h>| version.write.action.value().is_some();
    let is_last = |deletion: &&Version<'h>| {
        deletion.write.action == Action::Delete
            && versions.iter().filter(is_value).all(|value| versions.is_older(value, deletion))
    };
    let deletions =
        versions.iter().filter(is_last).filter_map(|last| Some((last.write, last.write.acked_at()?)));
    deletions.min_by_key(|(_, acked)| *acked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{acked, get, operation, set, unknown};
    use crate::history::{BucketKind, Outcome};

    fn is_kept(operations: &[Operation]) -> bool {
        check(operations, &Terms::default()).is_ok()
    }

    fn delete(start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
        operation(Action::Delete, start_ms, end)
    }

    #[test]
    fn a_deleted_value_that_is_read_again_is_found() {
        let history = [set("a", 0, acked(10)), delete(20, acked(30))];
        let reads = |read| is_kept(&[&history[..], &[read]].concat());
        assert!(reads(get(None, 40, 50)));
        assert!(!reads(get(Some("a"), 40, 50)));
        assert!(reads(get(Some("a"), 25, 50)), "the read began before the acknowledgement");
    }

    #[test]
    fn an_unknown_write_excuses_unless_it_was_seen_before() {
        let history = |seen: &[Operation]| {
            let end = [delete(20, acked(30)), get(Some("a"), 40, 50)];
            [&[set("a", 0, unknown(5))][..], seen, &end].concat()
        };
        assert!(is_kept(&history(&[])), "it may have happened after the deletion");
        assert!(!is_kept(&history(&[get(Some("a"), 6, 9)])));
    }

    #[test]
    fn an_unknown_deletion_and_a_write_that_may_be_later_promise_nothing() {
        assert!(is_kept(&[set("a", 0, acked(10)), delete(20, unknown(30)), get(Some("a"), 40, 50)]));
        let history = [set("a", 0, acked(10)), delete(20, acked(30)), set("b", 25, unknown(28))];
        assert!(is_kept(&[&history[..], &[get(Some("b"), 40, 50)]].concat()));
    }

    #[test]
    fn a_bucket_is_held_to_what_it_promises() {
        let mut history = [set("a", 0, acked(10)), delete(20, acked(30)), get(Some("a"), 40, 50)];
        history.iter_mut().for_each(|operation| operation.bucket = BucketKind::Buffered);
        let terms = |hosts_that_lost_power| Terms { hosts_that_lost_power, ..Terms::default() };
        assert!(check(&history, &terms(0)).is_err());
        assert!(check(&history, &terms(2)).is_ok(), "the deletion may have been lost");
        assert!(check(&history, &Terms { skew_ms: 1_000, ..Terms::default() }).is_err());
    }
}
