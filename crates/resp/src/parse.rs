//! Commands out of bytes: RESP arrays of bulk strings, and inline commands.
//!
//! Nothing is copied: arguments are slices of the bytes read; only quoted inline arguments are built anew.
//! Every length is checked before anything is reserved for it. What has been read of an incomplete command is
//! kept, so that one that comes in small pieces is not looked through again and again.
//!
//! Invariant: between calls the bytes of an incomplete command stay in front of the buffer.
//! Source: the Redis serialization protocol specification.

mod inline;

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
    /// Bytes that must be there before it is worth reading on.
    needed: usize,
    /// Arguments of the array under way; 0 outside of one.
    expected: usize,
    /// Where to read on.
    at: usize,
    /// Where the arguments found so far lie.
    found: SmallVec<[(usize, usize); 4]>,
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
    /// [`ProtocolError`] when it can never be one; nothing more can be read then.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Command>, ProtocolError> {
        while !buffer.is_empty() && buffer.len() >= self.needed {
            let is_inline = self.expected == 0 && buffer.first() != Some(&b'*');
            let progress = if is_inline { self.find_line(buffer)? } else { self.read_array(buffer)? };
            let length = match progress {
                Progress::Done(length) => length,
                Progress::Needs(needed) => {
                    self.needed = needed;
                    return Ok(None);
                }
            };
            let bytes = buffer.split_to(length).freeze();
            let found = std::mem::take(self).found;
            let command = if is_inline {
                inline::split(&bytes)?
            } else {
                found.iter().map(|(from, to)| bytes.slice(*from..*to)).collect()
            };
            if !command.is_empty() {
                return Ok(Some(command));
            }
        }
        Ok(None)
    }

    /// How many more bytes are worth reserving room for.
    #[must_use]
    pub fn missing(&self, buffer: &BytesMut) -> usize {
        self.needed.saturating_sub(buffer.len())
    }

    /// Reads on in an array; how long it is once it is whole.
    fn read_array(&mut self, buffer: &[u8]) -> Result<Progress<usize>, ProtocolError> {
        if self.expected == 0 {
            let (count, at) = match length_line(buffer, 1, "Protocol error: invalid multibulk length")? {
                Progress::Done(line) => line,
                Progress::Needs(needed) => return Ok(Progress::Needs(needed)),
            };
            // Fewer than none are none.
            self.expected = usize::try_from(count).unwrap_or(0);
            self.at = at;
            if self.expected > limits::COMMAND_ARGUMENTS_MAX {
                return Err(ProtocolError("Protocol error: invalid multibulk length"));
            }
        }
        while self.found.len() < self.expected {
            match bulk(buffer, self.at)? {
                Progress::Needs(needed) => return Ok(Progress::Needs(needed)),
                Progress::Done((from, to)) => {
                    self.found.push((from, to));
                    self.at = to + 2;
                }
            }
        }
        Ok(Progress::Done(self.at))
    }

    /// How long an inline command is, with the end of its line.
    fn find_line(&mut self, buffer: &[u8]) -> Result<Progress<usize>, ProtocolError> {
        let rest = buffer.get(self.at..).unwrap_or_default();
        match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) if self.at + end <= limits::INLINE_BYTES_MAX => Ok(Progress::Done(self.at + end + 1)),
            None if buffer.len() <= limits::INLINE_BYTES_MAX => {
                self.at = buffer.len();
                Ok(Progress::Needs(buffer.len() + 1))
            }
            _ => Err(ProtocolError("Protocol error: too big inline request")),
        }
    }
}

/// Where the bytes of the bulk string that begins at `at` lie.
fn bulk(buffer: &[u8], at: usize) -> Result<Progress<(usize, usize)>, ProtocolError> {
    match buffer.get(at) {
        None => return Ok(Progress::Needs(at + 1)),
        Some(b'$') => {}
        Some(_) => return Err(ProtocolError("Protocol error: expected '$'")),
    }
    let (length, start) = match length_line(buffer, at + 1, "Protocol error: invalid bulk length")? {
        Progress::Done(line) => line,
        Progress::Needs(needed) => return Ok(Progress::Needs(needed)),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= limits::VALUE_BYTES_MAX);
    let end = start + length.ok_or(ProtocolError("Protocol error: invalid bulk length"))?;
    if end + 2 > COMMAND_BYTES_MAX {
        return Err(ProtocolError("Protocol error: too big mbulk count string"));
    }
    match buffer.get(end..end + 2) {
        None => Ok(Progress::Needs(end + 2)),
        Some(b"\r\n") => Ok(Progress::Done((start, end))),
        Some(_) => Err(ProtocolError("Protocol error: a bulk string must end with CRLF")),
    }
}

/// A decimal number from `from` to the end of its line; the number and where the next line begins.
fn length_line(
    buffer: &[u8],
    from: usize,
    error: &'static str,
) -> Result<Progress<(i64, usize)>, ProtocolError> {
    let rest = buffer.get(from..).unwrap_or_default();
    let Some(end) = rest.iter().take(LENGTH_DIGITS_MAX + 1).position(|byte| *byte == b'\r') else {
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

/// A decimal integer as the protocol writes it: without spaces, `+` or leading zeros. Nothing when it is none, or beyond 64 bits.
#[must_use]
pub fn decimal(digits: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match digits.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, digits),
    };
    match digits {
        [] | [b'0', _, ..] => return None,
        [b'0'] if is_negative => return None,
        _ => {}
    }
    let mut number: i64 = 0;
    for digit in digits {
        let value = digit.checked_sub(b'0').filter(|value| *value <= 9)?;
        let value = i64::from(value);
        number = number.checked_mul(10)?.checked_add(if is_negative { -value } else { value })?;
    }
    Some(number)
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
        assert_eq!(refused(b"*01\r\n"), "Protocol error: invalid multibulk length");
        let endless = b"*1\r\n$aaaaaaaaaaaaaaaaaaaaa\r";
        assert_eq!(refused(endless), "Protocol error: invalid bulk length");
        assert_eq!(refused(&endless[..endless.len() - 1]), "Protocol error: invalid bulk length");
        assert_eq!(refused(&[b'*'; 40]), "Protocol error: invalid multibulk length");
        assert_eq!(refused(&vec![b'x'; 70_000]), "Protocol error: too big inline request");
        assert!(refused(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").contains("not HTTP"));
        assert!(refused(b"Host: x\r\n").contains("not HTTP"));
    }

    #[test]
    fn an_integer_is_written_in_one_way() {
        for text in ["0", "7", "-7", "9223372036854775807", "-9223372036854775808"] {
            assert_eq!(decimal(text.as_bytes()), text.parse().ok());
        }
        for text in ["", "-", "+1", " 1", "1 ", "00", "-0", "07", "-07", "1.0", "9223372036854775808"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_long_command_in_small_pieces_is_read_once() {
        let arguments: Vec<Vec<u8>> = (0..1_000).map(|number| number.to_string().into_bytes()).collect();
        let (mut parser, mut buffer) = (Parser::default(), BytesMut::new());
        let bytes = encode(&arguments);
        for byte in &bytes {
            assert!(buffer.len() >= parser.at, "what was read is never read again");
            assert!(parser.found.len() < arguments.len() || buffer.len() + 1 == bytes.len());
            buffer.extend_from_slice(&[*byte]);
            if let Some(command) = parser.next(&mut buffer).expect("valid") {
                assert_eq!(command.iter().map(|argument| argument.to_vec()).collect::<Vec<_>>(), arguments);
                return;
            }
        }
        panic!("the command was never complete");
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
