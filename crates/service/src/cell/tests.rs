//! Laws of cells: merging, superseding, counting.

use proptest::prelude::*;
use slipring_model::Actor;

use super::*;
use crate::Cells;

fn dot(assignment: u64, counter: u64) -> Dot {
    Dot { actor: Actor { assignment, incarnation: 1 }, counter }
}

fn put(value: &str) -> Change {
    Change::Put { value: value.to_owned().into(), expires_at: None, seen: None }
}

fn write(cell: &Cell<'_>, change: &Change, at: Dot, stamp: u64) -> Cell<'static> {
    own(&cell.clone().changed(change, at, Timestamp(stamp)))
}

/// A copy through the encoding, so that every test exercises it.
fn own(cell: &Cell<'_>) -> Cell<'static> {
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    let decoded = Cell::decode(&bytes).expect("own encoding");
    let siblings = decoded.siblings.iter().map(|sibling| Sibling {
        content: match &sibling.content {
            Content::Register(value) => Content::Register(Cow::Owned(value.to_vec())),
            Content::Sum(sum) => Content::Sum(*sum),
            Content::Tombstone => Content::Tombstone,
            Content::Expired => Content::Expired,
        },
        ..Sibling { baselines: sibling.baselines.clone(), content: Content::Tombstone, ..*sibling }
    });
    Cell { siblings: siblings.collect(), context: decoded.context.clone() }
}

fn text(cell: &Cell<'_>, now_ms: u64) -> Option<String> {
    cell.value(now_ms).map(|value| String::from_utf8_lossy(&value.bytes).into_owned())
}

#[test]
fn a_write_replaces_what_its_coordinator_held_and_nothing_else() {
    let first = write(&Cell::default(), &put("a"), dot(1, 1), 10);
    let second = write(&first, &put("b"), dot(2, 1), 11);
    let concurrent = write(&first, &put("c"), dot(1, 2), 12);
    assert_eq!(text(&second.clone().merge(first.clone()), 0).as_deref(), Some("b"));
    let both = second.merge(concurrent);
    assert_eq!(both.siblings.len(), 2);
    assert_eq!(text(&both, 0).as_deref(), Some("c"), "the later stamp wins");
    assert_eq!(both.values(0).count(), 2);
}

#[test]
fn a_deleted_value_does_not_come_back_by_merging() {
    let value = write(&Cell::default(), &put("a"), dot(1, 1), 10);
    let deleted = write(&value, &Change::Remove { seen: None }, dot(2, 1), 5);
    assert_eq!(text(&deleted.merge(value), 0), None);
}

#[test]
fn increments_on_two_replicas_add_up() {
    let start = write(&Cell::default(), &put("10"), dot(1, 1), 10);
    let left = write(&start, &Change::Add(1), dot(1, 2), 11);
    let left = write(&left, &Change::Add(1), dot(1, 3), 12);
    let right = write(&start, &Change::Add(5), dot(2, 1), 11);
    assert_eq!(text(&left.clone().merge(right.clone()), 0).as_deref(), Some("17"));
    let replaced = write(&left.merge(right.clone()), &put("100"), dot(1, 4), 20);
    let unseen = write(&right, &Change::Add(1), dot(2, 2), 21);
    assert_eq!(text(&replaced.merge(unseen), 0).as_deref(), Some("101"), "only the growth is added");
}

#[test]
fn increments_survive_a_delete_that_had_not_seen_them() {
    let left = write(&Cell::default(), &Change::Add(3), dot(1, 1), 1);
    let deleted = write(&left, &Change::Remove { seen: None }, dot(2, 1), 2);
    assert_eq!(text(&deleted, 0), None);
    let unseen = write(&left, &Change::Add(4), dot(1, 2), 3);
    let merged = deleted.merge(unseen);
    assert_eq!(text(&merged, 0).as_deref(), Some("4"));
    let again = write(&merged, &Change::Add(1), dot(2, 2), 4);
    assert_eq!(text(&again, 0).as_deref(), Some("5"));
}

#[test]
fn a_stale_context_leaves_the_unseen_value_as_a_sibling() {
    let first = write(&Cell::default(), &put("a"), dot(1, 1), 10);
    let seen = first.context.clone();
    let second = write(&first, &put("b"), dot(1, 2), 11);
    let change = Change::Put { value: "c".into(), expires_at: None, seen: Some(seen) };
    let third = write(&second, &change, dot(1, 3), 12);
    assert_eq!(third.values(0).collect::<Vec<_>>(), [b"b".as_slice(), b"c"]);
}

#[test]
fn an_expired_value_is_absent_and_keeps_its_digest() {
    let change = Change::Put { value: "a".into(), expires_at: Some(100), seen: None };
    let cell = write(&Cell::default(), &change, dot(1, 1), 1);
    assert_eq!((text(&cell, 99).as_deref(), text(&cell, 100)), (Some("a"), None));
    assert_eq!(cell.clone().expired(99), None);
    let dropped = cell.clone().expired(100).expect("expired");
    assert_eq!((text(&dropped, 50), dropped.digest()), (None, cell.digest()));
}

#[test]
fn an_increment_of_an_expired_value_starts_from_nothing() {
    let change = Change::Put { value: "41".into(), expires_at: Some(100), seen: None };
    let cell = write(&Cell::default(), &change, dot(1, 1), 1);
    let mut cells = Cells::new(&cell, 100);
    cells.add(1);
    let change = cells.into_change().expect("a change");
    assert_eq!(text(&write(&cell, &change, dot(1, 2), 2), 200).as_deref(), Some("1"));
}

#[test]
fn a_plain_value_costs_about_twenty_bytes() {
    let cell = write(&Cell::default(), &put(&"x".repeat(100)), dot(3, 5000), Timestamp::LATEST.0);
    let mut bytes = Vec::new();
    cell.encode(&mut bytes);
    assert!(bytes.len() <= 118, "{}", bytes.len());
}

#[test]
fn running_sums_wrap_around_while_values_stay_in_range() {
    let half = 1_i64 << 62;
    let mut cell = Cell::default();
    for (counter, (start, delta, expected)) in
        [("0", half, half), ("-5", half, half - 5), ("-9", half, half - 9)].into_iter().enumerate()
    {
        let counter = counter as u64 * 2 + 1;
        cell = write(&cell, &put(start), dot(1, counter), counter);
        cell = write(&cell, &Change::Add(delta), dot(1, counter + 1), counter + 1);
        assert_eq!(text(&cell, 0), Some(expected.to_string()));
    }
}

#[test]
fn a_stale_note_on_a_sum_with_a_later_stamp_takes_nothing_away() {
    let seen = write(&Cell::default(), &Change::Add(5), dot(1, 1), 1);
    let replaced = write(&seen, &put("100"), dot(2, 1), 50);
    let grown = write(&seen, &Change::Add(1), dot(1, 2), 2);
    let merged = grown.merge(replaced);
    assert_eq!(text(&merged, 0).as_deref(), Some("101"));
    let again = write(&merged, &Change::Add(1), dot(1, 3), 51);
    assert_eq!(text(&again, 0).as_deref(), Some("102"));
}

#[test]
fn what_a_losing_write_replaced_does_not_come_back() {
    let five = write(&Cell::default(), &Change::Add(5), dot(1, 1), 1);
    let loser = write(&five, &put("100"), dot(1, 2), 2);
    let grown = write(&loser, &Change::Add(1), dot(1, 3), 3);
    let winner = write(&Cell::default(), &put("200"), dot(2, 1), 9);
    assert_eq!(text(&grown.merge(winner), 0).as_deref(), Some("201"));
}

#[test]
fn increments_after_a_deletion_add_up_on_two_replicas() {
    let value = write(&Cell::default(), &put("7"), dot(1, 1), 1);
    let deleted = write(&value, &Change::Remove { seen: None }, dot(1, 2), 2);
    let increase = |actor| {
        let mut cells = Cells::new(&deleted, 0);
        cells.add(1);
        write(&deleted, &cells.into_change().expect("a change"), dot(actor, 3), 3)
    };
    assert_eq!(text(&increase(1).merge(increase(2)), 0).as_deref(), Some("2"));
}

fn expiring(value: &str, at: u64) -> Change {
    Change::Put { value: value.to_owned().into(), expires_at: Some(at), seen: None }
}

#[test]
fn a_write_comes_after_every_sibling() {
    let left = write(&Cell::default(), &put("a"), dot(1, 1), 20);
    let right = write(&Cell::default(), &put("b"), dot(2, 1), 10);
    assert_eq!(left.merge(right).last_stamp(), Timestamp(20));
}

#[test]
fn a_cell_is_bare_when_nothing_of_it_can_be_read_again() {
    let value = write(&Cell::default(), &expiring("a", 100), dot(1, 1), 1);
    let deleted = write(&value, &Change::Remove { seen: None }, dot(1, 2), 2);
    let sum = write(&Cell::default(), &Change::Add(1), dot(2, 1), 1);
    let expired = value.clone().expired(100).expect("expired");
    let bare = [Cell::default(), deleted.clone(), expired, value, sum.clone()].map(|cell| cell.is_bare());
    assert_eq!(bare, [true, true, true, false, false]);
    assert!(!deleted.merge(sum).is_bare(), "an increment that the deletion had not seen is left");
}

#[test]
fn a_deletion_that_knows_a_cell_without_its_values_covers_them() {
    let value = write(&Cell::default(), &put("a"), dot(1, 1), 1);
    let cell =
        write(&value, &Change::Add(5), dot(2, 1), 2).merge(write(&Cell::default(), &put("b"), dot(3, 1), 3));
    let shape = own(&cell.clone().without_values());
    assert!(shape.siblings.iter().all(|sibling| !matches!(sibling.content, Content::Register(_))));
    let deleted = write(&Cell::default().merge(shape), &Change::Remove { seen: None }, dot(1, 9), 9);
    let merged = deleted.clone().merge(cell.clone());
    assert_eq!((merged.value(0), merged.is_bare()), (None, true));
    let later = write(&cell, &Change::Add(2), dot(2, 2), 4).merge(deleted);
    assert_eq!(text(&later, 0).as_deref(), Some("2"), "only what was added later is left");
}

#[test]
fn what_was_added_to_an_expired_value_is_spent_with_it() {
    let expired = |cell: &Cell<'static>| cell.clone().expired(100).expect("expired");
    let number = write(&Cell::default(), &expiring("5", 100), dot(1, 1), 1);
    let grown = write(&number, &Change::Add(1), dot(2, 1), 2);
    let beside = write(&Cell::default(), &put("b"), dot(3, 1), 0).merge(number.clone());
    assert_eq!([&number, &grown, &beside].map(Cell::first_end), [Some(100); 3]);
    assert!([&number, &grown, &beside].iter().all(|cell| cell.has_value() && !cell.is_spent()));
    let kept = [number, grown, beside].map(|cell| expired(&cell));
    assert_eq!(kept.clone().map(|cell| cell.is_bare()), [true, false, false]);
    assert_eq!(kept.clone().map(|cell| (cell.has_value(), cell.first_end())), [(false, None); 3]);
    assert_eq!(kept.map(|cell| cell.is_spent()), [true, true, false], "the other value is not over");
    let sum = write(&Cell::default(), &Change::Add(1), dot(1, 1), 1);
    assert!(sum.has_value() && !Cell::default().has_value() && Cell::default().is_spent());
}

#[test]
fn a_value_is_gone_from_its_very_millisecond_on_however_it_is_looked_at() {
    let cell = write(&Cell::default(), &expiring("41", 100), dot(1, 1), 1);
    let grown = write(&cell, &Change::Add(1), dot(2, 1), 2);
    let value = grown.value(99).expect("not yet");
    assert_eq!((value.expires_at, value.kind), (Some(100), ValueKind::Counter(42)));
    let dropped = grown.clone().expired(100).expect("expired");
    assert_eq!((grown.value(100), dropped.value(100), dropped.value(50)), (None, None, None));
    assert_eq!([99, 100].map(|now| cell.values(now).count()), [1, 0]);
    assert_eq!([99, 100].map(|now| cell.is_expired(now)), [false, true]);
    assert!(dropped.is_expired(50) && !write(&cell, &put("b"), dot(1, 2), 2).is_expired(100));
}

#[test]
fn only_what_redis_takes_for_an_integer_is_one() {
    for (text, number) in [("0", 0), ("-1", -1), ("10", 10), ("9223372036854775807", i64::MAX)] {
        assert_eq!(integer(text.as_bytes()), Some(number), "{text}");
    }
    for text in ["", "+1", "01", "-0", "-01", " 1", "1.0", "9223372036854775808"] {
        assert_eq!(integer(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn only_what_a_cell_wrote_is_a_cell() {
    let left = write(&Cell::default(), &put("a"), dot(1, 1), 1);
    let both = left.clone().merge(write(&Cell::default(), &put("b"), dot(2, 1), 1));
    let bytes = |siblings: Vec<Sibling<'static>>| {
        let mut bytes = Vec::new();
        Cell { siblings, context: both.context.clone() }.encode(&mut bytes);
        bytes
    };
    let [first, second] = <[Sibling<'_>; 2]>::try_from(both.siblings.clone()).expect("two");
    let good = bytes(vec![first.clone(), second.clone()]);
    assert_eq!(Cell::decode(&good).map(|cell| own(&cell)), Ok(both.clone()));
    for bad in
        [bytes(vec![second, first.clone()]), bytes(vec![first.clone(), first]), [&good[..], &[0]].concat()]
    {
        assert_eq!(Cell::decode(&bad), Err(InvalidCell), "{bad:?}");
    }
    // Format, one sibling with a dot of three bytes and eight of a stamp, its tag, and nothing else but zeros.
    let tagged = |tag| [&[2, 1, 1, 1, 1][..], &[0; 8], &[tag, 0, 0, 0]].concat();
    assert!(Cell::decode(&tagged(0b1111)).is_ok(), "expired, with a time and baselines");
    assert_eq!(Cell::decode(&tagged(0b1_0000)), Err(InvalidCell), "a tag of some later format");
    assert!(InvalidCell.to_string().contains("not a cell"));
}

#[test]
fn a_context_is_carried_whole_and_numbers_beyond_64_bits_are_refused() {
    let context: VersionVector = [dot(1, u64::MAX), dot(300, 127), dot(u64::MAX, 128)].into_iter().collect();
    let bytes = Cell::encode_context(&context);
    assert_eq!(Cell::decode_context(&bytes), Ok(context));
    assert_eq!(Cell::decode_context(&bytes[..bytes.len() - 1]), Err(InvalidCell));
    let number = |last: &[u8]| [&[1, 1][..], &[0xff; 9], last].concat();
    let most: VersionVector = [dot(1, u64::MAX)].into_iter().collect();
    assert_eq!(Cell::decode_context(&number(&[1])), Ok(most));
    assert_eq!(Cell::decode_context(&number(&[2])), Err(InvalidCell));
    assert_eq!(Cell::decode_context(&number(&[0x80, 0])), Err(InvalidCell));
}

#[derive(Clone, Debug)]
enum Step {
    Write { replica: usize, change: Change },
    Sync { from: usize, to: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = prop_oneof![
        "[a-c0-9]{1,2}".prop_map(|text| put(&text)),
        prop_oneof![-5..5_i64, Just(1 << 62), Just(i64::MIN)].prop_map(Change::Add),
        Just(Change::Remove { seen: None }),
    ];
    let step = prop_oneof![
        (0..3_usize, change).prop_map(|(replica, change)| Step::Write { replica, change }),
        (0..3_usize, 0..3_usize).prop_map(|(from, to)| Step::Sync { from, to }),
    ];
    proptest::collection::vec(step, 0..24)
}

/// What the writer of a change reads after it.
fn expected(before: Option<String>, change: &Change) -> Option<String> {
    match change {
        Change::Put { value, .. } => Some(String::from_utf8_lossy(value).into_owned()),
        Change::Remove { .. } => None,
        Change::Add(delta) => match before.map(|text| crate::cell::integer(text.as_bytes()).ok_or(text)) {
            None => Some(delta.to_string()),
            Some(Ok(number)) => Some(number.wrapping_add(*delta).to_string()),
            Some(Err(text)) => Some(text),
        },
    }
}

/// Plays steps on three replicas, each its own actor.
fn play(steps: &[Step]) -> Vec<Cell<'static>> {
    let mut replicas = vec![Cell::default(); 3];
    for (counter, step) in steps.iter().enumerate() {
        match step {
            Step::Write { replica, change } => {
                let at = dot(*replica as u64 + 1, counter as u64 + 1);
                // Clocks run apart: what is written later elsewhere may have the earlier stamp.
                let stamp = replicas[*replica].last_stamp().0 + 1 + 10 * *replica as u64;
                let before = text(&replicas[*replica], 0);
                replicas[*replica] = write(&replicas[*replica], change, at, stamp);
                assert_eq!(text(&replicas[*replica], 0), expected(before, change), "{change:?}");
            }
            Step::Sync { from, to } => {
                replicas[*to] = own(&replicas[*to].clone().merge(replicas[*from].clone()));
            }
        }
    }
    replicas
}

proptest! {
    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in steps()) {
        let cells = play(&steps);
        let (a, b, c) = (cells[0].clone(), cells[1].clone(), cells[2].clone());
        prop_assert_eq!(a.clone().merge(b.clone()), b.clone().merge(a.clone()));
        prop_assert_eq!(a.clone().merge(a.clone()), a.clone());
        prop_assert_eq!(a.clone().merge(b.clone()).merge(c.clone()), a.clone().merge(b.clone().merge(c.clone())));
        let merged = a.clone().merge(b);
        prop_assert!(merged.context.descends(&a.context));
        prop_assert_eq!(merged.digest() == a.digest(), own(&merged) == own(&a));
    }

    #[test]
    fn counters_without_other_writes_never_lose_an_increment(adds in proptest::collection::vec((0..3_usize, -9..9_i64, 0..3_usize), 0..30)) {
        let steps: Vec<Step> = adds.iter().flat_map(|(replica, delta, to)| [
            Step::Write { replica: *replica, change: Change::Add(*delta) },
            Step::Sync { from: *replica, to: *to },
        ]).collect();
        let total: i64 = adds.iter().map(|(_, delta, _)| delta).sum();
        let all = play(&steps).into_iter().reduce(Cell::merge).expect("three");
        let read = text(&all, 0).map_or(0, |text| text.parse().expect("a number"));
        prop_assert_eq!(read, total);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(cell) = Cell::decode(&bytes) {
            let mut again = Vec::new();
            cell.encode(&mut again);
            prop_assert_eq!(Cell::decode(&again), Ok(own(&cell)));
        }
    }
}

#[test]
fn a_cell_is_after_a_write_that_wins_or_was_replaced_by_the_only_one_left() {
    let put = |value: &'static str| Change::Put { value: value.into(), expires_at: None, seen: None };
    let by = |actor, counter| Dot { actor: Actor { assignment: actor, incarnation: 1 }, counter };
    let (late, early, next) = (put("late"), put("early"), put("next"));
    let late = Cell::default().changed(&late, by(1, 1), Timestamp(20));
    let early = Cell::default().changed(&early, by(2, 1), Timestamp(10));
    assert!(early.is_after(by(2, 1)) && !early.is_after(by(1, 1)), "of what it never saw it knows nothing");
    let both = early.clone().merge(late.clone());
    assert_eq!(both.winner(), Some(by(1, 1)));
    assert!(both.is_after(by(1, 1)) && !both.is_after(by(2, 1)));
    let replaced = early.changed(&next, by(3, 1), Timestamp(11));
    assert!(replaced.is_after(by(2, 1)));
    let lost = replaced.merge(late);
    assert!(!lost.is_after(by(2, 1)), "what replaced it has lost to an unseen one");
    let counted =
        lost.changed(&next, by(2, 2), Timestamp(30)).changed(&Change::Add(1), by(3, 2), Timestamp(31));
    assert!(counted.is_after(by(1, 1)) && counted.is_after(by(2, 2)), "sums do not count");
}

#[test]
fn a_cell_with_a_stamp_beyond_the_latest_is_no_cell() {
    let put = Change::Put { value: "v".into(), expires_at: None, seen: None };
    let latest = Timestamp::LATEST.0;
    let is_cell = |stamp| {
        let dot = Dot { actor: Actor { assignment: 1, incarnation: 1 }, counter: 1 };
        let mut bytes = Vec::new();
        Cell::default().changed(&put, dot, Timestamp(stamp)).encode(&mut bytes);
        Cell::decode(&bytes).is_ok()
    };
    assert_eq!([latest - 1, latest, latest + 1, u64::MAX].map(is_cell), [true, true, false, false]);
}
