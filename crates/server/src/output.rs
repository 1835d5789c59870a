//! What the command line writes: to standard output what was asked for, to standard error the rest.
//!
//! Whoever reads may stop reading, as `grep -q` does. What is written then goes nowhere, and the command ends as it would
//! have ended: its exit code still tells what it found.

use std::fmt;
use std::io::{self, Write};

use anyhow::Context;

/// Writes a line to standard output; leaves the function with an error where that fails.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*))? };
}

/// Writes a line to standard error.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::aside(format_args!($($text)*)) };
}

pub(crate) use {note, say};

/// Writes a line to standard output.
///
/// # Errors
/// It cannot be written, other than because nobody reads it any more.
pub(crate) fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    as_far_as_read(writeln!(out, "{text}").and_then(|()| out.flush()))
}

/// Writes bytes to standard output as they are.
///
/// # Errors
/// As for [`line()`].
pub(crate) fn bytes(text: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    as_far_as_read(out.write_all(text).and_then(|()| out.flush()))
}

/// Writes a line to standard error. Where that fails there is nowhere left to say so.
pub(crate) fn aside(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn as_far_as_read(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_reads_any_more_is_no_failure_and_a_full_disk_is_one() {
        assert!(as_far_as_read(Ok(())).is_ok());
        assert!(as_far_as_read(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let error = as_far_as_read(Err(io::ErrorKind::StorageFull.into())).expect_err("told");
        assert!(error.to_string().contains("standard output"), "{error}");
    }
}
