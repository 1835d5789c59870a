//! What clients asked, and what they were told.

use std::sync::Arc;

use parking_lot::Mutex;

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wrote a value that is written once in a run.
    Set(String),
    /// Deleted.
    Delete,
    /// Added to a counter.
    Add(i64),
    /// Read.
    Get,
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Acknowledged,
    /// The value, or that there is none.
    Found(Option<String>),
    /// It had no effect.
    Refused,
    /// It may have happened. So does one that was never answered.
    Unknown,
}

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key.
    pub key: String,
    /// What was asked.
    pub action: Action,
    /// The host that was asked.
    pub host: usize,
    /// The simulated millisecond at which it was asked.
    pub began_ms: u64,
    /// The answer and the simulated millisecond at which it came.
    pub ended: Option<(u64, Outcome)>,
}

impl Operation {
    /// Whether it may have changed something.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        !matches!(self.ended, Some((_, Outcome::Refused)))
    }

    /// Whether it is acknowledged.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.ended, Some((_, Outcome::Acknowledged)))
    }

    /// Whether it had ended before `other` began.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        match &self.ended {
            Some((at, Outcome::Acknowledged | Outcome::Found(_))) => *at < other.began_ms,
            _ => false,
        }
    }
}

/// All requests of a run.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Vec<Operation>>>);

impl History {
    pub(crate) fn begin(&self, operation: Operation) -> usize {
        let mut operations = self.0.lock();
        operations.push(operation);
        operations.len() - 1
    }

    pub(crate) fn end(&self, index: usize, at_ms: u64, outcome: Outcome) {
        if let Some(operation) = self.0.lock().get_mut(index) {
            operation.ended = Some((at_ms, outcome));
        }
    }

    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.0.lock().clone()
    }
}
