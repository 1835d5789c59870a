//! Commands about the connection itself: greeting, names, the bucket it works on.

use bytes::Bytes;
use slipring_model::BucketId;
use slipring_resp::{Command, decimal};

use super::clients::{Client, Label};
use super::run::Session;
use super::strings::argument;
use super::transaction::Transaction;
use super::view::View;
use super::{REDIS_VERSION, unknown_subcommand, word};

const SYNTAX: &str = "ERR syntax error";
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";

pub(crate) fn ping(session: &mut Session, command: &Command) {
    match command.len() {
        1 => session.writer.simple("PONG"),
        2 => session.writer.bulk(&argument(command, 1)),
        _ => session.writer.error("ERR wrong number of arguments for 'ping' command"),
    }
}

pub(crate) fn echo(session: &mut Session, command: &Command) {
    session.writer.bulk(&argument(command, 1));
}

pub(crate) fn quit(session: &mut Session, _command: &Command) {
    session.writer.ok();
    session.is_closing = true;
}

pub(crate) fn reset(session: &mut Session, _command: &Command) {
    session.bucket = BucketId(0);
    session.transaction = Transaction::default();
    session.writer.is_resp3 = false;
    session.presence.client.relabel(|label| *label = Label::default());
    session.writer.simple("RESET");
}

pub(crate) fn select(session: &mut Session, command: &Command) {
    match decimal(&argument(command, 1)).map(u32::try_from) {
        None => session.writer.error("ERR value is not an integer or out of range"),
        Some(number) if session.view == View::Cluster && number != Ok(0) => {
            session.writer.error("ERR SELECT is not allowed in cluster mode");
        }
        Some(Ok(number)) if session.node.has_bucket(BucketId(number)) => {
            session.bucket = BucketId(number);
            session.presence.client.relabel(|label| label.bucket = number);
            session.writer.ok();
        }
        Some(_) => session.writer.error("ERR DB index is out of range"),
    }
}

/// There is one user, and any password is right for it, as in Redis without one configured.
fn is_user(name: &[u8]) -> bool {
    name == b"default"
}

pub(crate) fn auth(session: &mut Session, command: &Command) {
    match command.len() {
        2 => session.writer.error(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure \
             your configuration is correct?",
        ),
        3 if is_user(&argument(command, 1)) => session.writer.ok(),
        3 => session.writer.error(WRONG_PASSWORD),
        _ => session.writer.error(SYNTAX),
    }
}

pub(crate) fn hello(session: &mut Session, command: &Command) {
    let is_resp3 = match command.get(1).map(|version| decimal(version)) {
        None => session.writer.is_resp3,
        Some(Some(2)) => false,
        Some(Some(3)) => true,
        Some(Some(_)) => return session.writer.error("NOPROTO unsupported protocol version"),
        Some(None) => {
            return session.writer.error("ERR Protocol version is not an integer or out of range");
        }
    };
    let mut name = None;
    let mut at = 2;
    while at < command.len() {
        match word(command, at).as_str() {
            "auth" if at + 2 < command.len() => {
                if !is_user(&argument(command, at + 1)) {
                    return session.writer.error(WRONG_PASSWORD);
                }
                at += 3;
            }
            "setname" if at + 1 < command.len() => {
                name = Some(argument(command, at + 1));
                at += 2;
            }
            other => return session.writer.error(&format!("ERR Syntax error in HELLO option '{other}'")),
        }
    }
    if name.as_ref().is_some_and(|name| !is_printable(name)) {
        return session.writer.error(&unprintable("Client names"));
    }
    session.writer.is_resp3 = is_resp3;
    session.presence.client.relabel(|label| {
        label.is_resp3 = is_resp3;
        label.name = name.unwrap_or_else(|| label.name.clone());
    });
    greet(session);
}

fn greet(session: &mut Session) {
    let protocol = if session.writer.is_resp3 { 3 } else { 2 };
    let (id, mode) = (session.presence.client.id as i64, session.view.mode());
    let writer = &mut session.writer;
    writer.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    for (name, value) in [("proto", protocol), ("id", id)] {
        writer.bulk(name.as_bytes());
        writer.integer(value);
    }
    for (name, value) in [("mode", mode), ("role", "master")] {
        writer.bulk(name.as_bytes());
        writer.bulk(value.as_bytes());
    }
    writer.bulk(b"modules");
    writer.array(0);
}

