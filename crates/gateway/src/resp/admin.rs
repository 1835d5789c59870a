//! Commands about the server and whole buckets.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use slipring_model::{Cursor, Position, limits};
use slipring_resp::{Command, decimal};

use super::glob::Pattern;
use super::reply::error_text;
use super::run::Session;
use super::strings::argument;
use super::view::View;
use super::{REDIS_VERSION, describe, info, unknown_subcommand, word};

pub(crate) fn config<'s>(session: &'s mut Session, command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        match (word(command, 1).as_str(), command.len()) {
            ("get", 3..) => config_get(session, command.get(2..).unwrap_or_default()).await,
            ("set", 4..) => session.writer.error(
                "ERR settings are read from the node's configuration file, environment and flags: see `slipring config`",
            ),
            ("resetstat", 2) => {
                session.presence.clients.reset();
                session.writer.ok();
            }
            ("rewrite", 2) => session.writer.error("ERR The server is running without a config file"),
            ("help", 2) => session.writer.bulks(&["CONFIG GET <pattern>", "CONFIG RESETSTAT"]),
            _ => unknown_subcommand(session, command),
        }
    })
}

async fn config_get(session: &mut Session, patterns: &[Bytes]) {
    let bulk_max = limits::VALUE_BYTES_MAX.to_string();
    let clients_max = session.presence.clients.places().to_string();
    let memory_max = session.node.client_memory().bytes_max().to_string();
    let buckets_max = session.node.spaces().1.limit.to_string();
    let limits = session.node.client_limits();
    let [timeout, keepalive] = [limits.redis_silence, limits.keepalive]
        .map(|time| time.map_or(0, |time| time.as_secs()).to_string());
    let (cluster_enabled, databases) = match session.view {
        View::Plain => ("no", "256"),
        View::Cluster => ("yes", "1"),
    };
    let known = [
        ("cluster-enabled", cluster_enabled),
        ("save", ""),
        ("appendonly", "no"),
        ("databases", databases),
        ("timeout", timeout.as_str()),
        ("tcp-keepalive", keepalive.as_str()),
        ("replica-read-only", "no"),
        ("slave-read-only", "no"),
        ("maxclients", clients_max.as_str()),
        ("maxmemory", buckets_max.as_str()),
        ("maxmemory-clients", memory_max.as_str()),
        ("maxmemory-policy", "noeviction"),
        ("notify-keyspace-events", ""),
        ("proto-max-bulk-len", bulk_max.as_str()),
    ];
    let mut is_asked = known.map(|_| false);
    for pattern in patterns {
        match Pattern::read(
            &pattern.get(..=limits::PATTERN_BYTES_MAX).unwrap_or(pattern).to_ascii_lowercase(),
        ) {
            Err(error) => return session.writer.error(&error.message()),
            Ok(mut pattern) => {
                for (is_asked, (name, _)) in is_asked.iter_mut().zip(known) {
                    *is_asked |= pattern.matches(name.as_bytes());
                }
            }
        }
        session.stretch.step().await;
    }
    let found: Vec<_> = known.into_iter().zip(is_asked).filter(|(_, is_asked)| *is_asked).collect();
    session.writer.map(found.len());
    for ((name, value), _) in found {
        session.writer.bulk(name.as_bytes());
        session.writer.bulk(value.as_bytes());
    }
}

pub(crate) fn time(session: &mut Session, _command: &Command) {
    let now_ms = session.node.wall_ms();
    session.writer.bulks(&[(now_ms / 1000).to_string(), (now_ms % 1000 * 1000).to_string()]);
}

pub(crate) fn role(session: &mut Session, _command: &Command) {
    session.writer.array(3);
    session.writer.bulk(b"master");
    session.writer.integer(0);
    session.writer.array(0);
}

pub(crate) fn lastsave(session: &mut Session, _command: &Command) {
    let now = session.node.wall_ms() / 1000;
    session.writer.integer(now as i64);
}

/// Every reply to a write says that its acknowledgements have come; none are outstanding when this is run.
pub(crate) fn wait(session: &mut Session, command: &Command) {
    let (Some(_), Some(_)) = (decimal(&argument(command, 1)), decimal(&argument(command, 2))) else {
        return session.writer.error("ERR value is not an integer or out of range");
    };
    let layout = session.node.layout();
    let replicas = layout.replicas(session.bucket, slipring_model::PartitionId(0)).len() as u8;
    let policy = layout.buckets().get(&session.bucket).map(|entry| entry.policy.quorum(replicas));
    session.writer.integer(policy.map_or(0, |quorum| i64::from(quorum.w) - 1));
}

