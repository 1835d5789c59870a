//! One command after another: looking it up, keeping replies in order, waiting where it must.
//!
//! A command whose answer other nodes are waited for does not stop the next one, unless that one touches the
//! same key or concerns more than keys: then what is pending is waited for first. So each connection sees its
//! own commands in order.

use std::collections::{BTreeSet, VecDeque};
use std::mem::take;

use bytes::Bytes;
use futures::future::BoxFuture;
use slipring_apps::KV;
use slipring_apps::kv::{Request, Response};
use slipring_model::{BucketId, Error, ErrorKind, limits};
use slipring_node::{Call, CallOptions, Held, Node, Pending};
use slipring_resp::Command;

use super::clients::Presence;
use super::reply::{Shape, error_text};
use super::shown;
use super::stretch::Stretch;
use super::table::{self, Spec};
use super::transaction::{self, Transaction};
use super::view::View;
use super::write::Writer;

/// Bytes of one connection that do not count: the number of connections bounds them.
pub(crate) const SMALL_BYTES: usize = 32 * 1024;

/// Who runs a command.
pub(crate) enum Handler {
    /// Replies at once, or leaves calls pending.
    Now(fn(&mut Session, &Command)),
    /// Calls the application once for each key, or leaves calls pending.
    Each(Each),
    /// Waits for other nodes before it replies.
    Wait(for<'s> fn(&'s mut Session, &'s Command) -> BoxFuture<'s, ()>),
}

/// A command that is one request for each of its keys.
#[derive(Clone, Copy)]
pub(crate) struct Each {
    /// How many arguments make a request.
    pub(crate) step: usize,
    pub(crate) request: fn(&[Bytes]) -> Option<Request>,
    pub(crate) shape: Shape,
}

/// One client's connection.
pub(crate) struct Session {
    pub(crate) node: Node,
    pub(crate) presence: Presence,
    pub(crate) view: View,
    pub(crate) bucket: BucketId,
    pub(crate) writer: Writer,
    pub(crate) is_closing: bool,
    pub(crate) transaction: Transaction,
    /// Replies that wait for one another: in front one that is pending.
    waiting: VecDeque<Slot>,
    /// Bytes of finished replies among them.
    waiting_bytes: usize,
    /// Bytes of values among them.
    value_bytes: usize,
    /// Bytes that what was read takes.
    input_bytes: usize,
    held: Held,
    busy_keys: BTreeSet<Bytes>,
    /// What is being done since others on this thread were last let through.
    pub(crate) stretch: Stretch,
}

enum Slot {
    Reply(Vec<u8>),
    Calls {
        calls: Vec<Waiting>,
        shape: Shape,
    },
    /// The rest of a reply with many values.
    Values(std::vec::IntoIter<Result<Response, Error>>),
}

enum Waiting {
    Done(Result<Response, Error>),
    Pending(Pending<Response>),
}

impl Session {
    pub(crate) fn new(node: Node, presence: Presence, view: View) -> Self {
        Self {
            held: node.client_memory().held(),
            node,
            presence,
            view,
            bucket: BucketId(0),
            writer: Writer::default(),
            is_closing: false,
            transaction: Transaction::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            value_bytes: 0,
            input_bytes: 0,
            busy_keys: BTreeSet::new(),
            stretch: Stretch::begin(),
        }
    }

