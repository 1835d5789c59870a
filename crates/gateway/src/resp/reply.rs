//! How the application's answers become replies.

use bytes::Bytes;
use slipring_apps::kv::{Found, Response};
use slipring_model::{Error, ErrorKind};

use super::write::Writer;

/// The form a command's reply takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The value, or null.
    Value,
    /// `OK`, or null when nothing was written.
    Okay,
    /// The value, a decimal number that was added to.
    Decimal,
    /// The value before, or null.
    Previous,
    /// 1 when it was done, else 0.
    Done,
    /// How many were done, or exist.
    Count,
    /// A number.
    Integer,
    /// The length of the value.
    Length,
    /// A part of the value, ends included; negative places count from the end.
    Part(i64, i64),
    /// What type the value has.
    Type,
    /// The encoding of the value.
    Encoding,
    /// Milliseconds or seconds until the value expires, or when: -1 never, -2 no value.
    Expiry {
        /// Now, to count from; absent for the instant itself.
        now_ms: Option<u64>,
        /// Whether in seconds.
        in_seconds: bool,
    },
    /// Every value, each or null.
    Values,
    /// A constant number when the value exists, else an error that there is none.
    NumberIfAny(i64),
    /// This error when the value exists, else null.
    ErrorIfAny(&'static str),
}

impl Shape {
    /// What a reply of this shape needs of an answer: to count values takes none of their bytes.
    pub(crate) fn keep(self, response: Response) -> Response {
        match (self, response) {
            (Self::Count, Response::Value(Some(found))) => {
                Response::Value(Some(Found { value: Bytes::new(), ..found }))
            }
            (_, response) => response,
        }
    }

    pub(crate) fn write_one(self, result: Result<Response, Error>, writer: &mut Writer) {
        match (self, result) {
            (Self::Values, result) => self.write_all(vec![result], writer),
            (_, Err(error)) => writer.error(&error_text(&error)),
            (Self::Decimal, Ok(Response::NotANumber)) => writer.error("ERR value is not a valid float"),
            (Self::Decimal, Ok(Response::Overflow)) => {
                writer.error("ERR increment would produce NaN or Infinity");
            }
            (_, Ok(Response::NotANumber)) => writer.error("ERR value is not an integer or out of range"),
            (_, Ok(Response::Overflow)) => writer.error("ERR increment or decrement would overflow"),
            (_, Ok(Response::TooLarge)) => {
                writer.error("ERR string exceeds maximum allowed size (proto-max-bulk-len)");
            }
            (_, Ok(Response::Conflict)) => {
                writer.error("CONFLICT somebody has written since the value was read")
            }
            (Self::Integer, Ok(Response::Integer(number))) => writer.integer(number),
            (Self::Okay, Ok(Response::Written { done: true, .. })) => writer.ok(),
            (Self::Okay, Ok(Response::Written { done: false, .. })) => writer.null(),
            (Self::Previous, Ok(Response::Written { previous, .. })) => writer.optional(previous.as_deref()),
            (Self::Done | Self::Count, Ok(Response::Written { done, .. })) => writer.integer(i64::from(done)),
            (_, Ok(Response::Value(found))) => self.write_value(found, writer),
            (_, Ok(_)) => writer.error("ERR the application answered out of turn; please report it"),
        }
    }

    fn write_value(self, found: Option<Found>, writer: &mut Writer) {
        match &found {
            Some(_) => writer.hits += 1,
            None => writer.misses += 1,
        }
        match (self, &found) {
            (Self::Done | Self::Count, found) => writer.integer(i64::from(found.is_some())),
            (Self::Length, found) => {
                writer.integer(found.as_ref().map_or(0, |found| found.value.len() as i64))
            }
            (Self::Part(from, to), found) => {
                writer.bulk(found.as_ref().map_or(&[], |found| part(&found.value, from, to)));
            }
            (Self::Type, found) => writer.simple(if found.is_some() { "string" } else { "none" }),
            (Self::Encoding, None) => writer.null(),
            (Self::Encoding, Some(found)) => writer.bulk(encoding(&found.value)),
            (Self::Expiry { now_ms, in_seconds }, found) => {
                writer.integer(expiry(found.as_ref(), now_ms, in_seconds))
            }
            (Self::NumberIfAny(_) | Self::ErrorIfAny(_), None) => writer.null(),
            (Self::ErrorIfAny(error), Some(_)) => writer.error(error),
            (Self::NumberIfAny(number), Some(_)) => writer.integer(number),
            (_, found) => writer.optional(found.as_ref().map(|found| found.value.as_ref())),
        }
    }

    pub(crate) fn write_all(self, mut results: Vec<Result<Response, Error>>, writer: &mut Writer) {
        if let Some(Err(error)) = results.iter().find(|result| result.is_err()) {
            return writer.error(&error_text(error));
        }
        match self {
            Self::Values => {
                writer.array(results.len());
                results.into_iter().for_each(|result| Self::Value.write_one(result, writer));
            }
            Self::Count => {
                let is_one = |result: &Result<Response, Error>| {
                    matches!(result, Ok(Response::Written { done: true, .. } | Response::Value(Some(_))))
                };
                writer.integer(results.iter().filter(|result| is_one(result)).count() as i64);
            }
            _ => match results.pop() {
                Some(last) => self.write_one(last, writer),
                None => writer.ok(),
            },
        }
    }
}

/// The platform's errors, in the words of this protocol. The one place where they are translated.
pub(crate) fn error_text(error: &Error) -> String {
    let word = match error.kind {
        ErrorKind::Invalid => "ERR",
        ErrorKind::Conflict => "CONFLICT",
        ErrorKind::Unavailable => "NOREPLICAS",
        ErrorKind::Overloaded => "OVERLOADED",
        ErrorKind::OutcomeUnknown => "UNKNOWN",
        ErrorKind::Corrupt => "CORRUPT",
        ErrorKind::Internal => "INTERNAL",
    };
    format!("{word} {}", error.message)
}

fn part(value: &[u8], from: i64, to: i64) -> &[u8] {
    let length = value.len() as i64;
    // Counted from the end, the wrong way round is nothing even where both lie before the beginning.
    if from < 0 && to < 0 && from > to {
        return &[];
    }
    let place = |at: i64| if at < 0 { length.saturating_add(at).max(0) } else { at };
    let (from, to) = (place(from), place(to).min(length - 1));
    if from > to { &[] } else { value.get(from as usize..=to as usize).unwrap_or_default() }
}

fn encoding(value: &[u8]) -> &'static [u8] {
    match slipring_resp::decimal(value) {
        Some(_) => b"int",
        None if value.len() <= 44 => b"embstr",
        None => b"raw",
    }
}

fn expiry(found: Option<&Found>, now_ms: Option<u64>, in_seconds: bool) -> i64 {
    match found {
        None => -2,
        Some(Found { expires_at: None, .. }) => -1,
        Some(Found { expires_at: Some(at), .. }) => {
            let ms = at.saturating_sub(now_ms.unwrap_or(0));
            let rounding = if now_ms.is_some() { 500 } else { 0 };
            (if in_seconds { (ms + rounding) / 1000 } else { ms }) as i64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_count_from_both_ends() {
        for (from, to, expected) in [
            (0, -1, "hello"),
            (1, 2, "el"),
            (-3, -2, "ll"),
            (3, 1, ""),
            (9, 12, ""),
            (-99, 0, "h"),
            (-98, -99, ""),
            (-99, -98, "h"),
        ] {
            assert_eq!(part(b"hello", from, to), expected.as_bytes(), "{from} {to}");
        }
        assert_eq!(part(b"", 0, -1), b"");
    }
}
