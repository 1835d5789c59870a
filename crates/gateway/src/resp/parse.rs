//! Commands out of bytes: RESP arrays of bulk strings, and inline commands.
//!
//! Nothing is copied: arguments are slices of the bytes read. Every length is checked before anything is
//! reserved for it, and an incomplete command says how many bytes it waits for, so that a large one is not
//! looked through again and again.
//!
//! Source: the Redis serialization protocol specification.

use bytes::{Bytes, BytesMut};
use slipring_model::limits;
use smallvec::SmallVec;

/// The most bytes of one command, with all of its arguments.
const COMMAND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most digits of a length.
const LENGTH_DIGITS_MAX: usize = 20;

/// The arguments of one command; the first is its name.
pub type Command = SmallVec<[Bytes; 4]>;

/// Bytes that no client of this protocol sends. The connection ends with this answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(pub &'static str);

/// Reads commands from a connection's bytes.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes the next command needs before it can be complete.
    needed: usize,
}

struct Parsed {
    length: usize,
    arguments: SmallVec<[(usize, usize); 4]>,
}

enum Progress<T> {
    Done(T),
    /// At least so many bytes are needed.
    Needs(usize),
}

impl Parser {
    /// Takes the next complete command off `buffer`; `None` when it is not all there yet.
    ///
    /// # Errors
    /// [`ProtocolError`] when it can never be one.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Command>, ProtocolError> {
        loop {
            if buffer.is_empty() || buffer.len() < self.needed {
                return Ok(None);
            }
            let parsed =
                if buffer.first() == Some(&b'*') { parse_array(buffer)? } else { parse_inline(buffer)? };
            match parsed {
                Progress::Needs(needed) => {
                    self.needed = needed;
                    return Ok(None);
                }
                Progress::Done(parsed) => {
                    self.needed = 0;
                    let bytes = buffer.split_to(parsed.length).freeze();
                    if !parsed.arguments.is_empty() {
                        return Ok(Some(
                            parsed.arguments.iter().map(|(from, to)| bytes.slice(*from..*to)).collect(),
                        ));
                    }
                }
            }
        }
    }

    /// How many more bytes are worth reserving room for.
    #[must_use]
    pub fn missing(&self, buffer: &BytesMut) -> usize {
        self.needed.saturating_sub(buffer.len())
    }
}

fn parse_array(buffer: &[u8]) -> Result<Progress<Parsed>, ProtocolError> {
    let (count, mut at) = match length_line(buffer, 1, "Protocol error: invalid multibulk length")? {
        Progress::Done(line) => line,
        Progress::Needs(needed) => return Ok(Progress::Needs(needed)),
    };
    if count > limits::COMMAND_ARGUMENTS_MAX as i64 {
        return Err(ProtocolError("Protocol error: invalid multibulk length"));
    }
    let mut arguments = SmallVec::new();
    for _ in 0..count.max(0) {
        match buffer.get(at) {
            None => return Ok(Progress::Needs(at + 1)),
            Some(b'$') => {}
            Some(_) => return Err(ProtocolError("Protocol error: expected '$'")),
        }
        let (length, start) = match length_line(buffer, at + 1, "Protocol error: invalid bulk length")? {
            Progress::Done(line) => line,
            Progress::Needs(needed) => return Ok(Progress::Needs(needed)),
        };
        if !(0..=limits::VALUE_BYTES_MAX as i64).contains(&length) {
            return Err(ProtocolError("Protocol error: invalid bulk length"));
        }
        let end = start + length as usize;
        if end + 2 > COMMAND_BYTES_MAX {
            return Err(ProtocolError("Protocol error: too big mbulk count string"));
        }
        if buffer.len() < end + 2 {
            return Ok(Progress::Needs(end + 2));
        }
        if buffer.get(end..end + 2) != Some(b"\r\n") {
            return Err(ProtocolError("Protocol error: a bulk string must end with CRLF"));
        }
        arguments.push((start, end));
        at = end + 2;
    }
    Ok(Progress::Done(Parsed { length: at, arguments }))
}

/// A decimal number from `from` to the end of its line; the number and where the next line begins.
fn length_line(
    buffer: &[u8],
    from: usize,
    error: &'static str,
) -> Result<Progress<(i64, usize)>, ProtocolError> {
    let rest = buffer.get(from..).unwrap_or_default();
    let Some(end) = rest.iter().take(LENGTH_DIGITS_MAX + 2).position(|byte| *byte == b'\r') else {
        return if rest.len() > LENGTH_DIGITS_MAX {
            Err(ProtocolError(error))
        } else {
            Ok(Progress::Needs(buffer.len() + 1))
        };
    };
    if rest.len() < end + 2 {
        return Ok(Progress::Needs(from + end + 2));
    }
    let digits = rest.get(..end).unwrap_or_default();
    let number = decimal(digits).filter(|_| rest.get(end + 1) == Some(&b'\n')).ok_or(ProtocolError(error))?;
    Ok(Progress::Done((number, from + end + 2)))
}