/// Whether a name fits on its client's line in CLIENT LIST.
fn is_printable(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

fn unprintable(what: &str) -> String {
    format!("ERR {what} cannot contain spaces, newlines or special characters.")
}

pub(crate) fn client(session: &mut Session, command: &Command) {
    match (word(command, 1).as_str(), command.len()) {
        ("id", 2) => session.writer.integer(session.presence.client.id as i64),
        ("getname", 2) => {
            let name = session.presence.client.label().name;
            session.writer.optional(Some(&name[..]).filter(|name| !name.is_empty()));
        }
        ("setname", 3) => set_name(session, argument(command, 2)),
        ("setinfo", 4) => set_info(session, command),
        ("info", 2) => {
            let line = session.presence.client.line();
            session.writer.verbatim(&line);
        }
        ("list", _) => list(session, command),
        ("kill", 3..) => kill(session, command),
        ("no-evict" | "no-touch", 3) | ("capa", 3..) => session.writer.ok(),
        ("reply", 3) if word(command, 2) == "on" => session.writer.ok(),
        ("reply", 3) => session.writer.error("ERR only CLIENT REPLY ON is supported"),
        ("pause" | "unpause", _) => session.writer.error("ERR pausing clients is not supported"),
        // No command of this gateway blocks.
        ("unblock", 3..) => session.writer.integer(0),
        ("tracking", 3) if word(command, 2) == "off" => session.writer.ok(),
        ("tracking", _) => session.writer.error("ERR client-side caching is not supported"),
        ("trackinginfo", 2) => tracking_info(session),
        ("getredir", 2) => session.writer.integer(-1),
        ("help", 2) => session
            .writer
            .bulks(&["CLIENT ID|INFO|LIST|KILL|GETNAME|SETNAME|SETINFO|NO-EVICT|NO-TOUCH|TRACKINGINFO"]),
        _ => unknown_subcommand(session, command),
    }
}

fn set_name(session: &mut Session, name: Bytes) {
    if !is_printable(&name) {
        return session.writer.error(&unprintable("Client names"));
    }
    session.presence.client.relabel(|label| label.name = name);
    session.writer.ok();
}

fn set_info(session: &mut Session, command: &Command) {
    let (option, value) = (word(command, 2), argument(command, 3));
    if !matches!(option.as_str(), "lib-name" | "lib-ver") {
        return session.writer.error(&format!("ERR Unrecognized option '{option}'"));
    }
    if !is_printable(&value) {
        return session.writer.error(&unprintable(&option));
    }
    session.presence.client.relabel(|label| match option.as_str() {
        "lib-name" => label.library = value,
        _ => label.library_version = value,
    });
    session.writer.ok();
}

/// CLIENT LIST, and what narrows it down: TYPE and ID.
fn list(session: &mut Session, command: &Command) {
    let open = session.presence.clients.open();
    let wanted: Vec<_> = match (word(command, 2).as_str(), command.len()) {
        ("", 2) => open,
        ("type", 4) if word(command, 3) == "normal" => open,
        ("type", 4) if matches!(word(command, 3).as_str(), "master" | "replica" | "slave" | "pubsub") => {
            Vec::new()
        }
        ("type", 4) => {
            let message = format!("ERR Unknown client type '{}'", word(command, 3));
            return session.writer.error(&message);
        }
        ("id", 4..) => {
            let ids: Vec<_> = command.iter().skip(3).filter_map(|id| decimal(id)).collect();
            if ids.len() + 3 < command.len() {
                return session.writer.error("ERR Invalid client ID");
            }
            open.into_iter().filter(|client| ids.contains(&(client.id as i64))).collect()
        }
        _ => return session.writer.error(SYNTAX),
    };
    let text: String = wanted.iter().map(|client| client.line()).collect();
    session.writer.verbatim(&text);
}

/// Which connections CLIENT KILL ends.
#[derive(Default)]
struct Filter {
    id: Option<i64>,
    address: Option<String>,
    is_nobody: bool,
    takes_own: bool,
}

impl Filter {
    fn parse(command: &Command) -> Option<Self> {
        let mut filter = Self::default();
        for at in (2..command.len()).step_by(2) {
            command.get(at + 1)?;
            let value = word(command, at + 1);
            match word(command, at).as_str() {
                "id" => filter.id = Some(decimal(value.as_bytes())?),
                "addr" => filter.address = Some(value),
                "user" => filter.is_nobody |= value != "default",
                "type" => filter.is_nobody |= value != "normal",
                "skipme" if value == "yes" => filter.takes_own = false,
                "skipme" if value == "no" => filter.takes_own = true,
                _ => return None,
            }
        }
        Some(filter)
    }

    fn takes(&self, client: &Client) -> bool {
        !self.is_nobody
            && self.id.is_none_or(|id| id == client.id as i64)
            && self.address.as_ref().is_none_or(|address| *address == client.address)
    }
}

/// CLIENT KILL by address, or by filters; the first form tells whether, the second how many.
fn kill(session: &mut Session, command: &Command) {
    let is_old_form = command.len() == 3;
    let filter = match is_old_form {
        true => Some(Filter { address: Some(word(command, 2)), takes_own: true, ..Filter::default() }),
        false => Filter::parse(command),
    };
    let Some(filter) = filter else { return session.writer.error(SYNTAX) };
    let own = session.presence.client.id;
    let mut count = 0;
    for client in session.presence.clients.open().iter().filter(|client| filter.takes(client)) {
        match client.id == own {
            true if filter.takes_own => {
                session.is_closing = true;
                count += 1;
            }
            true => {}
            false => count += i64::from(client.end()),
        }
    }
    match (is_old_form, count) {
        (true, 0) => session.writer.error("ERR No such client"),
        (true, _) => session.writer.ok(),
        (false, count) => session.writer.integer(count),
    }
}

fn tracking_info(session: &mut Session) {
    let writer = &mut session.writer;
    writer.map(3);
    writer.bulk(b"flags");
    writer.set(1);
    writer.bulk(b"off");
    writer.bulk(b"redirect");
    writer.integer(-1);
    writer.bulk(b"prefixes");
    writer.array(0);
}
