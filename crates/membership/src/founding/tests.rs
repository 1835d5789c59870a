//! The machine by itself: who founds, whom to follow, what ends a promise.

use super::*;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn standing(number: u8, expected: u32) -> Standing {
    Standing { expected, ..Standing::joiner(node(number), 1) }
}

fn attempt(number: u8, incarnation: u64, round: u64) -> Attempt {
    Attempt { founder: node(number), incarnation, round }
}

/// A machine and the time it is given.
struct Probe(Founding, Moment);

impl Probe {
    fn new(number: u8, expected: u32, promised: Option<Attempt>) -> Self {
        Self(Founding::new(node(number), 1, expected, promised), Moment(0))
    }

    fn give(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.0.handle(self.1, input, &mut effects);
        effects
    }

    fn hear(&mut self, standing: Standing) -> Vec<Effect> {
        self.give(Input::Heard(standing))
    }
}

fn attempting(number: u8, round: u64) -> Standing {
    Standing { round, is_attempting: true, ..standing(number, 3) }
}

#[test]
fn the_lowest_founds_once_all_that_are_expected_follow_it() {
    let mut probe = Probe::new(1, 3, None);
    probe.hear(standing(2, 3));
    assert_eq!(probe.give(Input::Asked), [], "two of three");
    probe.hear(standing(3, 3));
    let own = attempt(1, 1, 1);
    assert_eq!(probe.give(Input::Asked), [Effect::Persist(own)]);
    probe.hear(Standing { promised: Some(own), ..standing(2, 3) });
    probe.hear(Standing { promised: Some(own), ..standing(3, 3) });
    assert_eq!(probe.give(Input::Asked), [], "its own promise is not on disk");
    probe.give(Input::Persisted(own));
    assert_eq!(probe.give(Input::Asked), [Effect::Found]);
    assert_eq!(probe.give(Input::Asked), [], "once");
}

#[test]
fn a_promise_to_another_attempt_does_not_count() {
    let mut probe = Probe::new(1, 2, None);
    probe.hear(standing(2, 2));
    probe.give(Input::Asked);
    probe.give(Input::Persisted(attempt(1, 1, 1)));
    for other in [attempt(3, 1, 1), attempt(1, 1, 0), attempt(1, 2, 1)] {
        probe.hear(Standing { promised: Some(other), ..standing(2, 2) });
        assert_eq!(probe.give(Input::Asked), []);
    }
}

#[test]
fn a_promise_is_told_when_it_is_on_disk_and_kept_until_its_attempt_is_past() {
    let mut probe = Probe::new(5, 3, None);
    let first = attempt(2, 1, 1);
    assert_eq!(probe.hear(attempting(2, 1)), [Effect::Persist(first)]);
    assert_eq!(probe.0.standing().promised, None);
    probe.give(Input::Persisted(first));
    assert_eq!(probe.0.standing().promised, Some(first));
    assert_eq!(probe.hear(attempting(1, 1)), [], "a lower one comes too late");
    probe.hear(Standing { is_attempting: false, ..attempting(2, 1) });
    assert_eq!(probe.0.standing().promised, Some(first), "the same attempt may still found");
    probe.hear(Standing { round: 2, ..standing(2, 3) });
    assert_eq!(probe.hear(attempting(1, 1)), [Effect::Persist(attempt(1, 1, 1))]);
}

#[test]
fn a_promise_outlives_restarts_and_the_silence_of_whom_it_was_given_to() {
    let kept = attempt(2, 1, 1);
    let mut probe = Probe::new(1, 3, Some(kept));
    probe.1 = Moment(60_000_000);
    probe.hear(standing(3, 3));
    probe.hear(standing(4, 3));
    assert_eq!(probe.give(Input::Asked), [], "the lowest is bound");
    assert_eq!(probe.0.awaited(probe.1), Some(node(2)));
    probe.hear(Standing { incarnation: 2, ..standing(2, 3) });
    assert_eq!(probe.give(Input::Asked), [Effect::Persist(attempt(1, 1, 1))]);
}

#[test]
fn a_members_restart_frees_nobody() {
    let mut probe = Probe::new(1, 3, Some(attempt(2, 1, 1)));
    probe.hear(Standing::member(node(2), 9, CLUSTER));
    assert_eq!(probe.0.standing().promised, Some(attempt(2, 1, 1)));
}

#[test]
fn its_own_attempts_of_earlier_starts_bind_nobody() {
    let founding = Founding::new(node(1), 2, 3, Some(attempt(1, 1, 4)));
    assert_eq!(founding.standing().promised, None);
}

#[test]
fn who_hears_of_a_lower_one_steps_back() {
    let mut probe = Probe::new(2, 2, None);
    probe.hear(standing(3, 2));
    probe.give(Input::Asked);
    assert!(probe.0.standing().is_attempting);
    probe.hear(standing(1, 2));
    assert_eq!(probe.give(Input::Asked), []);
    let stepped_back = probe.0.standing();
    assert!(!stepped_back.is_attempting && stepped_back.round == 2);
    probe.hear(Standing { promised: Some(attempt(2, 1, 1)), ..standing(3, 2) });
    assert_eq!(probe.give(Input::Persisted(attempt(2, 1, 1))), []);
    assert_eq!(probe.give(Input::Asked), [], "promises to the past");
    let told = Standing { is_attempting: true, round: 1, ..standing(1, 2) };
    assert_eq!(probe.hear(told), [Effect::Persist(attempt(1, 1, 1))]);
}

#[test]
fn a_cluster_that_is_there_is_joined_and_of_two_none() {
    let mut probe = Probe::new(1, 2, None);
    probe.hear(standing(2, 2));
    probe.hear(Standing::member(node(9), 1, CLUSTER));
    assert_eq!(probe.give(Input::Asked), [Effect::Join(CLUSTER)]);
    let other = ClusterId([8; 16]);
    probe.hear(Standing::member(node(8), 1, other));
    let two = Refusal::TwoClusters([(node(8), other), (node(9), CLUSTER)]);
    assert_eq!(probe.give(Input::Asked), [Effect::Refuse(two)]);
}

#[test]
fn another_number_of_nodes_is_refused_and_joiners_do_not_count() {
    let mut probe = Probe::new(1, 2, None);
    probe.hear(Standing::joiner(node(2), 1));
    assert_eq!(probe.give(Input::Asked), []);
    probe.hear(standing(3, 5));
    let mismatch = Refusal::Mismatch { node: node(3), expected: 5 };
    assert_eq!(probe.give(Input::Asked), [Effect::Refuse(mismatch)]);
}

#[test]
fn who_is_silent_for_long_does_not_count() {
    let mut probe = Probe::new(1, 2, None);
    probe.hear(standing(2, 2));
    probe.1 = Moment(7_000_000);
    assert_eq!((probe.0.seen(probe.1), probe.give(Input::Asked)), (1, vec![]));
}

#[test]
fn more_than_expected_need_most_of_them() {
    let mut probe = Probe::new(1, 2, None);
    (2..=5).for_each(|other| drop(probe.hear(standing(other, 2))));
    let own = attempt(1, 1, 1);
    assert_eq!(probe.give(Input::Asked), [Effect::Persist(own)]);
    probe.give(Input::Persisted(own));
    probe.hear(Standing { promised: Some(own), ..standing(2, 2) });
    assert_eq!(probe.give(Input::Asked), [], "two of five");
    probe.hear(Standing { promised: Some(own), ..standing(3, 2) });
    assert_eq!(probe.give(Input::Asked), [Effect::Found]);
}
