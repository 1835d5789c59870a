//! COMMAND: what the commands are, told to clients that ask before they route.

use super::parse::Command;
use super::run::{Session, keys};
use super::strings::argument;
use super::table::{COMMANDS, Spec, find};
use super::write::Writer;

pub(crate) fn command(session: &mut Session, command: &Command) {
    let sub = argument(command, 1).to_ascii_lowercase();
    let writer = &mut session.writer;
    match (sub.as_slice(), command.len()) {
        (b"", 1) => {
            writer.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| entry(spec, writer));
        }
        (b"count", 2) => writer.integer(COMMANDS.len() as i64),
        (b"list", 2) => {
            writer.array(COMMANDS.len());
            COMMANDS.iter().for_each(|spec| writer.bulk(spec.name.as_bytes()));
        }
        (b"info", _) => {
            writer.array(command.len() - 2);
            for name in command.iter().skip(2) {
                match find(name) {
                    Some(spec) => entry(spec, writer),
                    None => writer.null_array(),
                }
            }
        }
        (b"docs", _) => docs(command, writer),
        (b"getkeys" | b"getkeysandflags", 3..) => get_keys(command, writer),
        (b"help", 2) => writer.bulks(&["COMMAND COUNT|DOCS|GETKEYS|INFO|LIST"]),
        _ => {
            let sub = String::from_utf8_lossy(&sub).into_owned();
            writer.error(&format!("ERR unknown subcommand '{sub}'. Try COMMAND HELP."));
        }
    }
}

/// Ten elements: name, arity, flags, first key, last key, step, categories, tips, key specs, subcommands.
fn entry(spec: &Spec, writer: &mut Writer) {
    writer.array(10);
    writer.bulk(spec.name.as_bytes());
    writer.integer(spec.arity);
    writer.set(1);
    writer.simple(if spec.is_write { "write" } else { "readonly" });
    writer.integer(spec.keys.0);
    writer.integer(spec.keys.1);
    writer.integer(spec.keys.2);
    writer.set(1);
    writer.simple(if spec.is_write { "@write" } else { "@read" });
    (0..3).for_each(|_| writer.array(0));
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
        writer.bulk(if spec.is_write { b"Changes what is stored." } else { b"Changes nothing." });
        writer.bulk(b"group");
        writer.bulk(if spec.keys.0 > 0 { b"string" } else { b"server" });
    }
}

fn get_keys(command: &Command, writer: &mut Writer) {
    let inner: Command = command.iter().skip(2).cloned().collect();
    match inner.first().and_then(|name| find(name)) {
        None => writer.error("ERR Invalid command specified"),
        Some(spec) if spec.keys.0 == 0 => writer.error("ERR The command has no key arguments"),
        Some(spec) => {
            let keys: Vec<_> = keys(spec, &inner).collect();
            writer.bulks(&keys);
        }
    }
}
