//! Transactions: MULTI queues commands, and EXEC runs them in order, not isolated from other clients.
//!
//! A queued command has no effect before EXEC, and none after an error in the queue. Queued commands are copies, so
//! that a small one keeps no large input in memory.
//!
//! Invariant: `bytes` counts the queued commands, and keeps counting them until EXEC has run the last one.

use std::mem::take;

use bytes::{Bytes, BytesMut};
use slipring_resp::Command;

use super::run::Session;
use super::table::Spec;

/// The most memory that the queued commands of one connection take.
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Commands that run at once inside a transaction.
const NEVER_QUEUED: [&str; 6] = ["discard", "exec", "multi", "quit", "reset", "watch"];
/// Commands that a transaction refuses.
const NEVER_INSIDE: [&str; 1] = ["shutdown"];

const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";
const WATCH_REFUSED: &str = "ERR WATCH needs a linearizable bucket, and this is a quorum bucket: no key is watched, \
                             and the next transaction is refused unless UNWATCH comes first";
const MULTI_REFUSED: &str = "ERR MULTI comes after a WATCH that was refused: nothing happens until EXEC or DISCARD ends this transaction";
const COMMAND_REFUSED: &str =
    "ERR nothing was done: WATCH was refused before this transaction, end it with EXEC or DISCARD";

/// The transaction of one connection.
#[derive(Default)]
pub(crate) struct Transaction {
    state: State,
    bytes: usize,
}

#[derive(Default)]
enum State {
    #[default]
    None,
    /// WATCH was refused: the next transaction has no effect.
    WatchRefused,
    /// MULTI came.
    Queueing(Vec<Command>),
    /// An error came while commands were queued.
    Aborted,
    /// MULTI came after a refused WATCH.
    Refused,
    /// EXEC came; its commands run next.
    Due(Vec<Command>),
}

impl Transaction {
    /// Whether commands are between MULTI and its EXEC.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Queueing(_) | State::Aborted | State::Refused)
    }

    /// Whether a command waits for EXEC instead of running now.
    pub(crate) fn takes(&self, spec: &Spec) -> bool {
        self.is_open() && !NEVER_QUEUED.contains(&spec.name)
    }

    /// What the queued commands take of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// An error came while commands were queued: EXEC will run none.
    pub(crate) fn abort(&mut self) {
        if let State::Queueing(_) = self.state {
            *self = Self { state: State::Aborted, bytes: 0 };
        }
    }

    /// The client was told that nothing was done for lack of memory: neither are the commands of an EXEC that was to run.
    pub(crate) fn lacks_room(&mut self) {
        self.abort();
        if let State::Due(_) = self.state {
            *self = Self::default();
        }
    }

    /// Commands that EXEC is to run now; `end` comes when the last one has run.
    pub(crate) fn due(&mut self) -> Option<Vec<Command>> {
        match &mut self.state {
            State::Due(commands) => {
                let commands = take(commands);
                self.state = State::None;
                Some(commands)
            }
            _ => None,
        }
    }

    /// All commands of EXEC have run.
    pub(crate) fn end(&mut self) {
        self.bytes = 0;
    }

    /// Queues a copy of a command; `false`, and nothing will be run, when the queue takes too much memory.
    fn keep(&mut self, command: &Command) -> bool {
        let State::Queueing(commands) = &mut self.state else { return true };
        let bytes = self.bytes + cost(command);
        if bytes > QUEUE_BYTES_MAX {
            self.abort();
            return false;
        }
        commands.push(copy(command));
        self.bytes = bytes;
        true
    }
}

/// What a queued command takes of memory.
fn cost(command: &Command) -> usize {
    let arguments: usize = command.iter().map(|argument| argument.len() + size_of::<Bytes>()).sum();
    arguments + size_of::<Command>()
}

/// The same command in bytes of its own.
fn copy(command: &Command) -> Command {
    let mut all = BytesMut::with_capacity(command.iter().map(Bytes::len).sum());
    command.iter().for_each(|argument| all.extend_from_slice(argument));
    let all = all.freeze();
    let mut at = 0;
    let part = |argument: &Bytes| {
        let from = at;
        at += argument.len();
        all.slice(from..at)
    };
    command.iter().map(part).collect()
}

/// Queues a command that has as many arguments as it needs.
pub(crate) fn queue(session: &mut Session, spec: &Spec, command: &Command) {
    if matches!(session.transaction.state, State::Refused) {
        session.writer.error(COMMAND_REFUSED);
    } else if NEVER_INSIDE.contains(&spec.name) {
        session.transaction.abort();
        session.writer.error("ERR Command not allowed inside a transaction");
    } else if session.transaction.keep(command) {
        session.writer.simple("QUEUED");
    } else {
        let message = format!(
            "OVERLOADED a transaction takes at most {QUEUE_BYTES_MAX} bytes; nothing of it will be done: send fewer \
             commands before EXEC"
        );
        session.writer.error(&message);
    }
}

