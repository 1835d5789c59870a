//! The platform's public error: a kind that says what to do, and a message for people.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What the caller should do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// Nothing changed. The request itself is wrong: fix the call.
    Invalid,
    /// Nothing changed. The value is not the one expected: read again.
    Conflict,
    /// Nothing changed. Too few replicas can be reached: retry later.
    Unavailable,
    /// Nothing changed. The node has too much to do: back off.
    Overloaded,
    /// It may have happened: retry only what is idempotent.
    OutcomeUnknown,
    /// Stored bytes are damaged: restore them from another replica or a backup.
    Corrupt,
    /// A fault of Slipring's own: tell its authors.
    Internal,
}

/// Why a request was not answered as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What to do.
    pub kind: ErrorKind,
    /// What happened, for people.
    pub message: Cow<'static, str>,
}

impl Error {
    /// An error of `kind` with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
