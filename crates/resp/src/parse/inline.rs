//! Inline commands: a line of words, as people type them.
//!
//! Words may be quoted: between double quotes `\n`, `\r`, `\t`, `\a`, `\b`, `\xHH` and an escaped quote mean
//! what they do in C, between single quotes only an escaped quote does.

use std::iter::{Copied, Peekable};
use std::slice::Iter;

use bytes::Bytes;

use super::{Command, ProtocolError};

type Line<'l> = Peekable<Copied<Iter<'l, u8>>>;

/// The words of a line, which may end with its line break.
pub(super) fn split(line: &Bytes) -> Result<Command, ProtocolError> {
    refuse_http(line)?;
    if line.iter().any(|byte| matches!(byte, b'"' | b'\'')) {
        return quoted_words(line).ok_or(ProtocolError("Protocol error: unbalanced quotes in request"));
    }
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    Ok(words.map(|word| line.slice_ref(word)).collect())
}

/// A browser that was talked into sending a request here must not be able to run commands.
fn refuse_http(line: &[u8]) -> Result<(), ProtocolError> {
    let first = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty()).unwrap_or_default();
    let is_one_of = |words: &[&str]| words.iter().any(|word| first.eq_ignore_ascii_case(word.as_bytes()));
    let is_request = is_one_of(&["get", "put", "head", "options", "delete"])
        && line.windows(6).any(|part| part == b" HTTP/");
    if is_request || is_one_of(&["post", "host:"]) {
        return Err(ProtocolError("Protocol error: this port speaks the Redis protocol, not HTTP"));
    }
    Ok(())
}

/// The words of a line with quotes; `None` when one is not closed, or goes on behind its quote.
fn quoted_words(line: &[u8]) -> Option<Command> {
    let mut line = line.iter().copied().peekable();
    let mut words = Command::new();
    loop {
        while line.next_if(u8::is_ascii_whitespace).is_some() {}
        if line.peek().is_none() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(byte) = line.next_if(|byte| !byte.is_ascii_whitespace()) {
            match byte {
                b'"' | b'\'' => {
                    quoted(byte, &mut line, &mut word)?;
                    if line.peek().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                        return None;
                    }
                }
                other => word.push(other),
            }
        }
        words.push(word.into());
    }
}

/// Reads up to the closing quote.
fn quoted(quote: u8, line: &mut Line<'_>, word: &mut Vec<u8>) -> Option<()> {
    loop {
        match line.next()? {
            byte if byte == quote => return Some(()),
            b'\\' if quote == b'"' => word.push(escaped(line)?),
            b'\\' if line.next_if_eq(&b'\'').is_some() => word.push(b'\''),
            other => word.push(other),
        }
    }
}

fn escaped(line: &mut Line<'_>) -> Option<u8> {
    Some(match line.next()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'a' => 7,
        b'b' => 8,
        b'x' => {
            let mut ahead = line.clone();
            let mut digit = || char::from(ahead.next()?).to_digit(16);
            match (digit(), digit()) {
                (Some(high), Some(low)) => {
                    *line = ahead;
                    (high * 16 + low) as u8
                }
                _ => b'x',
            }
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &'static str) -> Result<Vec<String>, ProtocolError> {
        let command = split(&Bytes::from_static(line.as_bytes()))?;
        Ok(command.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    #[test]
    fn words_may_be_quoted() {
        for (line, expected) in [
            ("SET a  b\r\n", vec!["SET", "a", "b"]),
            ("SET a \"b c\"\r\n", vec!["SET", "a", "b c"]),
            ("SET a \"\\x41\\n\\\"\\xz\"\r\n", vec!["SET", "a", "A\n\"xz"]),
            ("SET a 'it\\'s \\n'\r\n", vec!["SET", "a", "it's \\n"]),
            ("SET a \"\"\r\n", vec!["SET", "a", ""]),
            (" \r\n", vec![]),
        ] {
            assert_eq!(
                words(line).as_deref(),
                Ok(&expected.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..])
            );
        }
        for line in ["SET a \"b\r\n", "SET a 'b\r\n", "SET a \"b\"c\r\n", "SET a \"b\\"] {
            let unbalanced = ProtocolError("Protocol error: unbalanced quotes in request");
            assert_eq!(words(line), Err(unbalanced), "{line}");
        }
    }

    #[test]
    fn http_is_told_from_commands() {
        for line in ["POST / HTTP/1.1\r\n", "Host: x\r\n", "GET / HTTP/1.1\r\n", "put /k HTTP/1.0\n"] {
            assert!(words(line).is_err(), "{line}");
        }
        assert!(words("GET /path\r\n").is_ok());
    }
}
