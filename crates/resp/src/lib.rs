//! Commands of the Redis protocol out of bytes.
//!
//! Pure, and a crate of its own because these are any stranger's bytes: it is fuzzed alone.

mod parse;

pub use parse::{Command, Parser, ProtocolError, decimal};
