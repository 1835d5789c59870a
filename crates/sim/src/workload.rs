//! What clients do: a mix of operations on a few hot keys and many cold ones.
//!
//! Every value names the operation that wrote it, so whatever is read can be traced back to its write.

pub(crate) mod redis;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use parking_lot::Mutex;
use slipring_apps::KV;
use slipring_apps::kv::{Condition, Expiry, Found, Request, Response};
use slipring_model::{Error, ErrorKind};
use slipring_node::{CallOptions, Node};

use crate::history::{Action, BucketKind, History, Operation, Outcome};
use crate::journal::{EPOCH_MS, Journal};
use redis::Redis;

/// Registers that half of the operations meet on.
const HOT_KEYS: usize = 3;
/// Registers of the other half.
const COLD_KEYS: usize = 40;
const COUNTERS: usize = 3;
/// How the keys of counters begin.
const COUNTER: &str = "counter";
/// Rests of one client between two operations, in milliseconds.
const REST_MS: std::ops::Range<u64> = 5..70;
/// Hosts that may be probed, those that join among them.
const HOSTS_PROBED: usize = 16;
const TTL_MS: std::ops::Range<u64> = 50..2_000;

/// What the clients of a run share.
pub(crate) struct Workload {
    pub(crate) history: History,
    journal: Arc<Journal>,
    is_open: AtomicBool,
    is_resting: AtomicBool,
    /// What must not be dropped before the hosts are.
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

/// One client, on the host of its node.
pub(crate) struct Client {
    workload: Arc<Workload>,
    node: Node,
    name: String,
    rng: Rng,
    operations: u64,
    /// What it last knew of each register of which there is one copy.
    known: BTreeMap<String, Option<String>>,
    /// Its way through the Redis gateway, when it goes that way.
    redis: Option<Redis>,
}

impl Workload {
    pub(crate) fn new(journal: Arc<Journal>) -> Self {
        Self {
            history: History::default(),
            journal,
            is_open: AtomicBool::new(true),
            is_resting: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }

    /// Keeps something until the run is over.
    fn keep(&self, what: impl Any + Send) {
        self.kept.lock().push(Box::new(what));
    }

    /// Clears a bucket: for each key that clients use this is a deletion.
    pub(crate) async fn clear(self: Arc<Self>, node: Node, bucket: BucketKind, client: String) {
        let registers = (0..HOT_KEYS + COLD_KEYS).map(register_key);
        let probes = (0..HOSTS_PROBED).map(crate::run::probe_key);
        let keys = registers.chain((0..COUNTERS).map(counter_key)).chain(probes);
        let start_ms = self.journal.now_ms();
        let begin = |key| {
            let (client, action) = (client.clone(), Action::Delete);
            let deletion = Operation { bucket, key, client, action, start_ms, end: None, is_final: false };
            self.history.begin(deletion)
        };
        let numbers: Vec<usize> = keys.map(begin).collect();
        let outcome = match node.clear(bucket.id()).await {
            Ok(_) => Outcome::Written,
            Err(Error { kind: ErrorKind::Unavailable | ErrorKind::Overloaded, message }) => {
                Outcome::Refused(message.into_owned())
            }
            Err(Error { kind: ErrorKind::OutcomeUnknown, message }) => Outcome::Unknown(message.into_owned()),
            Err(Error { kind, message }) => Outcome::Broken(format!("{kind:?}: {message}")),
        };
        self.journal
            .count(if outcome == Outcome::Written { "buckets cleared" } else { "clearings failed" }, 1);
        self.journal.note(format_args!("{client} has cleared {bucket:?}: {outcome:?}"));
        for number in numbers {
            self.history.end(number, self.journal.now_ms(), outcome.clone());
        }
    }

    /// Lets clients ask little for a while, or as much as before.
    pub(crate) fn rest(&self, is_resting: bool) {
        self.is_resting.store(is_resting, Ordering::Relaxed);
    }

    /// Lets every client finish what it is doing and begin nothing more.
    pub(crate) fn close(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }
}

impl Client {
    /// A client that draws from `seed`; `name` must be its own.
    pub(crate) fn new(workload: Arc<Workload>, node: Node, name: String, seed: u64) -> Self {
        Self {
            workload,
            node,
            name,
            rng: Rng::with_seed(seed),
            operations: 0,
            known: BTreeMap::new(),
            redis: None,
        }
    }

    /// Goes through the Redis gateway from now on, as far as Redis has words for what it does.
    pub(crate) fn over_redis(mut self) -> Self {
        self.redis = Some(Redis::new(self.node.clone(), self.name.clone(), Arc::clone(&self.workload)));
        self
    }

