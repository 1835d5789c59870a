//! What a key is when one operation happens at a time: a register or a counter.

use crate::history::{Action, Operation, Outcome};

use super::search::Span;

/// What a key holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum State<'h> {
    /// Nothing.
    #[default]
    Absent,
    /// The value of one write.
    Register(&'h str),
    /// A sum.
    Counter(i64),
}

/// One operation with what is known of its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'h> {
    /// Wrote a value.
    Write(&'h str),
    /// Wrote a value if another one was there.
    CompareAndSet {
        /// What had to be there.
        expected: Option<&'h str>,
        /// What was written.
        value: &'h str,
        /// Whether it was; unknown when absent.
        is_done: Option<bool>,
    },
    /// Deleted.
    Delete {
        /// Whether there was something; unknown when absent.
        is_done: Option<bool>,
    },
    /// Saw this.
    Read(Option<&'h str>),
    /// Added to the counter.
    Add {
        /// How much.
        delta: i64,
        /// The sum after it; unknown when absent.
        after: Option<i64>,
    },
    /// Saw this sum.
    Total(i64),
}

impl<'h> State<'h> {
    /// The state after a step; `None` when the step cannot have gone as it says.
    #[must_use]
    pub fn after(self, step: &Step<'h>) -> Option<Self> {
        match *step {
            Step::Write(value) => Some(Self::Register(value)),
            Step::Read(seen) => (self == Self::register(seen)).then_some(self),
            Step::CompareAndSet { expected, value, is_done } => {
                let is_equal = self == Self::register(expected);
                let after = if is_equal { Self::Register(value) } else { self };
                is_done.is_none_or(|done| done == is_equal).then_some(after)
            }
            Step::Delete { is_done } => {
                let is_there = self != Self::Absent;
                is_done.is_none_or(|done| done == is_there).then_some(Self::Absent)
            }
            Step::Add { delta, after } => {
                let sum = self.sum()?.checked_add(delta)?;
                after.is_none_or(|after| after == sum).then_some(Self::Counter(sum))
            }
            Step::Total(seen) => (self.sum()? == seen).then_some(self),
        }
    }

    fn register(value: Option<&'h str>) -> Self {
        value.map_or(Self::Absent, Self::Register)
    }

    fn sum(self) -> Option<i64> {
        match self {
            Self::Absent => Some(0),
            Self::Counter(sum) => Some(sum),
            Self::Register(_) => None,
        }
    }
}

/// Where the operation at `place` lies in time and what it did; `None` when it tells nothing.
pub(super) fn span(place: usize, operation: &Operation) -> Option<Span<'_>> {
    let outcome = operation.end.as_ref().map(|(_, outcome)| outcome);
    if matches!(outcome, Some(Outcome::Refused(_) | Outcome::Broken(_))) {
        return None;
    }
    let step = match (&operation.action, outcome) {
        (Action::Set { value, .. }, _) => Step::Write(value),
        (Action::CompareAndSet { expected, value }, outcome) => {
            let is_done = match outcome {
                Some(Outcome::Written) => Some(true),
                Some(Outcome::Unequal) => Some(false),
                _ => None,
            };
            Step::CompareAndSet { expected: expected.as_deref(), value, is_done }
        }
        (Action::Delete, Some(Outcome::Written)) => Step::Delete { is_done: Some(true) },
        (Action::Delete, Some(Outcome::NothingThere)) => Step::Delete { is_done: Some(false) },
        (Action::Delete, _) => Step::Delete { is_done: None },
        (Action::Add(delta), Some(Outcome::Added(after))) => Step::Add { delta: *delta, after: Some(*after) },
        (Action::Add(delta), _) => Step::Add { delta: *delta, after: None },
        (Action::Get, Some(Outcome::Found(value))) => Step::Read(value.as_deref()),
        (Action::Total, Some(Outcome::Counted(total))) => Step::Total(*total),
        (Action::Get | Action::GetAll | Action::Total | Action::Replace { .. }, _) => return None,
    };
    let end_ms = match &operation.end {
        None | Some((_, Outcome::Unknown(_))) => None,
        Some((at, _)) => Some(*at),
    };
    Some(Span { place, start_ms: operation.start_ms, end_ms, step })
}