/// A decimal integer as the protocol writes it.
pub(crate) fn decimal(digits: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match digits.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: i64 = 0;
    for digit in digits {
        let value = digit.checked_sub(b'0').filter(|value| *value <= 9)?;
        let value = i64::from(value);
        number = number.checked_mul(10)?.checked_add(if is_negative { -value } else { value })?;
    }
    Some(number)
}

fn parse_inline(buffer: &[u8]) -> Result<Progress<Parsed>, ProtocolError> {
    let Some(end) = buffer.iter().take(limits::INLINE_BYTES_MAX + 1).position(|byte| *byte == b'\n') else {
        return if buffer.len() > limits::INLINE_BYTES_MAX {
            Err(ProtocolError("Protocol error: too big inline request"))
        } else {
            Ok(Progress::Needs(buffer.len() + 1))
        };
    };
    let line = buffer.get(..end).unwrap_or_default();
    let mut arguments = SmallVec::new();
    let mut start = None;
    for (at, byte) in line.iter().chain(b" ").enumerate() {
        match (start, byte.is_ascii_whitespace()) {
            (None, false) => start = Some(at),
            (Some(from), true) => {
                arguments.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    let first = arguments.first().and_then(|(from, to)| line.get(*from..*to)).unwrap_or_default();
    let is_http =
        [&b"post"[..], b"get", b"put", b"head", b"host:"].iter().any(|verb| first.eq_ignore_ascii_case(verb));
    if is_http
        && (first.eq_ignore_ascii_case(b"host:")
            || line.ends_with(b"\r") && line.windows(5).any(|part| part == b"HTTP/"))
    {
        // A browser was talked into sending a request here; it must not be able to run commands.
        return Err(ProtocolError("Protocol error: this port speaks the Redis protocol, not HTTP"));
    }
    Ok(Progress::Done(Parsed { length: end + 1, arguments }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(arguments: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
            bytes.extend_from_slice(argument);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes
    }

    fn all(parser: &mut Parser, buffer: &mut BytesMut) -> Vec<Vec<Vec<u8>>> {
        let mut commands = Vec::new();
        while let Some(command) = parser.next(buffer).expect("valid") {
            commands.push(command.iter().map(|argument| argument.to_vec()).collect());
        }
        commands
    }

    fn refused(bytes: &[u8]) -> &'static str {
        Parser::default().next(&mut BytesMut::from(bytes)).expect_err("refused").0
    }

    #[test]
    fn lengths_are_refused_before_anything_is_reserved() {
        assert_eq!(refused(b"*99999999\r\n"), "Protocol error: invalid multibulk length");
        assert_eq!(refused(b"*1\r\n$99999999999\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refused(b"*1\r\n$-1\r\n"), "Protocol error: invalid bulk length");
        assert_eq!(refused(b"*1\r\n:1\r\n"), "Protocol error: expected '$'");
        assert_eq!(refused(&[b'*'; 40]), "Protocol error: invalid multibulk length");
        assert_eq!(refused(&vec![b'x'; 70_000]), "Protocol error: too big inline request");
        assert!(refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("not HTTP"));
        assert!(refused(b"Host: x\r\n").contains("not HTTP"));
    }

    #[test]
    fn inline_commands_are_split_at_spaces() {
        let mut buffer = BytesMut::from(&b"\r\n PING  hello \r\nPI"[..]);
        let commands = all(&mut Parser::default(), &mut buffer);
        assert_eq!(commands, [[b"PING".to_vec(), b"hello".to_vec()]]);
        assert_eq!(&buffer[..], b"PI");
    }

    proptest! {
        #[test]
        fn commands_are_the_same_however_they_are_cut(
            commands in proptest::collection::vec(proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..5), 1..5),
            cuts in proptest::collection::vec(1..7_usize, 1..100),
        ) {
            let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
            let (mut parser, mut buffer, mut found) = (Parser::default(), BytesMut::new(), Vec::new());
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().expect("cycle")).min(rest.len()));
                buffer.extend_from_slice(now);
                rest = later;
                found.extend(all(&mut parser, &mut buffer));
            }
            prop_assert_eq!(found, commands);
        }

        #[test]
        fn any_bytes_are_commands_an_error_or_incomplete(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut parser = Parser::default();
            while let Ok(Some(_)) = parser.next(&mut buffer) {}
        }
    }
}
