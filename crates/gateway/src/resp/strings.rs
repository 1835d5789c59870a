//! Strings, keys and expiry: commands that become requests of the key-value application.

use bytes::Bytes;
use slipring_apps::kv::{Condition, ExpireIf, Expiry, Request};
use slipring_model::Slot;
use slipring_resp::{Command, decimal};

use super::reply::Shape;
use super::run::{Each, Session};
use super::{shown, unknown_subcommand};

const SYNTAX: &str = "ERR syntax error";
const NOT_INTEGER: &str = "ERR value is not an integer or out of range";

/// An argument by its place; commands reach a handler only with as many as their arity says.
pub(crate) fn argument(command: &Command, at: usize) -> Bytes {
    command.get(at).cloned().unwrap_or_default()
}

fn number(session: &mut Session, command: &Command, at: usize) -> Option<i64> {
    let number = command.get(at).and_then(|argument| decimal(argument));
    if number.is_none() {
        session.writer.error(NOT_INTEGER);
    }
    number
}

pub(crate) fn get(session: &mut Session, command: &Command) {
    session.call(Request::Get { key: argument(command, 1) }, Shape::Value);
}

pub(crate) fn strlen(session: &mut Session, command: &Command) {
    session.call(Request::Get { key: argument(command, 1) }, Shape::Length);
}

pub(crate) fn type_of(session: &mut Session, command: &Command) {
    session.call(Request::Get { key: argument(command, 1) }, Shape::Type);
}

pub(crate) fn getdel(session: &mut Session, command: &Command) {
    session.call(Request::Take { key: argument(command, 1) }, Shape::Value);
}

pub(crate) fn getrange(session: &mut Session, command: &Command) {
    if let Some(from) = number(session, command, 2)
        && let Some(to) = number(session, command, 3)
    {
        session.call(Request::Get { key: argument(command, 1) }, Shape::Part(from, to));
    }
}

/// MGET.
pub(crate) const READS: Each = Each { step: 1, request: get_request, shape: Shape::Values };
/// EXISTS and TOUCH.
pub(crate) const COUNTS: Each = Each { step: 1, request: get_request, shape: Shape::Count };
/// DEL and UNLINK.
pub(crate) const DELETES: Each = Each {
    step: 1,
    request: |arguments| Some(Request::Delete { key: arguments.first()?.clone(), seen: None }),
    shape: Shape::Count,
};
/// MSET.
pub(crate) const WRITES: Each = Each {
    step: 2,
    request: |arguments| match arguments {
        [key, value] => Some(Request::set(key.clone(), value.clone())),
        _ => None,
    },
    shape: Shape::Okay,
};

fn get_request(arguments: &[Bytes]) -> Option<Request> {
    Some(Request::Get { key: arguments.first()?.clone() })
}

/// All or nothing over several keys is more than a quorum bucket can promise; for one key it is SETNX.
pub(crate) fn msetnx(session: &mut Session, command: &Command) {
    if command.len().is_multiple_of(2) {
        return session.writer.error("ERR wrong number of arguments for 'msetnx' command");
    }
    let mut slots = command.iter().skip(1).step_by(2).map(|key| Slot::of(key));
    let first = slots.next();
    if slots.any(|slot| Some(slot) != first) {
        return session.writer.error("CROSSSLOT Keys in request don't hash to the same slot");
    }
    if command.len() > 3 {
        let message =
            "ERR MSETNX of several keys needs a strong bucket; a quorum bucket cannot set all or none";
        return session.writer.error(message);
    }
    setnx(session, command);
}

fn set_request(command: &Command, value_at: usize, expiry: Expiry, condition: Condition) -> Request {
    Request::Set {
        key: argument(command, 1),
        value: argument(command, value_at),
        expiry,
        condition,
        returns_previous: false,
        seen: None,
    }
}

