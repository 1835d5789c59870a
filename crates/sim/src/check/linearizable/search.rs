//! The search for an order: depth first, remembering where it has been.
//!
//! The calls and answers of a key are a list in the order of their times. The walk goes along the list and
//! places the first call whose step fits the state; what is placed leaves the list and the walk begins
//! again. At an answer whose call is not placed yet it takes the last placed call back and tries the next.
//! A set of placed calls together with a state is tried once.
//!
//! Invariant: an answer at the same time as a call comes after it, so operations that touch count as concurrent.
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
//! Linearizability" (2017), for the list and the memory.

use std::collections::BTreeSet;

use super::model::{State, Step};

/// One operation in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<'h> {
    /// Its place in the history it is from.
    pub place: usize,
    /// When it was called.
    pub start_ms: u64,
    /// When it was answered; never, when its outcome is unknown: it may happen then at any later time or not.
    pub end_ms: Option<u64>,
    /// What it did.
    pub step: Step<'h>,
}

/// What a search came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Broken {
        /// The place of the operation beyond whose answer the search never came.
        stuck_at: Option<usize>,
    },
    /// The search was broken off.
    Undecided,
}

/// Looks for an order of `spans`, trying at most `steps_max` times to place one of them.
#[must_use]
pub fn search(spans: &[Span<'_>], steps_max: u64) -> Verdict {
    let mut list = List::new(spans);
    let mut placed = Placed(vec![0; spans.len().div_ceil(64)]);
    let mut been: BTreeSet<(Placed, State<'_>)> = BTreeSet::new();
    let mut stack: Vec<(usize, State<'_>)> = Vec::new();
    let (mut state, mut steps, mut furthest) = (State::Absent, 0, None);
    let mut at = list.first();
    while list.answers_left > 0 {
        let event = list.event(at.expect("an answer is left and the walk stops at it"));
        if event.is_call {
            steps += 1;
            if steps > steps_max {
                return Verdict::Undecided;
            }
            let after = span(spans, event.span).step;
            let after = state.after(&after).filter(|after| been.insert((placed.with(event.span), *after)));
            let Some(after) = after else {
                at = list.next(event.at);
                continue;
            };
            stack.push((event.at, state));
            (state, placed) = (after, placed.with(event.span));
            list.lift(event.at);
            at = list.first();
        } else {
            furthest = furthest.max(Some((event.at, span(spans, event.span).place)));
            let Some((call, before)) = stack.pop() else {
                return Verdict::Broken { stuck_at: furthest.map(|(_, place)| place) };
            };
            (state, placed) = (before, placed.without(list.event(call).span));
            list.unlift(call);
            at = list.next(call);
        }
    }
    Verdict::Linearizable
}

fn span<'s, 'h>(spans: &'s [Span<'h>], number: usize) -> &'s Span<'h> {
    spans.get(number).expect("events number the spans they were made of")
}

/// Which spans are placed, a bit each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Placed(Vec<u64>);

impl Placed {
    fn with(&self, number: usize) -> Self {
        self.flipped(number)
    }

    fn without(&self, number: usize) -> Self {
        self.flipped(number)
    }

    fn flipped(&self, number: usize) -> Self {
        let mut words = self.0.clone();
        *words.get_mut(number / 64).expect("there is a bit for each span") ^= 1 << (number % 64);
        Self(words)
    }
}

/// A call or an answer, and its neighbours that are still in the list.
#[derive(Clone, Copy, Debug)]
struct Event {
    at: usize,
    span: usize,
    is_call: bool,
    /// Where the answer to a call is, if there is one.
    answer: Option<usize>,
    previous: Option<usize>,
    next: Option<usize>,
}

/// The events that are not placed yet, in the order of their times.
struct List {
    events: Vec<Event>,
    first: Option<usize>,
    answers_left: usize,
}

impl List {
    fn new(spans: &[Span<'_>]) -> Self {
        let calls = spans.iter().enumerate().map(|(number, span)| (span.start_ms, false, number));
        let answers =
            spans.iter().enumerate().filter_map(|(number, span)| Some((span.end_ms?, true, number)));
        let mut order: Vec<(u64, bool, usize)> = calls.chain(answers).collect();
        order.sort_unstable();
        let mut answer_of = vec![None; spans.len()];
        for (at, (_, is_answer, number)) in order.iter().enumerate() {
            if *is_answer && let Some(answer) = answer_of.get_mut(*number) {
                *answer = Some(at);
            }
        }
        let last = order.len().checked_sub(1);
        let event = |(at, (_, is_answer, number)): (usize, &(u64, bool, usize))| Event {
            at,
            span: *number,
            is_call: !is_answer,
            answer: if *is_answer { None } else { answer_of.get(*number).copied().flatten() },
            previous: at.checked_sub(1),
            next: (Some(at) != last).then_some(at + 1),
        };
        let events: Vec<Event> = order.iter().enumerate().map(event).collect();
        let answers_left = answer_of.iter().flatten().count();
        Self { first: (!events.is_empty()).then_some(0), events, answers_left }
    }

    fn first(&self) -> Option<usize> {
        self.first
    }

    fn next(&self, at: usize) -> Option<usize> {
        self.event(at).next
    }

    fn event(&self, at: usize) -> Event {
        *self.events.get(at).expect("links stay within the list")
    }

    fn event_mut(&mut self, at: usize) -> &mut Event {
        self.events.get_mut(at).expect("links stay within the list")
    }

    /// Takes a call and its answer out.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(answer) = self.event(call).answer {
            self.unlink(answer);
            self.answers_left -= 1;
        }
    }

    /// Puts back what was lifted last.
    fn unlift(&mut self, call: usize) {
        if let Some(answer) = self.event(call).answer {
            self.link(answer);
            self.answers_left += 1;
        }
        self.link(call);
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.event(at);
        match previous {
            Some(previous) => self.event_mut(previous).next = next,
            None => self.first = next,
        }
        if let Some(next) = next {
            self.event_mut(next).previous = previous;
        }
    }

    fn link(&mut self, at: usize) {
        let Event { previous, next, .. } = self.event(at);
        match previous {
            Some(previous) => self.event_mut(previous).next = Some(at),
            None => self.first = Some(at),
        }
        if let Some(next) = next {
            self.event_mut(next).previous = Some(at);
        }
    }
}