    /// Works until the workload closes or the host dies.
    pub(crate) async fn run(mut self) {
        loop {
            self.rest().await;
            if !self.workload.is_open.load(Ordering::Relaxed) {
                return;
            }
            let (bucket, key) = self.draw_key();
            match bucket {
                _ if key.starts_with(COUNTER) => self.count(bucket, key).await,
                BucketKind::Buffered | BucketKind::Fsync | BucketKind::Cache => {
                    let action = self.draw_action();
                    self.act(bucket, key, action).await;
                }
                BucketKind::Single => self.compare(key).await,
                BucketKind::Siblings => self.resolve(key).await,
            }
        }
    }

    /// Performs one operation, by whichever way this client goes, and notes it.
    async fn act(&mut self, bucket: BucketKind, key: String, action: Action) -> Outcome {
        let number = self.begin(bucket, &key, &action, false);
        let told = match &mut self.redis {
            Some(redis) => redis.perform(bucket, &key, &action).await,
            None => None,
        };
        match told {
            Some(outcome) => self.end(number, &action, excused(bucket, outcome)),
            None => self.call(number, bucket, &key, action, None).await.0,
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
        let number = self.begin(bucket, &key, &action, is_final);
        self.call(number, bucket, &key, action, None).await.0
    }

    /// A value that nobody else writes.
    pub(crate) fn fresh_value(&mut self) -> String {
        self.operations += 1;
        format!("{}-{}", self.name, self.operations)
    }

    /// Performs one operation having `seen` this causal context; the outcome, and the context it came with.
    async fn ask(
        &self,
        bucket: BucketKind,
        key: String,
        action: Action,
        seen: Option<Bytes>,
    ) -> (Outcome, Option<Bytes>) {
        let number = self.begin(bucket, &key, &action, false);
        self.call(number, bucket, &key, action, seen).await
    }

    /// Has the node run an operation that has begun, and notes how it ended.
    async fn call(
        &self,
        number: usize,
        bucket: BucketKind,
        key: &str,
        action: Action,
        seen: Option<Bytes>,
    ) -> (Outcome, Option<Bytes>) {
        let request = request(key, &action, seen);
        let answer = self.node.call(&KV, bucket.id(), request, CallOptions::default()).await;
        let context = match &answer {
            Ok(Response::All { context, .. }) => Some(context.clone()),
            _ => None,
        };
        let outcome = outcome(&action, answer);
        (self.end(number, &action, excused(bucket, outcome)), context)
    }

    fn begin(&self, bucket: BucketKind, key: &str, action: &Action, is_final: bool) -> usize {
        let (client, start_ms) = (self.name.clone(), self.workload.journal.now_ms());
        let (key, action) = (key.to_owned(), action.clone());
        self.workload.history.begin(Operation { bucket, key, client, action, start_ms, end: None, is_final })
    }

    fn end(&self, number: usize, action: &Action, outcome: Outcome) -> Outcome {
        let workload = &self.workload;
        workload.journal.note(format_args!("{} operation {number}: {action:?}: {outcome:?}", self.name));
        workload.history.end(number, workload.journal.now_ms(), outcome.clone());
        outcome
    }

    /// Adds to a counter or reads it.
    async fn count(&mut self, bucket: BucketKind, key: String) {
        let action = if self.rng.u8(..5) == 0 { Action::Total } else { Action::Add(self.rng.i64(1..10)) };
        self.act(bucket, key, action).await;
    }

    /// One operation on a register of which there is one copy; it remembers what it learns.
    async fn compare(&mut self, key: String) {
        let action = match self.rng.u8(..10) {
            0..=2 => Action::Set { value: self.fresh_value(), expires_at: None },
            3..=5 => {
                let expected = self.known.get(&key).cloned().flatten();
                Action::CompareAndSet { expected, value: self.fresh_value() }
            }
            6 => Action::Delete,
            _ => Action::Get,
        };
        let written = action.value().map(str::to_owned);
        match self.act(BucketKind::Single, key.clone(), action).await {
            Outcome::Written => self.known.insert(key, written),
            Outcome::Found(value) => self.known.insert(key, value),
            Outcome::NothingThere => self.known.insert(key, None),
            _ => None,
        };
    }

    /// Reads all concurrent values and, most of the time, writes one in their place or deletes them.
    async fn resolve(&mut self, key: String) {
        let reading = self.ask(BucketKind::Siblings, key.clone(), Action::GetAll, None).await;
        let (Outcome::FoundAll(seen), context @ Some(_)) = reading else { return };
        let value = match self.rng.u8(..10) {
            0..=2 => return,
            3 => None,
            _ => Some(self.fresh_value()),
        };
        self.rest().await;
        self.ask(BucketKind::Siblings, key, Action::Replace { value, seen }, context).await;
    }

    async fn rest(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.u64(REST_MS))).await;
        while self.workload.is_resting.load(Ordering::Relaxed) && self.rng.u8(..60) > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn draw_key(&mut self) -> (BucketKind, String) {
        let bucket = match self.rng.u8(..20) {
            0..=6 => BucketKind::Buffered,
            7..=12 => BucketKind::Fsync,
            13 | 14 => BucketKind::Cache,
            15..=17 => BucketKind::Single,
            _ => BucketKind::Siblings,
        };
        if bucket != BucketKind::Siblings && self.rng.u8(..4) == 0 {
            return (bucket, counter_key(self.rng.usize(..COUNTERS)));
        }
        let register =
            if self.rng.bool() { self.rng.usize(..HOT_KEYS) } else { HOT_KEYS + self.rng.usize(..COLD_KEYS) };
        (bucket, register_key(register))
    }

