//! No lost write: what a read sees is never older than a write acknowledged before the read began.
//!
//! A read is explained by one attempt: the write of the value seen or, where nothing was seen, a deletion or
//! a value that has expired. That attempt must not have been over before the newest such acknowledged write
//! began, in real time: wrong clocks excuse nothing but when a value expires. A deletion that comes undone is
//! such a loss, and so is a value that is gone before its time.
//!
//! Source: Lamport, "On Interprocess Communication" (1986), regular registers, for many writers as in Shao et
//! al. (2011); Dynamo (SOSP 2007), 4.5, for `r + w > n`.

use crate::history::{Action, Operation};
use crate::run::Violation;

use super::{Terms, by_key};

/// Checks a history.
///
/// # Errors
/// The first read that has missed a write.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        let is_write = |operation: &&&Operation| {
            operation.may_have_written() && !matches!(operation.action, Action::Add(_))
        };
        let writes: Vec<&Operation> = operations.iter().filter(is_write).copied().collect();
        for read in operations.iter().filter(|read| terms.must_be_fresh(read)) {
            if let Some(story) = missed(read, &writes, terms.skew_ms) {
                return Err(Violation::new("no_lost_write", story));
            }
        }
    }
    Ok(())
}

/// What a read has missed, if anything.
fn missed(read: &Operation, writes: &[&Operation], skew_ms: u64) -> Option<String> {
    let (seen, at) = read.seen()?;
    let explains = |write: &Operation| match (&write.action, seen) {
        (action, Some(seen)) => action.value() == Some(seen),
        (Action::Set { expires_at: Some(expires_at), .. }, None) => *expires_at <= at + skew_ms,
        (Action::Delete, None) => true,
        _ => false,
    };
    let explanations = || writes.iter().filter(|write| write.start_ms <= at && explains(write));
    let is_before = |write: &&&Operation| write.acked_at().is_some_and(|acked| acked < read.start_ms);
    let newest = writes.iter().filter(is_before).max_by_key(|write| write.start_ms)?;
    let is_new_enough = |write: &&Operation| write.latest_effect_ms() >= newest.start_ms;
    if explanations().any(is_new_enough) {
        return None;
    }
    Some(format!("{}, but before it {}", read.describe(), newest.describe()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::check::samples::{acked, get, operation, set, unknown};
    use crate::history::{BucketKind, Outcome};

    const TERMS: Terms =
        Terms { skew_ms: 0, late_ms: 0, hosts_that_lost_power: 0, is_thin: false, bereft: BTreeSet::new() };

    fn is_kept(operations: &[Operation]) -> bool {
        check(operations, &TERMS).is_ok()
    }

    fn delete(start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
        operation(Action::Delete, start_ms, end)
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_found() {
        let write = set("a", 0, acked(10));
        assert!(is_kept(&[write.clone(), get(Some("a"), 20, 30)]));
        assert!(!is_kept(&[write.clone(), get(None, 20, 30)]));
        assert!(is_kept(&[write, get(None, 5, 30)]), "the read began before the acknowledgement");
    }

    #[test]
    fn an_older_value_is_found_and_a_concurrent_or_unknown_one_is_not() {
        let newest = set("b", 20, acked(30));
        let seen = |older: Operation| is_kept(&[older, newest.clone(), get(Some("a"), 40, 50)]);
        assert!(!seen(set("a", 0, acked(10))));
        assert!(seen(set("a", 0, acked(25))));
        assert!(seen(set("a", 0, unknown(10))));
        assert!(seen(set("a", 0, None)));
    }

    #[test]
    fn clocks_that_differ_excuse_no_older_value() {
        let history = [set("a", 0, acked(10)), set("b", 20, acked(30)), get(Some("a"), 40, 50)];
        for skew_ms in [0, 10, 7_200_000] {
            assert!(check(&history, &Terms { skew_ms, ..TERMS }).is_err());
        }
    }

    #[test]
    fn clocks_that_differ_excuse_an_early_end_as_far_as_they_differ() {
        let mortal = Action::Set { value: "a".to_owned(), expires_at: Some(100) };
        let history = [operation(mortal, 0, acked(10)), get(None, 50, 60)];
        assert!(check(&history, &Terms { skew_ms: 39, ..TERMS }).is_err());
        assert!(check(&history, &Terms { skew_ms: 40, ..TERMS }).is_ok());
    }

    #[test]
    fn a_deletion_that_comes_undone_is_found() {
        let history = [set("a", 0, acked(10)), delete(20, acked(30))];
        assert!(is_kept(&[&history[..], &[get(None, 40, 50)]].concat()));
        assert!(!is_kept(&[&history[..], &[get(Some("a"), 40, 50)]].concat()));
    }

    #[test]
    fn a_deleter_that_finds_nothing_has_read() {
        let nothing = delete(20, Some((30, Outcome::NothingThere)));
        assert!(!is_kept(&[set("a", 0, acked(10)), nothing]));
    }

    #[test]
    fn an_expired_value_may_be_gone_but_not_before_its_time() {
        let action = Action::Set { value: "a".to_owned(), expires_at: Some(100) };
        let mortal = operation(action, 0, acked(10));
        assert!(is_kept(&[mortal.clone(), get(Some("a"), 99, 120)]));
        assert!(is_kept(&[mortal.clone(), get(None, 99, 120)]));
        assert!(!is_kept(&[mortal, get(None, 50, 60)]));
    }

    #[test]
    fn a_bucket_is_held_to_what_it_promises() {
        let mut history = [set("a", 0, acked(10)), get(None, 20, 30)];
        history.iter_mut().for_each(|operation| operation.bucket = BucketKind::Buffered);
        let with = |hosts_that_lost_power| Terms { hosts_that_lost_power, ..TERMS };
        assert!(check(&history, &with(0)).is_err());
        assert!(check(&history, &with(1)).is_ok());
        history[1].is_final = true;
        assert!(check(&history, &with(1)).is_err());
        assert!(check(&history, &with(2)).is_ok());
        let bereft = |bucket| Terms { bereft: BTreeSet::from([bucket]), ..TERMS };
        assert!(check(&history, &bereft(BucketKind::Buffered)).is_ok());
        assert!(check(&history, &bereft(BucketKind::Fsync)).is_err(), "another one is");
    }
}
