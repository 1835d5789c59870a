//! The search for a linear order against another implementation of the same question.

use fastrand::Rng;
use slipring_sim::check::linearizable::{Span, Step, Verdict, search};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

const VALUES: [&str; 4] = ["a", "b", "c", "d"];

/// What one thread asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Write(&'static str),
    Compare(Option<&'static str>, &'static str),
    Delete,
    Read,
    Add(i64),
    Total,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    If(bool),
    Value(Option<&'static str>),
    Sum(i64),
}

/// A register or a counter, written for this test only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Reference {
    value: Option<&'static str>,
    sum: i64,
}

impl SequentialSpec for Reference {
    type Op = Ask;
    type Ret = Told;

    fn invoke(&mut self, ask: &Ask) -> Told {
        match *ask {
            Ask::Write(value) => {
                self.value = Some(value);
                Told::Done
            }
            Ask::Compare(expected, value) => {
                let is_equal = self.value == expected;
                if is_equal {
                    self.value = Some(value);
                }
                Told::If(is_equal)
            }
            Ask::Delete => Told::If(self.value.take().is_some()),
            Ask::Read => Told::Value(self.value),
            Ask::Add(delta) => {
                self.sum += delta;
                Told::Sum(self.sum)
            }
            Ask::Total => Told::Sum(self.sum),
        }
    }
}

/// One operation: its thread, its call, and its answer if it got one.
#[derive(Clone, Copy, Debug)]
struct Call {
    thread: usize,
    ask: Ask,
    start: u64,
    end: Option<(u64, Told)>,
}

fn ask(rng: &mut Rng, is_counter: bool) -> Ask {
    let value = |rng: &mut Rng| rng.choice(VALUES).expect("there are values");
    match rng.u8(..8) {
        0..=4 if is_counter => Ask::Add(rng.i64(1..4)),
        _ if is_counter => Ask::Total,
        0 | 1 => Ask::Write(value(rng)),
        2 | 3 => {
            let expected = rng.bool().then(|| value(rng));
            Ask::Compare(expected, value(rng))
        }
        4 => Ask::Delete,
        _ => Ask::Read,
    }
}

/// A few threads on one object that takes effect somewhere within each call; then one answer may be falsified.
fn history(rng: &mut Rng) -> Vec<Call> {
    let (threads, operations) = (rng.usize(2..5), rng.usize(2..10));
    let is_counter = rng.bool();
    let mut object = Reference::default();
    let mut calls: Vec<Call> = Vec::new();
    // Per thread, the call under way and what it will be told once it has taken effect.
    let mut threads: Vec<Option<(usize, Option<Told>)>> = vec![None; threads];
    for time in 0..200 {
        let number = rng.usize(..threads.len());
        let Some(thread) = threads.get_mut(number) else { continue };
        let Some((place, told)) = *thread else {
            if calls.len() < operations {
                *thread = Some((calls.len(), None));
                calls.push(Call { thread: number, ask: ask(rng, is_counter), start: time, end: None });
            }
            continue;
        };
        let call = calls.get_mut(place).expect("it was begun");
        *thread = match told {
            None => Some((place, Some(object.invoke(&call.ask)))),
            Some(told) => {
                call.end = Some((time, told));
                None
            }
        };
    }
    falsify(rng, &mut calls);
    // A thread whose last call is never answered: it may have happened or not.
    for thread in 0..threads.len() {
        if rng.u8(..3) == 0
            && let Some(last) = calls.iter_mut().rfind(|call| call.thread == thread)
        {
            last.end = None;
        }
    }
    calls
}

fn falsify(rng: &mut Rng, calls: &mut [Call]) {
    if rng.u8(..3) == 0 {
        return;
    }
    if let Some((_, told)) = rng.choice(calls).and_then(|call| call.end.as_mut()) {
        *told = match *told {
            Told::Done => Told::Done,
            Told::If(done) => Told::If(!done),
            Told::Value(_) => Told::Value(if rng.bool() { rng.choice(VALUES) } else { None }),
            Told::Sum(sum) => Told::Sum(sum + rng.i64(-2..3)),
        };
    }
}

/// What a call tells; nothing, when it is a read that got no answer.
fn span((place, call): (usize, &Call)) -> Option<Span<'static>> {
    let told = call.end.map(|(_, told)| told);
    let is_done = if let Some(Told::If(done)) = told { Some(done) } else { None };
    let sum = if let Some(Told::Sum(sum)) = told { Some(sum) } else { None };
    let step = match (call.ask, told) {
        (Ask::Write(value), _) => Step::Write(value),
        (Ask::Compare(expected, value), _) => Step::CompareAndSet { expected, value, is_done },
        (Ask::Delete, _) => Step::Delete { is_done },
        (Ask::Add(delta), _) => Step::Add { delta, after: sum },
        (Ask::Total, Some(Told::Sum(sum))) => Step::Total(sum),
        (Ask::Read, Some(Told::Value(value))) => Step::Read(value),
        (Ask::Read | Ask::Total, _) => return None,
    };
    Some(Span { place, start_ms: call.start, end_ms: call.end.map(|(at, _)| at), step })
}

fn is_consistent(calls: &[Call]) -> bool {
    let mut events: Vec<(u64, &Call, Option<Told>)> = Vec::new();
    for call in calls {
        events.push((call.start, call, None));
        events.extend(call.end.map(|(at, told)| (at, call, Some(told))));
    }
    events.sort_by_key(|(at, ..)| *at);
    let mut tester = LinearizabilityTester::new(Reference::default());
    for (_, call, told) in events {
        match told {
            None => tester.on_invoke(call.thread, call.ask).expect("one call at a time"),
            Some(told) => tester.on_return(call.thread, told).expect("it was called"),
        };
    }
    tester.is_consistent()
}

#[test]
fn both_searches_give_the_same_verdict_on_random_histories() {
    let (mut kept, mut broken) = (0, 0);
    for seed in 0..6_000 {
        let calls = history(&mut Rng::with_seed(seed));
        let spans: Vec<Span<'_>> = calls.iter().enumerate().filter_map(span).collect();
        let verdict = search(&spans, 1_000_000);
        assert_ne!(verdict, Verdict::Undecided, "seed {seed}");
        let ours = verdict == Verdict::Linearizable;
        assert_eq!(ours, is_consistent(&calls), "seed {seed}: {calls:#?}");
        *(if ours { &mut kept } else { &mut broken }) += 1;
    }
    assert!(kept > 1_000 && broken > 1_000, "{kept} kept and {broken} broken");
}
