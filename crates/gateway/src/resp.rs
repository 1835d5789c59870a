//! The Redis protocol, RESP2 and RESP3, on ports of two views or on any stream of bytes.
//!
//! One task per connection: it takes every complete command out of what was read, runs them, and writes all
//! replies at once. A command that this node can answer alone costs no task and no wait.

mod admin;
mod clients;
mod cluster;
mod connection;
mod conversation;
mod describe;
mod glob;
mod info;
mod input;
mod port;
mod reply;
mod run;
mod slots;
mod stretch;
mod strings;
mod table;
mod transaction;
mod view;
mod write;

use slipring_resp::Command;

pub use port::{Port, serve};
use run::Session;
pub use view::View;

/// The version of Redis whose commands these are.
const REDIS_VERSION: &str = "7.4.0";

/// The most bytes of an argument that are compared with words or shown in an error: none of our words is longer.
const WORD_BYTES_MAX: usize = 128;

/// An argument in lower case, for comparing; empty when it is not there.
fn word(command: &Command, at: usize) -> String {
    shown(command.get(at).map(AsRef::as_ref).unwrap_or_default()).to_ascii_lowercase()
}

/// The beginning of an argument, as people are shown it.
fn shown(bytes: &[u8]) -> String {
    let beginning = bytes.get(..WORD_BYTES_MAX).unwrap_or(bytes);
    String::from_utf8_lossy(beginning).into_owned()
}

fn unknown_subcommand(session: &mut Session, command: &Command) {
    let (name, sub) = (word(command, 0).to_ascii_uppercase(), shown(&strings::argument(command, 1)));
    session.writer.error(&format!("ERR unknown subcommand '{sub}'. Try {name} HELP."));
}