    fn draw_action(&mut self) -> Action {
        match self.rng.u8(..15) {
            0..=6 => Action::Set { value: self.fresh_value(), expires_at: None },
            7 | 8 => {
                let expires_at = Some(self.workload.journal.now_ms() + self.rng.u64(TTL_MS));
                Action::Set { value: self.fresh_value(), expires_at }
            }
            9 | 10 => Action::Delete,
            _ => Action::Get,
        }
    }
}

fn counter_key(number: usize) -> String {
    format!("{COUNTER}-{number}")
}

fn register_key(number: usize) -> String {
    format!("register-{number}")
}

/// What an action is for the application; a replacement has `seen` this causal context.
fn request(key: &str, action: &Action, seen: Option<Bytes>) -> Request {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let set = |key, value: &str, expiry, condition, seen| {
        let value = Bytes::copy_from_slice(value.as_bytes());
        Request::Set { key, value, expiry, condition, returns_previous: false, seen }
    };
    match action {
        Action::Set { value, expires_at } => {
            let expiry = expires_at.map_or(Expiry::Default, |at| Expiry::At(EPOCH_MS + at));
            set(key, value, expiry, Condition::Always, None)
        }
        Action::CompareAndSet { expected, value } => {
            let equals = |expected: &String| Condition::IfEquals(Bytes::copy_from_slice(expected.as_bytes()));
            let condition = expected.as_ref().map_or(Condition::IfAbsent, equals);
            set(key, value, Expiry::Default, condition, None)
        }
        Action::Replace { value: Some(value), .. } => {
            set(key, value, Expiry::Default, Condition::Always, seen)
        }
        Action::Replace { value: None, .. } | Action::Delete => Request::Delete { key, seen },
        Action::Get | Action::Total => Request::Get { key },
        Action::GetAll => Request::GetAll { key },
        Action::Add(delta) => Request::Add { key, delta: *delta },
    }
}

fn outcome(action: &Action, answer: Result<Response, Error>) -> Outcome {
    let plain = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let text = |found: Option<Found>| found.map(|found| plain(&found.value));
    match (action, answer) {
        (
            Action::Set { .. } | Action::CompareAndSet { .. } | Action::Replace { .. } | Action::Delete,
            Ok(Response::Written { done: true, .. }),
        )
        // A deletion of values that another client has replaced meanwhile still deletes what it had seen.
        | (Action::Replace { value: None, .. }, Ok(Response::Written { done: false, .. })) => Outcome::Written,
        (Action::CompareAndSet { .. }, Ok(Response::Written { done: false, .. })) => Outcome::Unequal,
        (Action::Delete, Ok(Response::Written { done: false, .. })) => Outcome::NothingThere,
        (Action::Add(_), Ok(Response::Integer(after))) => Outcome::Added(after),
        (Action::GetAll, Ok(Response::All { values, .. })) => {
            Outcome::FoundAll(values.iter().map(plain).collect())
        }
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

/// Where there is one copy, nothing can stand in for a damaged one: saying so is the right answer.
fn excused(bucket: BucketKind, outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Broken(text)
            if bucket == BucketKind::Single && text.to_uppercase().starts_with("CORRUPT") =>
        {
            Outcome::Refused(text)
        }
        other => other,
    }
}