    /// Whether what is pending must be settled before a command may run: it touches a key that is waited for,
    /// it concerns more than keys, or enough is waiting.
    pub(crate) fn comes_after_pending(&self, spec: Option<&Spec>, command: &Command) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let is_full = self.waiting.len() >= limits::PIPELINE_IN_FLIGHT_MAX
            || self.waiting_bytes + self.value_bytes >= limits::REPLY_BYTES_MAX;
        is_full
            || spec.is_some_and(|spec| {
                spec.keys.0 == 0 || keys(spec, command).any(|key| self.busy_keys.contains(key))
            })
    }

    /// Counts `bytes` of input from now on; `false` when clients have too much in flight for them.
    pub(crate) fn takes_input(&mut self, bytes: usize) -> bool {
        self.input_bytes = bytes;
        self.has_room()
    }

    /// Counts `bytes` of values that a command gathers by itself; `false` when clients have too much in flight for them.
    pub(crate) fn gathers(&mut self, bytes: usize) -> bool {
        self.value_bytes = bytes;
        self.has_room()
    }

    /// Whether this connection takes memory that others may lack.
    pub(crate) fn holds_memory(&self) -> bool {
        self.held.bytes() > 0
    }

    /// Counts what this connection takes now; `false` when clients have too much in flight for it.
    fn has_room(&mut self) -> bool {
        let bytes = self.bytes();
        self.held.try_set(bytes)
    }

    /// Counts what this connection takes now, room or not.
    pub(crate) fn recount(&mut self) {
        let bytes = self.bytes();
        self.held.set(bytes);
    }

    fn bytes(&self) -> usize {
        let replies = self.waiting_bytes + self.value_bytes + self.writer.out.capacity();
        (self.input_bytes + self.transaction.bytes() + replies).saturating_sub(SMALL_BYTES)
    }

    /// Runs one command; its reply is in the writer, or behind what is pending.
    pub(crate) async fn run(&mut self, spec: Option<&Spec>, command: &Command) {
        let before = (self.writer.out.len(), self.waiting.len());
        // A queued command has no effect yet.
        let is_write = spec.is_some_and(|spec| spec.is_write && !self.transaction.takes(spec));
        self.dispatch(spec, command).await;
        // Before others are let through: until then the reply does not count.
        if !self.has_room() {
            self.take_back(before, is_write);
        }
        self.stretch.step().await;
    }

    /// Replaces the reply to the last command, for which there is no room, by an error.
    fn take_back(&mut self, (written, waiting): (usize, usize), is_write: bool) {
        let error = self.no_room(is_write);
        self.transaction.lacks_room();
        if self.waiting.len() == waiting {
            self.writer.out.truncate(written);
            self.writer.out.shrink_to_fit();
            self.writer.error(&error_text(&error));
        } else if let Some(Slot::Reply(bytes)) = self.waiting.back_mut() {
            let mut writer = Writer::default();
            writer.error(&error_text(&error));
            self.waiting_bytes = self.waiting_bytes - bytes.len() + writer.out.len();
            *bytes = writer.out;
        }
        self.recount();
    }

    fn no_room(&self, is_write: bool) -> Error {
        match is_write {
            false => self.node.client_memory().refusal(),
            true => {
                let message = "the command was run, but clients have too many bytes in flight for its reply";
                Error::new(ErrorKind::OutcomeUnknown, message)
            }
        }
    }

    async fn dispatch(&mut self, spec: Option<&Spec>, command: &Command) {
        match spec {
            None => self.apart(|session| session.unknown(command)),
            Some(spec) if !spec.accepts(command.len()) => {
                self.apart(|session| transaction::wrong_arity(session, spec));
            }
            Some(spec) if self.transaction.takes(spec) => transaction::queue(self, spec, command),
            Some(spec) => match spec.handler {
                Handler::Now(run) => self.apart(|session| run(session, command)),
                Handler::Each(each) => self.call_each(command, each).await,
                Handler::Wait(run) => run(self, command).await,
            },
        }
    }

    /// Runs `reply`, keeping what it writes behind what is pending.
    fn apart(&mut self, reply: impl FnOnce(&mut Self)) {
        let before = (self.writer.out.len(), self.waiting.len());
        reply(self);
        self.keep_apart(before);
    }

    /// Keeps what was written since then behind what is pending: since there were so many bytes and replies waiting.
    fn keep_apart(&mut self, (bytes, slots): (usize, usize)) {
        if slots == 0 || self.waiting.len() != slots || self.writer.out.len() == bytes {
            return;
        }
        let written = self.writer.out.split_off(bytes);
        self.waiting_bytes += written.len();
        self.waiting.push_back(Slot::Reply(written));
    }

    /// Calls the application once; the reply has this shape.
    pub(crate) fn call(&mut self, request: Request, shape: Shape) {
        let key = request.key().clone();
        match self.node.call(&KV, self.bucket, request, CallOptions::default()) {
            Call::Ready(result) => shape.write_one(result, &mut self.writer),
            Call::Pending(pending) => {
                self.busy_keys.insert(key);
                self.waiting.push_back(Slot::Calls { calls: vec![Waiting::Pending(pending)], shape });
            }
        }
    }

    /// Calls the application once per key, in short stretches; the reply has the command's shape.
    async fn call_each(&mut self, command: &Command, each: Each) {
        let arguments = command.get(1..).unwrap_or_default();
        let mut calls = Vec::with_capacity(arguments.len() / each.step);
        let mut is_pending = false;
        for request in arguments.chunks_exact(each.step).filter_map(each.request) {
            let key = request.key().clone();
            calls.push(match self.node.call(&KV, self.bucket, request, CallOptions::default()) {
                Call::Ready(result) => Waiting::Done(self.counted(result, each.shape)),
                Call::Pending(pending) => {
                    is_pending = true;
                    self.busy_keys.insert(key);
                    Waiting::Pending(pending)
                }
            });
            self.stretch.step().await;
        }
        // Values that are many bytes together are written one after another, as fast as the client takes them.
        if is_pending || self.value_bytes > SMALL_BYTES {
            return self.waiting.push_back(Slot::Calls { calls, shape: each.shape });
        }
        let results = calls.into_iter().filter_map(|call| match call {
            Waiting::Done(result) => Some(result),
            Waiting::Pending(_) => None,
        });
        let before = (self.writer.out.len(), self.waiting.len());
        self.write_all(results.collect(), each.shape).await;
        self.keep_apart(before);
    }

    /// Keeps of an answer what its reply needs, if there is room for it.
    fn counted(&mut self, result: Result<Response, Error>, shape: Shape) -> Result<Response, Error> {
        let response = shape.keep(result?);
        let (bytes, is_write) = value_bytes(&response);
        self.value_bytes += bytes;
        if bytes == 0 || self.has_room() {
            return Ok(response);
        }
        self.value_bytes -= bytes;
        Err(self.no_room(is_write))
    }

    /// Writes one reply to several calls in short stretches, or begins one with many values.
    async fn write_all(&mut self, results: Vec<Result<Response, Error>>, shape: Shape) {
        let bytes: usize = results.iter().flatten().map(|response| value_bytes(response).0).sum();
        let are_values = shape == Shape::Values && results.iter().all(Result::is_ok);
        if are_values && bytes > SMALL_BYTES {
            self.writer.array(results.len());
            return self.waiting.push_front(Slot::Values(results.into_iter()));
        }
        self.value_bytes = self.value_bytes.saturating_sub(bytes);
        if !are_values {
            return shape.write_all(results, &mut self.writer);
        }
        self.writer.array(results.len());
        for result in results {
            Shape::Value.write_one(result, &mut self.writer);
            self.stretch.step().await;
        }
    }

    /// Waits for the reply that is next and writes it, or some of it; `false` when there was none.
    pub(crate) async fn settle_one(&mut self) -> bool {
        match self.waiting.pop_front() {
            None => {
                self.busy_keys.clear();
                return false;
            }
            Some(Slot::Reply(bytes)) => {
                self.waiting_bytes -= bytes.len();
                self.writer.out.extend_from_slice(&bytes);
            }
            Some(Slot::Calls { calls, shape }) => {
                let mut results = Vec::with_capacity(calls.len());
                for call in calls {
                    results.push(match call {
                        Waiting::Done(result) => result,
                        Waiting::Pending(pending) => {
                            let result = pending.await;
                            self.counted(result, shape)
                        }
                    });
                    self.stretch.step().await;
                }
                self.write_all(results, shape).await;
            }
            Some(Slot::Values(mut rest)) => {
                if let Some(result) = rest.next() {
                    let bytes = result.as_ref().map_or(0, |response| value_bytes(response).0);
                    Shape::Value.write_one(result, &mut self.writer);
                    self.value_bytes = self.value_bytes.saturating_sub(bytes);
                    self.waiting.push_front(Slot::Values(rest));
                    self.stretch.step().await;
                }
            }
        }
        self.recount();
        true
    }

    /// Counts commands that were run, and the values they found.
    pub(crate) fn account(&mut self, commands: u64) {
        let (hits, misses) = (take(&mut self.writer.hits), take(&mut self.writer.misses));
        self.presence.clients.account(commands, hits, misses);
    }

    fn unknown(&mut self, command: &Command) {
        self.transaction.abort();
        if let Some(why) = command.first().and_then(|name| table::refusal(name)) {
            return self.writer.error(why);
        }
        let text = |bytes: &Bytes| shown(bytes);
        let name = command.first().map(text).unwrap_or_default();
        let arguments: String =
            command.iter().skip(1).take(20).map(|bytes| format!("'{}' ", text(bytes))).collect();
        self.writer.error(&format!("ERR unknown command '{name}', with args beginning with: {arguments}"));
    }
}

/// The bytes of a value in an answer, and whether its request has changed something.
fn value_bytes(response: &Response) -> (usize, bool) {
    match response {
        Response::Value(Some(found)) => (found.value.len(), false),
        Response::Written { previous: Some(value), .. } => (value.len(), true),
        _ => (0, false),
    }
}

/// The keys a command names.
pub(crate) fn keys<'c>(spec: &Spec, command: &'c Command) -> impl Iterator<Item = &'c Bytes> {
    let (first, last, step) = spec.keys;
    let length = command.len() as i64;
    let last = if last < 0 { length + last } else { last.min(length - 1) };
    let (first, count) = if first == 0 || last < first { (0, 0) } else { (first, (last - first) / step + 1) };
    command.iter().skip(first as usize).step_by(step.max(1) as usize).take(count as usize)
}
