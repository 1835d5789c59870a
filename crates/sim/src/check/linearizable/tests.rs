//! Histories of one key that have an order and that have none.

use super::*;
use crate::check::samples::{acked, get, operation, refused, set, unknown};
use crate::history::{Action, Outcome};

fn is_kept(operations: &[Operation]) -> bool {
    let verdict = check_key(&operations.iter().collect::<Vec<_>>(), STEPS_MAX);
    assert_ne!(verdict, Verdict::Undecided);
    verdict == Verdict::Linearizable
}

fn compare(expected: Option<&str>, value: &str, start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
    let expected = expected.map(str::to_owned);
    operation(Action::CompareAndSet { expected, value: value.to_owned() }, start_ms, end)
}

fn delete(start_ms: u64, end: Option<(u64, Outcome)>) -> Operation {
    operation(Action::Delete, start_ms, end)
}

#[test]
fn a_read_between_two_writes_sees_either_and_then_no_older_one() {
    let writes = [set("a", 0, acked(10)), set("b", 20, acked(60))];
    let kept = |reads: &[Operation]| is_kept(&[&writes[..], reads].concat());
    assert!(kept(&[get(Some("a"), 30, 35), get(Some("b"), 40, 45)]));
    assert!(!kept(&[get(Some("b"), 30, 35), get(Some("a"), 40, 45)]), "new, then old");
    assert!(kept(&[get(Some("b"), 30, 40), get(Some("a"), 40, 45)]), "they touch");
    assert!(!kept(&[get(None, 30, 35)]));
    assert!(!kept(&[get(Some("a"), 70, 75)]));
}

#[test]
fn an_unknown_write_happens_late_or_never_but_not_early_nor_twice() {
    let history = |reads: &[Operation]| {
        let writes = [set("a", 0, acked(10)), set("b", 20, unknown(30))];
        [&writes[..], reads].concat()
    };
    assert!(is_kept(&history(&[get(Some("a"), 40, 50), get(Some("b"), 60, 70)])));
    assert!(is_kept(&history(&[get(Some("a"), 40, 50)])));
    assert!(!is_kept(&history(&[get(Some("b"), 12, 15)])));
    let again = [get(Some("b"), 40, 50), set("c", 55, acked(60)), get(Some("b"), 70, 80)];
    assert!(!is_kept(&history(&again)));
}

#[test]
fn a_refused_write_did_not_happen() {
    assert!(is_kept(&[set("a", 0, refused(10)), get(None, 20, 30)]));
    assert!(!is_kept(&[set("a", 0, refused(10)), get(Some("a"), 20, 30)]));
}

#[test]
fn of_two_that_compare_with_the_same_value_one_succeeds() {
    let begin = set("a", 0, acked(10));
    let b = compare(Some("a"), "b", 20, acked(40));
    let unequal = Some((40, Outcome::Unequal));
    assert!(is_kept(&[begin.clone(), b.clone(), compare(Some("a"), "c", 20, unequal.clone())]));
    assert!(!is_kept(&[begin.clone(), b, compare(Some("a"), "c", 20, acked(40))]));
    assert!(!is_kept(&[begin.clone(), compare(Some("a"), "c", 20, unequal.clone())]));
    assert!(is_kept(&[begin, compare(None, "c", 20, unequal)]));
    assert!(is_kept(&[compare(None, "c", 20, unknown(30)), get(Some("c"), 40, 50)]));
}

#[test]
fn a_deletion_knows_whether_there_was_something() {
    let nothing = |start, end| delete(start, Some((end, Outcome::NothingThere)));
    let begin = set("a", 0, acked(10));
    assert!(is_kept(&[begin.clone(), delete(20, acked(30)), nothing(40, 50), get(None, 60, 70)]));
    assert!(!is_kept(&[begin.clone(), nothing(20, 30)]));
    assert!(!is_kept(&[begin.clone(), delete(20, acked(30)), delete(40, acked(50))]));
    assert!(!is_kept(&[begin, delete(20, acked(30)), get(Some("a"), 40, 50)]));
}

#[test]
fn sums_add_up_one_after_the_other() {
    let add = |delta, start, end| operation(Action::Add(delta), start, end);
    let added = |at, after| Some((at, Outcome::Added(after)));
    let total = |sum, start, end| operation(Action::Total, start, Some((end, Outcome::Counted(sum))));
    assert!(is_kept(&[add(2, 0, added(10, 5)), add(3, 0, added(10, 3)), total(5, 20, 30)]));
    assert!(!is_kept(&[add(2, 0, added(10, 2)), add(3, 0, added(10, 3))]), "one has missed the other");
    assert!(is_kept(&[add(2, 0, unknown(10)), total(0, 20, 30), total(2, 40, 50)]));
    assert!(!is_kept(&[add(2, 0, unknown(10)), total(2, 20, 30), total(0, 40, 50)]));
}

#[test]
fn a_search_out_of_steps_is_undecided_and_the_stuck_operation_is_named() {
    let writes = (0..10).map(|number| set(&number.to_string(), 0, unknown(10)));
    let history: Vec<Operation> = writes.chain([get(Some("no"), 20, 30)]).collect();
    let history: Vec<&Operation> = history.iter().collect();
    assert_eq!(check_key(&history, 100), Verdict::Undecided);
    assert_eq!(check_key(&history, STEPS_MAX), Verdict::Broken { stuck_at: Some(10) });
}

#[test]
fn only_the_bucket_of_single_copies_is_held_to_it_and_only_without_lost_power() {
    let mut history = [set("a", 0, acked(10)), get(None, 20, 30)];
    let terms = |hosts_that_lost_power| Terms { hosts_that_lost_power, ..Terms::default() };
    assert_eq!(check(&history, &terms(0)), Ok(Decided::default()));
    history.iter_mut().for_each(|operation| operation.bucket = BucketKind::Single);
    assert!(check(&history, &terms(0)).is_err());
    assert_eq!(check(&history, &terms(1)), Ok(Decided::default()));
    history[1].end = Some((30, Outcome::Found(Some("a".to_owned()))));
    assert_eq!(check(&history, &terms(0)), Ok(Decided { keys: 1, undecided: 0 }));
}