/// A command has too few or too many arguments.
pub(crate) fn wrong_arity(session: &mut Session, spec: &Spec) {
    let problem = format!("wrong number of arguments for '{}' command", spec.name);
    if spec.name == "exec" {
        session.transaction = Transaction::default();
        return session.writer.error(&format!("EXECABORT Transaction discarded because of: {problem}"));
    }
    session.transaction.abort();
    session.writer.error(&format!("ERR {problem}"));
}

pub(crate) fn multi(session: &mut Session, _command: &Command) {
    match session.transaction.state {
        State::None | State::Due(_) => {
            session.transaction.state = State::Queueing(Vec::new());
            session.writer.ok();
        }
        State::WatchRefused => {
            session.transaction.state = State::Refused;
            session.writer.error(MULTI_REFUSED);
        }
        State::Queueing(_) | State::Aborted | State::Refused => {
            session.writer.error("ERR MULTI calls can not be nested");
        }
    }
}

pub(crate) fn exec(session: &mut Session, _command: &Command) {
    match take(&mut session.transaction.state) {
        State::Queueing(commands) => {
            session.node.count_transaction();
            session.writer.array(commands.len());
            session.transaction.state = State::Due(commands);
        }
        State::Aborted | State::Refused => session.writer.error(ABORTED),
        State::None | State::WatchRefused | State::Due(_) => session.writer.error("ERR EXEC without MULTI"),
    }
}

pub(crate) fn discard(session: &mut Session, _command: &Command) {
    match take(&mut session.transaction) {
        open if open.is_open() => session.writer.ok(),
        _ => session.writer.error("ERR DISCARD without MULTI"),
    }
}

pub(crate) fn watch(session: &mut Session, _command: &Command) {
    if session.transaction.is_open() {
        return session.writer.error("ERR WATCH inside MULTI is not allowed");
    }
    session.transaction.state = State::WatchRefused;
    session.writer.error(WATCH_REFUSED);
}

pub(crate) fn unwatch(session: &mut Session, _command: &Command) {
    session.transaction = Transaction::default();
    session.writer.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queueing() -> Transaction {
        Transaction { state: State::Queueing(Vec::new()), bytes: 0 }
    }

    fn set_of(bytes: usize) -> Command {
        [Bytes::from_static(b"SET"), Bytes::from_static(b"k"), Bytes::from(vec![0; bytes])]
            .into_iter()
            .collect()
    }

    #[test]
    fn queue_takes_its_limit_and_not_a_byte_more() {
        let empty = cost(&set_of(0));
        for (over, is_kept) in [(-1, true), (0, true), (1, false)] {
            let mut transaction = queueing();
            let half = QUEUE_BYTES_MAX / 2;
            assert!(transaction.keep(&set_of(half - empty)));
            let rest = (half - empty).saturating_add_signed(over);
            assert_eq!(transaction.keep(&set_of(rest)), is_kept, "{over}");
            let expected = if is_kept { QUEUE_BYTES_MAX.saturating_add_signed(over) } else { 0 };
            assert_eq!(transaction.bytes(), expected);
            assert_eq!(matches!(transaction.state, State::Aborted), !is_kept);
        }
    }

    #[test]
    fn queued_command_keeps_no_other_input() {
        let input = Bytes::from(b"GETa-large-rest".repeat(1000));
        let command: Command =
            [input.slice(0..3), input.slice(3..4), input.slice(5..5)].into_iter().collect();
        let mut transaction = queueing();
        assert!(transaction.keep(&command));
        drop(command);
        assert!(input.is_unique(), "nothing refers to the input any more");
        let State::Queueing(commands) = transaction.state else { panic!("still open") };
        let words: Vec<&[u8]> = commands.iter().flatten().map(AsRef::as_ref).collect();
        assert_eq!(words, [&b"GET"[..], b"a", b""]);
    }

    #[test]
    fn bytes_count_until_exec_has_run_everything() {
        let mut transaction = queueing();
        assert!(transaction.keep(&set_of(100)));
        let bytes = transaction.bytes();
        transaction.state = State::Due(vec![set_of(100)]);
        assert_eq!((transaction.due().map(|due| due.len()), transaction.bytes()), (Some(1), bytes));
        assert!(transaction.due().is_none());
        transaction.end();
        assert_eq!(transaction.bytes(), 0);
    }

    #[test]
    fn exec_without_memory_for_its_reply_runs_nothing() {
        let mut transaction = Transaction { state: State::Due(vec![set_of(9)]), bytes: 9 };
        transaction.lacks_room();
        assert!(transaction.due().is_none() && transaction.bytes() == 0);
    }
}
