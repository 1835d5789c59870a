//! COMMAND: what the commands are, told to clients that ask before they route.

use slipring_resp::Command;

use super::glob::Pattern;
use super::run::{Session, keys};
use super::strings::argument;
use super::table::{COMMANDS, Group, Spec, find};
use super::write::Writer;
use super::{unknown_subcommand, word};

pub(crate) fn command(session: &mut Session, command: &Command) {
    let writer = &mut session.writer;
    match (word(command, 1).as_str(), command.len()) {
        ("", 1) | ("info", 2) => {
            writer.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| entry(spec, writer));
        }
        ("count", 2) => writer.integer(COMMANDS.len() as i64),
        ("list", 2) => names(|_| true, writer),
        ("list", 5) if word(command, 2) == "filterby" => list(command, writer),
        ("info", _) => {
            writer.array(command.len() - 2);
            for name in command.iter().skip(2) {
                match find(name) {
                    Some(spec) => entry(spec, writer),
                    None => writer.null_array(),
                }
            }
        }
        ("docs", _) => docs(command, writer),
        ("getkeys", 3..) => get_keys(command, writer, false),
        ("getkeysandflags", 3..) => get_keys(command, writer, true),
        ("help", 2) => writer.bulks(&["COMMAND COUNT|DOCS|GETKEYS|GETKEYSANDFLAGS|INFO|LIST"]),
        _ => unknown_subcommand(session, command),
    }
}

fn names(mut is_wanted: impl FnMut(&Spec) -> bool, writer: &mut Writer) {
    let names: Vec<_> = COMMANDS.iter().filter(|spec| is_wanted(spec)).map(|spec| spec.name).collect();
    writer.bulks(&names);
}

fn list(command: &Command, writer: &mut Writer) {
    let category = word(command, 4);
    match word(command, 3).as_str() {
        "pattern" => match Pattern::read(&argument(command, 4)) {
            Ok(mut pattern) => names(|spec| pattern.matches(spec.name.as_bytes()), writer),
            Err(error) => writer.error(&error.message()),
        },
        "aclcat" => names(|spec| categories_of(spec).any(|name| name == category), writer),
        "module" => names(|_| false, writer),
        _ => writer.error("ERR syntax error"),
    }
}

/// Ten elements: name, arity, flags, first key, last key, step, categories, tips, key specs, subcommands.
fn entry(spec: &Spec, writer: &mut Writer) {
    writer.array(10);
    writer.bulk(spec.name.as_bytes());
    writer.integer(spec.arity);
    let flags = flags_of(spec);
    writer.set(flags.len());
    flags.iter().for_each(|flag| writer.simple(flag));
    writer.integer(spec.keys.0);
    writer.integer(spec.keys.1);
    writer.integer(spec.keys.2);
    writer.set(categories_of(spec).count());
    categories_of(spec).for_each(|name| writer.simple(&format!("@{name}")));
    (0..3).for_each(|_| writer.array(0));
}

fn flags_of(spec: &Spec) -> &'static [&'static str] {
    match spec.group {
        _ if spec.is_write => &["write"],
        Group::String | Group::Generic => &["readonly"],
        Group::Connection => &["loading", "stale", "fast"],
        Group::Server | Group::Cluster => &["loading", "stale"],
        Group::Transaction => &["noscript", "loading", "stale"],
    }
}

fn categories_of(spec: &Spec) -> impl Iterator<Item = &'static str> {
    let about = match spec.group {
        Group::String => "string",
        Group::Generic => "keyspace",
        Group::Connection => "connection",
        Group::Server | Group::Cluster => "admin",
        Group::Transaction => "transaction",
    };
    let is_about_keys = matches!(spec.group, Group::String | Group::Generic);
    let access = if spec.is_write { Some("write") } else { is_about_keys.then_some("read") };
    [Some(about), access].into_iter().flatten()
}

/// ACL CAT: the categories, or the commands in one.
pub(crate) fn categories(session: &mut Session, command: &Command) {
    const ALL: [&str; 7] = ["keyspace", "read", "write", "string", "admin", "connection", "transaction"];
    match word(command, 2).as_str() {
        "" => session.writer.bulks(&ALL),
        name if ALL.contains(&name) => {
            names(|spec| categories_of(spec).any(|category| category == name), &mut session.writer);
        }
        name => session.writer.error(&format!("ERR Unknown category '{name}'")),
    }
}

fn summary_of(spec: &Spec) -> &'static [u8] {
    match (spec.name, spec.is_write) {
        ("multi", _) => b"Queues the commands that follow until EXEC.",
        ("exec", _) => b"Runs the queued commands in order, not isolated from other clients.",
        ("discard", _) => b"Forgets the queued commands.",
        ("watch", _) => b"Is refused in a quorum bucket, and the next transaction with it.",
        (_, true) => b"Changes what is stored.",
        (_, false) => b"Changes nothing that is stored.",
    }
}

fn docs(command: &Command, writer: &mut Writer) {
    let asked: Vec<&Spec> = if command.len() > 2 {
        command.iter().skip(2).filter_map(|name| find(name)).collect()
    } else {
        COMMANDS.iter().collect()
    };
    writer.map(asked.len());
    for spec in asked {
        writer.bulk(spec.name.as_bytes());
        writer.map(2);
        writer.bulk(b"summary");
        writer.bulk(summary_of(spec));
        writer.bulk(b"group");
        writer.bulk(match spec.group {
            Group::String => b"string",
            Group::Generic => b"generic",
            Group::Connection => b"connection",
            Group::Server => b"server",
            Group::Cluster => b"cluster",
            Group::Transaction => b"transactions",
        });
    }
}

fn get_keys(command: &Command, writer: &mut Writer, with_flags: bool) {
    let inner: Command = command.iter().skip(2).cloned().collect();
    match inner.first().and_then(|name| find(name)) {
        None => writer.error("ERR Invalid command specified"),
        Some(spec) if spec.keys.0 == 0 => writer.error("ERR The command has no key arguments"),
        Some(spec) if !spec.accepts(inner.len()) => {
            writer.error("ERR Invalid number of arguments specified for command");
        }
        Some(spec) => {
            let keys: Vec<_> = keys(spec, &inner).collect();
            if !with_flags {
                return writer.bulks(&keys);
            }
            writer.array(keys.len());
            for key in keys {
                writer.array(2);
                writer.bulk(key);
                writer.set(2);
                let flags = if spec.is_write { ["RW", "update"] } else { ["RO", "access"] };
                flags.iter().for_each(|flag| writer.simple(flag));
            }
        }
    }
}