pub(crate) fn setnx(session: &mut Session, command: &Command) {
    session.call(set_request(command, 2, Expiry::Default, Condition::IfAbsent), Shape::Done);
}

pub(crate) fn getset(session: &mut Session, command: &Command) {
    let request = Request::Set {
        key: argument(command, 1),
        value: argument(command, 2),
        expiry: Expiry::Default,
        condition: Condition::Always,
        returns_previous: true,
        seen: None,
    };
    session.call(request, Shape::Previous);
}

pub(crate) fn setex(session: &mut Session, command: &Command) {
    set_for(session, command, 1_000, "setex");
}

pub(crate) fn psetex(session: &mut Session, command: &Command) {
    set_for(session, command, 1, "psetex");
}

fn set_for(session: &mut Session, command: &Command, unit_ms: i64, name: &str) {
    let Some(time) = number(session, command, 2) else { return };
    match instant(session, time, unit_ms, true) {
        Some(at) => session.call(set_request(command, 3, Expiry::At(at), Condition::Always), Shape::Okay),
        None => session.writer.error(&format!("ERR invalid expire time in '{name}' command")),
    }
}

/// An expiry as an instant; `None` when it is not above zero or too far away.
fn instant(session: &Session, time: i64, unit_ms: i64, is_relative: bool) -> Option<u64> {
    let ms = time.checked_mul(unit_ms).filter(|ms| *ms > 0)?;
    let base = if is_relative { i64::try_from(session.node.wall_ms()).ok()? } else { 0 };
    u64::try_from(base.checked_add(ms)?).ok()
}

/// When a value shall expire, as the client said it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Keep,
    Forever,
    Until { unit_ms: i64, is_relative: bool },
}

/// The options of SET and GETEX. Giving the same one again is no error; the last one counts.
#[derive(Default)]
struct Options {
    lifetime: Option<Lifetime>,
    time: Bytes,
    condition: Option<Condition>,
    returns_previous: bool,
}

impl Options {
    /// Reads options from `at` on; `None` when they are not well formed.
    fn read(command: &Command, mut at: usize) -> Option<Self> {
        let mut options = Self::default();
        while let Some(option) = command.get(at) {
            let is = |word: &str| option.eq_ignore_ascii_case(word.as_bytes());
            if let Some((_, lifetime)) = LIFETIMES.iter().find(|(word, _)| is(word)) {
                if options.lifetime.replace(*lifetime).is_some_and(|before| before != *lifetime) {
                    return None;
                }
                if matches!(lifetime, Lifetime::Until { .. }) {
                    at += 1;
                    options.time = command.get(at)?.clone();
                }
            } else if is("nx") {
                options.require(Condition::IfAbsent)?;
            } else if is("xx") {
                options.require(Condition::IfPresent)?;
            } else if is("ifeq") {
                at += 1;
                options.require(Condition::IfEquals(command.get(at)?.clone()))?;
            } else if is("get") {
                options.returns_previous = true;
            } else {
                return None;
            }
            at += 1;
        }
        Some(options)
    }

    fn require(&mut self, condition: Condition) -> Option<()> {
        let before = self.condition.replace(condition);
        (before.is_none() || before == self.condition).then_some(())
    }