pub(crate) fn shutdown(session: &mut Session, _command: &Command) {
    session.writer.error("ERR a node is stopped by SIGTERM, not by its clients");
}

pub(crate) fn sentinel(session: &mut Session, _command: &Command) {
    session.writer.error("ERR This instance has sentinel support disabled");
}

pub(crate) fn module(session: &mut Session, command: &Command) {
    match word(command, 1).as_str() {
        "list" => session.writer.array(0),
        _ => session.writer.error("ERR modules are not supported"),
    }
}

pub(crate) fn slowlog(session: &mut Session, command: &Command) {
    match word(command, 1).as_str() {
        "get" => session.writer.array(0),
        "len" => session.writer.integer(0),
        "reset" => session.writer.ok(),
        _ => unknown_subcommand(session, command),
    }
}

pub(crate) fn latency(session: &mut Session, command: &Command) {
    match word(command, 1).as_str() {
        "latest" | "history" => session.writer.array(0),
        "histogram" => session.writer.map(0),
        "reset" => session.writer.integer(0),
        _ => unknown_subcommand(session, command),
    }
}

pub(crate) fn memory(session: &mut Session, command: &Command) {
    use super::reply::Shape;
    match (word(command, 1).as_str(), command.len()) {
        // About what a small value and its cell take beside their own bytes.
        ("usage", 3..) => {
            let request = slipring_apps::kv::Request::Get { key: argument(command, 2) };
            session.call(request, Shape::NumberIfAny(argument(command, 2).len() as i64 + 96));
        }
        ("doctor", 2) => session.writer.bulk(b"Nothing to report"),
        _ => unknown_subcommand(session, command),
    }
}

pub(crate) fn acl(session: &mut Session, command: &Command) {
    const USER: &str = "user default on nopass ~* &* +@all";
    match word(command, 1).as_str() {
        "whoami" => session.writer.bulk(b"default"),
        "list" => session.writer.bulks(&[USER]),
        "users" => session.writer.bulks(&["default"]),
        "cat" => describe::categories(session, command),
        "getuser" if word(command, 2) == "default" => {
            session.writer.map(4);
            session.writer.bulk(b"flags");
            session.writer.bulks(&["on", "nopass"]);
            session.writer.bulk(b"passwords");
            session.writer.array(0);
            for (name, value) in [("commands", "+@all"), ("keys", "~*")] {
                session.writer.bulk(name.as_bytes());
                session.writer.bulk(value.as_bytes());
            }
        }
        "getuser" => session.writer.null(),
        "setuser" | "deluser" | "genpass" => session.writer.error("ERR users are not supported yet"),
        _ => unknown_subcommand(session, command),
    }
}

pub(crate) fn lolwut(session: &mut Session, _command: &Command) {
    let text = format!("Slipring keeps turning. Redis commands of version {REDIS_VERSION}\n");
    session.writer.verbatim(&text);
}

pub(crate) fn debug<'s>(session: &'s mut Session, command: &'s Command) -> BoxFuture<'s, ()> {
    const SLEEP_SECONDS_MAX: f64 = 60.0;
    Box::pin(async move {
        let seconds =
            std::str::from_utf8(&argument(command, 2)).ok().and_then(|text| text.parse::<f64>().ok());
        match (word(command, 1).as_str(), seconds) {
            ("sleep", Some(seconds)) if (0.0..=SLEEP_SECONDS_MAX).contains(&seconds) => {
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                session.writer.ok();
            }
            ("sleep", _) => {
                session.writer.error("ERR DEBUG SLEEP takes 0 to 60 seconds; it pauses this connection only")
            }
            _ => unknown_subcommand(session, command),
        }
    })
}

pub(crate) fn info<'s>(session: &'s mut Session, command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let sections: Vec<String> = (1..command.len()).map(|at| word(command, at)).collect();
        let text = info::text(session, &sections).await;
        session.writer.verbatim(&text);
    })
}

pub(crate) fn dbsize<'s>(session: &'s mut Session, _command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        match session.node.count(session.bucket, &session.region()).await {
            Ok(count) => session.writer.integer(count as i64),
            Err(error) => session.writer.error(&error_text(&error)),
        }
    })
}

pub(crate) fn flushdb<'s>(session: &'s mut Session, _command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        match session.node.clear_region(session.bucket, &session.region()).await {
            Ok(_) => session.writer.ok(),
            Err(error) => session.writer.error(&error_text(&error)),
        }
    })
}

