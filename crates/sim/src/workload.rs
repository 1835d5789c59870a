//! What clients do: a mix of operations on a few hot keys and many cold ones.
//!
//! Every value names the operation that wrote it, so whatever is read can be traced back to its write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use slipring_apps::KV;
use slipring_apps::kv::{Condition, Expiry, Found, Request, Response};
use slipring_model::{Error, ErrorKind};
use slipring_node::{CallOptions, Node};

use crate::history::{Action, BucketKind, History, Operation, Outcome};
use crate::journal::{EPOCH_MS, Journal};

/// Registers that half of the operations meet on.
const HOT_KEYS: usize = 3;
/// Registers of the other half.
const COLD_KEYS: usize = 40;
const COUNTERS: usize = 3;
/// Rests of one client between two operations, in milliseconds.
const REST_MS: std::ops::Range<u64> = 5..70;
const TTL_MS: std::ops::Range<u64> = 50..2_000;

/// What the clients of a run share.
pub(crate) struct Workload {
    pub(crate) history: History,
    journal: Arc<Journal>,
    is_open: AtomicBool,
}

/// One client, on the host of its node.
pub(crate) struct Client {
    workload: Arc<Workload>,
    node: Node,
    name: String,
    rng: Rng,
    operations: u64,
}

impl Workload {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self { history: History::default(), journal, is_open: AtomicBool::new(true) }
    }

    /// Lets every client finish what it is doing and begin nothing more.
    pub(crate) fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }
}

impl Client {
    /// A client that draws from `seed`; `name` must be its own.
    pub(crate) fn new(workload: Arc<Workload>, node: Node, name: String, seed: u64) -> Self {
        Self { workload, node, name, rng: Rng::with_seed(seed), operations: 0 }
    }

    /// Works until the workload closes or the host dies.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(Duration::from_millis(self.rng.u64(REST_MS))).await;
            if !self.workload.is_open.load(Ordering::Relaxed) {
                return;
            }
            let (bucket, key, action) = self.draw();
            self.perform(bucket, key, action, false).await;
        }
    }

    /// Performs one operation and notes it.
    pub(crate) async fn perform(
        &self,
        bucket: BucketKind,
        key: String,
        action: Action,
        is_final: bool,
    ) -> Outcome {
        let request = request(&key, &action);
        let (workload, client) = (Arc::clone(&self.workload), self.name.clone());
        let start_ms = workload.journal.now_ms();
        let operation =
            Operation { bucket, key, client, action: action.clone(), start_ms, end: None, is_final };
        let number = workload.history.begin(operation);
        let answer = self.node.call(&KV, bucket.id(), request, CallOptions::default()).await;
        let outcome = outcome(&action, answer);
        workload.journal.note(format_args!("{} operation {number}: {action:?}: {outcome:?}", self.name));
        workload.history.end(number, workload.journal.now_ms(), outcome.clone());
        outcome
    }

    /// A value that nobody else writes.
    pub(crate) fn fresh_value(&mut self) -> String {
        self.operations += 1;
        format!("{}-{}", self.name, self.operations)
    }

    fn draw(&mut self) -> (BucketKind, String, Action) {
        let bucket = match self.rng.u8(..20) {
            0..=8 => BucketKind::Buffered,
            9..=16 => BucketKind::Fsync,
            _ => BucketKind::Cache,
        };
        let register =
            if self.rng.bool() { self.rng.usize(..HOT_KEYS) } else { HOT_KEYS + self.rng.usize(..COLD_KEYS) };
        let register = format!("register-{register}");
        let counter = format!("counter-{}", self.rng.usize(..COUNTERS));
        match self.rng.u8(..20) {
            0..=6 => (bucket, register, Action::Set { value: self.fresh_value(), expires_at: None }),
            7 | 8 => {
                let expires_at = Some(self.workload.journal.now_ms() + self.rng.u64(TTL_MS));
                (bucket, register, Action::Set { value: self.fresh_value(), expires_at })
            }
            9 | 10 => (bucket, register, Action::Delete),
            11..=14 => (bucket, register, Action::Get),
            15..=18 => (bucket, counter, Action::Add(self.rng.i64(1..10))),
            _ => (bucket, counter, Action::Total),
        }
    }
}

fn request(key: &str, action: &Action) -> Request {
    let key = Bytes::copy_from_slice(key.as_bytes());
    match action {
        Action::Set { value, expires_at } => Request::Set {
            key,
            value: Bytes::copy_from_slice(value.as_bytes()),
            expiry: expires_at.map_or(Expiry::Default, |at| Expiry::At(EPOCH_MS + at)),
            condition: Condition::Always,
            returns_previous: false,
            seen: None,
        },
        Action::Delete => Request::Delete { key, seen: None },
        Action::Get | Action::Total => Request::Get { key },
        Action::Add(delta) => Request::Add { key, delta: *delta },
    }
}

fn outcome(action: &Action, answer: Result<Response, Error>) -> Outcome {
    let text = |found: Option<Found>| found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
    match (action, answer) {
        (Action::Set { .. } | Action::Delete, Ok(Response::Written { done: true, .. })) => Outcome::Written,
        (Action::Delete, Ok(Response::Written { done: false, .. })) => Outcome::NothingThere,
        (Action::Add(_), Ok(Response::Integer(_))) => Outcome::Written,
        (Action::Get, Ok(Response::Value(found))) => Outcome::Found(text(found)),
        (Action::Total, Ok(Response::Value(found))) => match text(found).map(|text| text.parse()) {
            None => Outcome::Counted(0),
            Some(Ok(total)) => Outcome::Counted(total),
            Some(Err(_)) => Outcome::Broken("a counter is no number".to_owned()),
        },
        (_, Ok(other)) => Outcome::Broken(format!("an answer of another kind: {other:?}")),
        (_, Err(Error { kind, message })) => match kind {
            ErrorKind::Unavailable | ErrorKind::Overloaded => Outcome::Refused(message.into_owned()),
            ErrorKind::OutcomeUnknown => Outcome::Unknown(message.into_owned()),
            ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Corrupt | ErrorKind::Internal => {
                Outcome::Broken(format!("{kind:?}: {message}"))
            }
        },
    }
}
