//! What clients ask of the key-value application, and what they are told.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What happens to a value's time to live when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiry {
    /// As the bucket says; never, unless it has a time to live.
    Default,
    /// As it was.
    Keep,
    /// At this many milliseconds since the Unix epoch.
    At(u64),
}

/// When a value is written at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// In any case.
    Always,
    /// If there is none.
    IfAbsent,
    /// If there is one.
    IfPresent,
    /// If there is this one.
    IfEquals(Bytes),
}

/// When an expiry is set at all; an absent one counts as never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpireIf {
    /// Only if there is none.
    pub none: bool,
    /// Only if there is one.
    pub some: bool,
    /// Only if it is later than the one there is.
    pub later: bool,
    /// Only if it is earlier than the one there is.
    pub earlier: bool,
}

/// Values by their causal contexts, as a client lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tags {
    /// Any value there is.
    Any,
    /// A value that was read with one of these contexts.
    These(Vec<Bytes>),
}

/// What must be so of the value that there is, as HTTP's `If-Match` and `If-None-Match` say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Precondition {
    /// There is one of these.
    pub matches: Option<Tags>,
    /// There is none of these.
    pub matches_none: Option<Tags>,
}

/// A request. New kinds are added at the end, and fields never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The value. Answer: `Value`.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Every concurrent value, with the causal context to write them over. Answer: `All`.
    GetAll {
        /// The key.
        key: Bytes,
    },
    /// Writes a value. Answer: `Written`, `Conflict`.
    Set {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Until when.
        expiry: Expiry,
        /// Whether at all.
        condition: Condition,
        /// Whether the answer holds the value before.
        returns_previous: bool,
        /// The causal context the writer has seen.
        seen: Option<Bytes>,
    },
    /// Deletes a value. Answer: `Written` (whether there was one), `Conflict`.
    Delete {
        /// The key.
        key: Bytes,
        /// The causal context the deleter has seen.
        seen: Option<Bytes>,
    },
    /// Deletes a value and answers with it. Answer: `Value`.
    Take {
        /// The key.
        key: Bytes,
    },
    /// Adds to an integer; nothing counts as 0. Answer: `Integer`, `NotANumber`, `Overflow`.
    Add {
        /// The key.
        key: Bytes,
        /// How much.
        delta: i64,
    },
    /// Adds to a decimal number, written as text. Answer: `Value`, `NotANumber`, `Overflow`.
    AddFloat {
        /// The key.
        key: Bytes,
        /// How much, in decimal.
        delta: Bytes,
    },
    /// Appends to a value. Answer: `Integer` (its length), `TooLarge`.
    Append {
        /// The key.
        key: Bytes,
        /// What to append.
        tail: Bytes,
    },
    /// Overwrites a part of a value, padding it with zeros. Answer: `Integer` (its length), `TooLarge`.
    SetRange {
        /// The key.
        key: Bytes,
        /// Where the part begins.
        offset: u64,
        /// The part.
        part: Bytes,
    },
    /// Sets when a value expires; a time that is past deletes it. Answer: `Written` (whether it was set).
    Expire {
        /// The key.
        key: Bytes,
        /// Milliseconds since the Unix epoch.
        at: u64,
        /// Whether at all.
        only: ExpireIf,
    },
    /// The value, and a new expiry for it; `Default` makes it last. Answer: `Value`.
    GetAndExpire {
        /// The key.
        key: Bytes,
        /// Until when.
        expiry: Expiry,
    },
    /// Makes a value last. Answer: `Written` (whether it had an expiry).
    Persist {
        /// The key.
        key: Bytes,
    },
    /// Writes a value over those that its writer names. Answer: `Stored`, `Conflict`, `Matched`, `TooLarge`.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Until when.
        expiry: Expiry,
        /// Whether at all.
        only: Precondition,
    },
    /// Deletes a value if it is one that the deleter names. Answer: `Written` (whether there was one), `Conflict`,
    /// `Matched`.
    Remove {
        /// The key.
        key: Bytes,
        /// Whether at all.
        only: Precondition,
    },
}

impl Request {
    /// The key the request belongs to.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Get { key }
            | Self::GetAll { key }
            | Self::Set { key, .. }
            | Self::Delete { key, .. }
            | Self::Take { key }
            | Self::Add { key, .. }
            | Self::AddFloat { key, .. }
            | Self::Append { key, .. }
            | Self::SetRange { key, .. }
            | Self::Expire { key, .. }
            | Self::GetAndExpire { key, .. }
            | Self::Persist { key }
            | Self::Put { key, .. }
            | Self::Remove { key, .. } => key,
        }
    }

    /// An ordinary write.
    #[must_use]
    pub fn set(key: Bytes, value: Bytes) -> Self {
        let condition = Condition::Always;
        Self::Set { key, value, expiry: Expiry::Default, condition, returns_previous: false, seen: None }
    }
}

/// A value and until when it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The value.
    pub value: Bytes,
    /// Milliseconds since the Unix epoch; never when absent.
    pub expires_at: Option<u64>,
}

/// An answer. New kinds are added at the end, and fields never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The value, if there is one.
    Value(Option<Found>),
    /// Every concurrent value.
    All {
        /// The values; one, unless the bucket keeps siblings.
        values: Vec<Bytes>,
        /// The causal context of all of them.
        context: Bytes,
        /// Until when the value lives.
        expires_at: Option<u64>,
    },
    /// Whether it was done, and the value before where it was asked for.
    Written {
        /// Whether it was done.
        done: bool,
        /// The value before.
        previous: Option<Bytes>,
    },
    /// A number.
    Integer(i64),
    /// The value is no number.
    NotANumber,
    /// The number would be too large.
    Overflow,
    /// The value would be too large.
    TooLarge,
    /// Somebody has written since the context was read.
    Conflict,
    /// The value was written.
    Stored {
        /// The causal context of the value; absent where other values are there beside it that its writer has not seen.
        context: Option<Bytes>,
    },
    /// There is a value that must not be there.
    Matched,
}
