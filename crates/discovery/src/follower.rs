//! One source and the task that follows it, while anybody asks.
//!
//! The task starts with the first question, begins anew with growing rests when the source fails, and ends
//! when nobody has asked for a while. What was heard last stays known while the source is away: an old
//! address costs whoever dials it a moment, a forgotten one may be the only one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::source::{Found, Source};

/// How long questions wait for the first answer or failure, from the first question on: longer than a source that is
/// asked over HTTP takes to fail. Who asks several must not take the quickest for all there is.
const FIRST_ANSWER: Duration = Duration::from_secs(4);
/// How long a source is followed that nobody asks any more.
const IDLE: Duration = Duration::from_secs(120);

/// A source that is followed while anybody asks.
pub(crate) struct Follower {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    source: Arc<dyn Source>,
    found: Found,
    state: Mutex<State>,
}

struct State {
    /// When the task was started.
    begun: Instant,
    /// When somebody asked last.
    asked: Instant,
    task: Option<JoinHandle<()>>,
}

impl Follower {
    /// A source that is called `name` in logs; nothing is contacted yet.
    pub(crate) fn new(name: &str, source: Arc<dyn Source>) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State { begun: now, asked: now, task: None });
        Self { shared: Arc::new(Shared { name: name.to_owned(), source, found: Found::new(name), state }) }
    }

    /// What the source said last; waits a moment if it has neither been heard nor failed yet.
    pub(crate) async fn candidates(&self) -> Vec<String> {
        let patience = self.wake() + FIRST_ANSWER;
        let mut list = self.shared.found.watch();
        let heard = tokio::time::timeout_at(patience, list.wait_for(Option::is_some)).await;
        heard.ok().and_then(Result::ok).and_then(|list| list.clone()).unwrap_or_default()
    }

    /// Starts the task unless it runs, and tells when it was started.
    fn wake(&self) -> Instant {
        let mut state = self.shared.state.lock();
        state.asked = Instant::now();
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
            state.begun = state.asked;
            state.task = Some(tokio::spawn(run(Arc::clone(&self.shared))));
        }
        state.begun
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(task) = self.shared.state.lock().task.take() {
            task.abort();
        }
    }
}

async fn run(shared: Arc<Shared>) {
    tokio::select! {
        () = follow(&shared) => {}
        () = idle(&shared) => {}
    }
}

async fn follow(shared: &Shared) {
    let mut backoff = Backoff::default();
    loop {
        let mut heard = shared.found.watch();
        heard.mark_unchanged();
        let began = Instant::now();
        let failure = shared.source.follow(&shared.found).await;
        // A sender that is gone is impossible here: it is in `shared`.
        if heard.has_changed().unwrap_or(false) {
            backoff.went_well(began.elapsed());
        }
        shared.found.fail();
        let rest = backoff.next(failure.retry_after);
        tracing::warn!(source = shared.name, %failure, ?rest, "a source of addresses fails; asking it again later");
        tokio::time::sleep(rest).await;
    }
}

/// Returns when nobody has asked for long; from then on a question starts a new task.
async fn idle(shared: &Shared) {
    loop {
        let until = {
            let mut state = shared.state.lock();
            let until = state.asked + IDLE;
            if until <= Instant::now() {
                shared.found.forget();
                state.task = None;
                return;
            }
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests;