pub(crate) fn flushall<'s>(session: &'s mut Session, _command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let region = session.region();
        for bucket in session.buckets() {
            if let Err(error) = session.node.clear_region(bucket, &region).await {
                return session.writer.error(&error_text(&error));
            }
        }
        session.writer.ok();
    })
}

pub(crate) fn scan<'s>(session: &'s mut Session, command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let number = std::str::from_utf8(&argument(command, 1)).ok().and_then(|text| text.parse().ok());
        let cursor = number.and_then(Cursor::new);
        let Some(cursor) = cursor else { return session.writer.error("ERR invalid cursor") };
        let (mut pattern, mut count, mut is_strings) = (None, 10, true);
        let mut at = 2;
        while at < command.len() {
            match (word(command, at).as_str(), command.get(at + 1)) {
                ("match", Some(value)) => pattern = Some(value.clone()),
                ("count", Some(value)) => match decimal(value).map(usize::try_from) {
                    Some(Ok(value)) if value > 0 => count = value,
                    Some(_) => return session.writer.error("ERR syntax error"),
                    None => return session.writer.error("ERR value is not an integer or out of range"),
                },
                ("type", Some(value)) => is_strings = value.eq_ignore_ascii_case(b"string"),
                _ => return session.writer.error("ERR syntax error"),
            }
            at += 2;
        }
        let pattern = pattern.map(|pattern| Pattern::read(&pattern)).transpose();
        let mut pattern = match pattern {
            Ok(pattern) => pattern,
            Err(error) => return session.writer.error(&error.message()),
        };
        match session.node.scan_region(session.bucket, &session.region(), cursor, count).await {
            Err(error) => session.writer.error(&error_text(&error)),
            Ok(page) => {
                let mut found = Vec::new();
                if is_strings {
                    select(session, page.keys, pattern.as_mut(), &mut found).await;
                }
                session.writer.array(2);
                session.writer.bulk(page.cursor.number().to_string().as_bytes());
                session.writer.bulks(&found);
            }
        }
    })
}

/// Adds the keys that match to `found`, in short stretches.
async fn select(
    session: &mut Session,
    keys: Vec<Bytes>,
    mut pattern: Option<&mut Pattern>,
    found: &mut Vec<Bytes>,
) {
    for key in keys {
        if pattern.as_mut().is_none_or(|pattern| pattern.matches(&key)) {
            found.push(key);
        }
        session.stretch.step().await;
    }
}

pub(crate) fn keys<'s>(session: &'s mut Session, command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let mut pattern = match Pattern::read(&argument(command, 1)) {
            Ok(pattern) => pattern,
            Err(error) => return session.writer.error(&error.message()),
        };
        let region = session.region();
        let (mut cursor, mut found, mut bytes) = (Cursor::START, Vec::new(), 0);
        loop {
            let scanned = session.node.scan_region(session.bucket, &region, cursor, limits::PAGE_RECORDS_MAX);
            match scanned.await {
                Err(error) => return session.writer.error(&error_text(&error)),
                Ok(page) => {
                    let before = found.len();
                    select(session, page.keys, Some(&mut pattern), &mut found).await;
                    let new = found.get(before..).unwrap_or_default();
                    bytes += new.iter().map(|key: &Bytes| key.len() + size_of::<Bytes>()).sum::<usize>();
                    cursor = page.cursor;
                }
            }
            if !session.gathers(bytes) {
                session.gathers(0);
                let error = session.node.client_memory().refusal();
                return session.writer.error(&error_text(&error));
            }
            if cursor.is_start() {
                break;
            }
        }
        session.gathers(0);
        session.writer.array(found.len());
        for key in found {
            session.writer.bulk(&key);
            session.stretch.step().await;
        }
    })
}

pub(crate) fn randomkey<'s>(session: &'s mut Session, _command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        let region = session.region();
        let start = Cursor::of(Position(fastrand::u64(..)));
        for mut cursor in [start, Cursor::START] {
            loop {
                match session.node.scan_region(session.bucket, &region, cursor, 1).await {
                    Err(error) => return session.writer.error(&error_text(&error)),
                    Ok(page) => {
                        if let Some(key) = page.keys.first() {
                            return session.writer.bulk(key);
                        }
                        cursor = page.cursor;
                    }
                }
                if cursor.is_start() {
                    break;
                }
            }
        }
        session.writer.null();
    })
}