    /// The expiry asked for; `Err` is what is wrong with its time.
    fn expiry(&self, session: &Session, invalid: &'static str) -> Result<Option<Expiry>, &'static str> {
        match self.lifetime {
            None => Ok(None),
            Some(Lifetime::Keep) => Ok(Some(Expiry::Keep)),
            Some(Lifetime::Forever) => Ok(Some(Expiry::Default)),
            Some(Lifetime::Until { unit_ms, is_relative }) => {
                let time = decimal(&self.time).ok_or(NOT_INTEGER)?;
                let at = instant(session, time, unit_ms, is_relative).ok_or(invalid)?;
                Ok(Some(Expiry::At(at)))
            }
        }
    }
}

const LIFETIMES: [(&str, Lifetime); 6] = [
    ("ex", Lifetime::Until { unit_ms: 1_000, is_relative: true }),
    ("px", Lifetime::Until { unit_ms: 1, is_relative: true }),
    ("exat", Lifetime::Until { unit_ms: 1_000, is_relative: false }),
    ("pxat", Lifetime::Until { unit_ms: 1, is_relative: false }),
    ("keepttl", Lifetime::Keep),
    ("persist", Lifetime::Forever),
];

pub(crate) fn set(session: &mut Session, command: &Command) {
    if command.len() == 3 {
        return session.call(set_request(command, 2, Expiry::Default, Condition::Always), Shape::Okay);
    }
    let options = Options::read(command, 3).filter(|options| options.lifetime != Some(Lifetime::Forever));
    let Some(options) = options else { return session.writer.error(SYNTAX) };
    match options.expiry(session, "ERR invalid expire time in 'set' command") {
        Err(error) => session.writer.error(error),
        Ok(expiry) => {
            let request = Request::Set {
                key: argument(command, 1),
                value: argument(command, 2),
                expiry: expiry.unwrap_or(Expiry::Default),
                condition: options.condition.unwrap_or(Condition::Always),
                returns_previous: options.returns_previous,
                seen: None,
            };
            session.call(request, if options.returns_previous { Shape::Previous } else { Shape::Okay });
        }
    }
}

pub(crate) fn getex(session: &mut Session, command: &Command) {
    let is_possible = |options: &Options| {
        !options.returns_previous && options.condition.is_none() && options.lifetime != Some(Lifetime::Keep)
    };
    let Some(options) = Options::read(command, 2).filter(is_possible) else {
        return session.writer.error(SYNTAX);
    };
    let key = argument(command, 1);
    match options.expiry(session, "ERR invalid expire time in 'getex' command") {
        // Without a value nobody looks at the time.
        Err(error) => session.call(Request::Get { key }, Shape::ErrorIfAny(error)),
        Ok(None) => session.call(Request::Get { key }, Shape::Value),
        Ok(Some(expiry)) => session.call(Request::GetAndExpire { key, expiry }, Shape::Value),
    }
}

fn add(session: &mut Session, command: &Command, delta: i64) {
    session.call(Request::Add { key: argument(command, 1), delta }, Shape::Integer);
}

pub(crate) fn incr(session: &mut Session, command: &Command) {
    add(session, command, 1);
}

pub(crate) fn decr(session: &mut Session, command: &Command) {
    add(session, command, -1);
}

pub(crate) fn incrby(session: &mut Session, command: &Command) {
    if let Some(delta) = number(session, command, 2) {
        add(session, command, delta);
    }
}

pub(crate) fn decrby(session: &mut Session, command: &Command) {
    match number(session, command, 2).map(i64::checked_neg) {
        None => {}
        Some(None) => session.writer.error("ERR decrement would overflow"),
        Some(Some(delta)) => add(session, command, delta),
    }
}

pub(crate) fn incrbyfloat(session: &mut Session, command: &Command) {
    let delta = argument(command, 2);
    session.call(Request::AddFloat { key: argument(command, 1), delta }, Shape::Decimal);
}

pub(crate) fn append(session: &mut Session, command: &Command) {
    let request = Request::Append { key: argument(command, 1), tail: argument(command, 2) };
    session.call(request, Shape::Integer);
}

pub(crate) fn setrange(session: &mut Session, command: &Command) {
    let Some(offset) = number(session, command, 2) else { return };
    match u64::try_from(offset) {
        Err(_) => session.writer.error("ERR offset is out of range"),
        Ok(offset) => {
            let request = Request::SetRange { key: argument(command, 1), offset, part: argument(command, 3) };
            session.call(request, Shape::Integer);
        }
    }
}

pub(crate) fn persist(session: &mut Session, command: &Command) {
    session.call(Request::Persist { key: argument(command, 1) }, Shape::Done);
}

pub(crate) fn expire(session: &mut Session, command: &Command) {
    expire_in(session, command, 1_000, true, "expire");
}

pub(crate) fn pexpire(session: &mut Session, command: &Command) {
    expire_in(session, command, 1, true, "pexpire");
}

pub(crate) fn expireat(session: &mut Session, command: &Command) {
    expire_in(session, command, 1_000, false, "expireat");
}

pub(crate) fn pexpireat(session: &mut Session, command: &Command) {
    expire_in(session, command, 1, false, "pexpireat");
}

fn expire_in(session: &mut Session, command: &Command, unit_ms: i64, is_relative: bool, name: &str) {
    let only = match expire_if(command) {
        Ok(only) => only,
        Err(error) => return session.writer.error(&error),
    };
    let Some(time) = number(session, command, 2) else { return };
    let base = if is_relative { session.node.wall_ms() as i64 } else { 0 };
    match time.checked_mul(unit_ms).and_then(|ms| ms.checked_add(base)) {
        None => session.writer.error(&format!("ERR invalid expire time in '{name}' command")),
        Some(at) => {
            let at = u64::try_from(at).unwrap_or(0);
            session.call(Request::Expire { key: argument(command, 1), at, only }, Shape::Done);
        }
    }
}

/// The conditions of EXPIRE and its like; `Err` is the error to reply with.
fn expire_if(command: &Command) -> Result<ExpireIf, String> {
    let mut only = ExpireIf { none: false, some: false, later: false, earlier: false };
    for option in command.iter().skip(3) {
        match option.to_ascii_lowercase().as_slice() {
            b"nx" => only.none = true,
            b"xx" => only.some = true,
            b"gt" => only.later = true,
            b"lt" => only.earlier = true,
            _ => return Err(format!("ERR Unsupported option {}", shown(option))),
        }
    }
    if only.none && (only.some || only.later || only.earlier) {
        return Err("ERR NX and XX, GT or LT options at the same time are not compatible".to_owned());
    }
    if only.later && only.earlier {
        return Err("ERR GT and LT options at the same time are not compatible".to_owned());
    }
    Ok(only)
}

pub(crate) fn ttl(session: &mut Session, command: &Command) {
    tell_expiry(session, command, true, true);
}

pub(crate) fn pttl(session: &mut Session, command: &Command) {
    tell_expiry(session, command, true, false);
}

pub(crate) fn expiretime(session: &mut Session, command: &Command) {
    tell_expiry(session, command, false, true);
}

pub(crate) fn pexpiretime(session: &mut Session, command: &Command) {
    tell_expiry(session, command, false, false);
}

fn tell_expiry(session: &mut Session, command: &Command, is_relative: bool, in_seconds: bool) {
    let now_ms = is_relative.then(|| session.node.wall_ms());
    session.call(Request::Get { key: argument(command, 1) }, Shape::Expiry { now_ms, in_seconds });
}

/// What little there is to say of a value beside itself.
pub(crate) fn object(session: &mut Session, command: &Command) {
    let key = || Request::Get { key: argument(command, 2) };
    match argument(command, 1).to_ascii_lowercase().as_slice() {
        b"help" => session.writer.bulks(&["OBJECT ENCODING|REFCOUNT|IDLETIME|FREQ <key>"]),
        b"encoding" if command.len() == 3 => session.call(key(), Shape::Encoding),
        b"refcount" if command.len() == 3 => session.call(key(), Shape::NumberIfAny(1)),
        b"idletime" | b"freq" if command.len() == 3 => session.call(key(), Shape::NumberIfAny(0)),
        sub @ (b"encoding" | b"refcount" | b"idletime" | b"freq") => {
            let sub = shown(sub);
            let message = format!("ERR wrong number of arguments for 'object|{sub}' command");
            session.writer.error(&message);
        }
        _ => unknown_subcommand(session, command),
    }
}
