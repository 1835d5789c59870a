//! A scenario at work in one run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use slipring_model::{BucketPolicy, ErrorKind};
use slipring_node::{Builder, CallOptions};

use super::{Answer, Exchange, RequestOf, Scenario};
use crate::guest::{BUCKET, Guest, Seat};
use crate::run::Violation;

/// Rests of one client between two requests, in milliseconds.
const REST_MS: std::ops::Range<u64> = 5..70;

/// The clients of one run and what they saw.
pub(super) struct Load<S: Scenario> {
    scenario: Arc<S>,
    policy: BucketPolicy,
    history: Mutex<Vec<Exchange<S::Service>>>,
    /// What no fault excuses.
    broken: Mutex<Option<String>>,
    is_open: AtomicBool,
}

impl<S: Scenario> Load<S> {
    pub(super) fn new(scenario: Arc<S>, policy: BucketPolicy) -> Self {
        let is_open = AtomicBool::new(true);
        Self { scenario, policy, history: Mutex::default(), broken: Mutex::default(), is_open }
    }

    /// Makes one request and notes it; whether it was answered.
    async fn ask(&self, seat: &Seat, request: RequestOf<S>, is_last: bool) -> bool {
        let asked_ms = seat.journal.now_ms();
        let number = {
            let mut history = self.history.lock();
            let (client, request) = (seat.client.clone(), request.clone());
            history.push(Exchange { client, request, asked_ms, answer: None, is_last });
            history.len() - 1
        };
        let line = format!("{} request {number}: {request:?}", seat.client);
        let call = seat.node.call(self.scenario.service(), BUCKET, request, CallOptions::default());
        let answer = match call.await {
            Ok(response) => Answer::Done(response),
            Err(error) => match error.kind {
                ErrorKind::Unavailable | ErrorKind::Overloaded => Answer::Refused(error.message.into_owned()),
                ErrorKind::OutcomeUnknown => Answer::Unknown(error.message.into_owned()),
                ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Corrupt | ErrorKind::Internal => {
                    self.broken.lock().get_or_insert(format!("{line}: {error:?}"));
                    Answer::Refused(error.message.into_owned())
                }
            },
        };
        seat.journal.note(format_args!("{line}: {answer:?}"));
        let is_done = matches!(answer, Answer::Done(_));
        if let Some(exchange) = self.history.lock().get_mut(number) {
            exchange.answer = Some((seat.journal.now_ms(), answer));
        }
        is_done
    }
}

impl<S: Scenario> Guest for Load<S> {
    fn install(&self, builder: Builder) -> Builder {
        builder.service(self.scenario.service())
    }

    fn policy(&self) -> BucketPolicy {
        self.policy.clone()
    }

    fn work(self: Arc<Self>, mut seat: Seat) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(seat.rng.u64(REST_MS))).await;
                if !self.is_open.load(Ordering::Relaxed) {
                    return;
                }
                let request = self.scenario.request(&mut seat.rng);
                self.ask(&seat, request, false).await;
            }
        })
    }

    fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    fn look(self: Arc<Self>, seat: Seat) -> BoxFuture<'static, bool> {
        Box::pin(async move {
            let requests = self.scenario.last_requests();
            let asked = join_all(requests.into_iter().map(|request| self.ask(&seat, request, true)));
            asked.await.into_iter().all(|is_done| is_done)
        })
    }

    fn requests(&self) -> usize {
        self.history.lock().len()
    }

    fn check(&self) -> Result<(), Violation> {
        if let Some(story) = self.broken.lock().take() {
            return Err(Violation::new("no_broken_answer", story));
        }
        let history = self.history.lock();
        self.scenario.check(&history).map_err(|story| Violation::new("scenario", story))
    }
}
