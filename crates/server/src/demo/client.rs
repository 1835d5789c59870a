//! A Redis client, as small as the demonstration needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a reply may take before the connection counts as broken.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Okay,
    Error(String),
    Value(Option<Vec<u8>>),
    Array(Vec<Reply>),
}

impl Client {
    pub(super) fn connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(super) fn send(&mut self, commands: &[Vec<Vec<u8>>]) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len())?;
            for argument in command {
                write!(bytes, "${}\r\n", argument.len())?;
                bytes.extend_from_slice(argument);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        self.stream.get_mut().write_all(&bytes)
    }

    pub(super) fn receive(&mut self) -> std::io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or(std::io::ErrorKind::InvalidData)?;
        let length = || rest.parse::<i64>().map_err(std::io::Error::other);
        match kind {
            "+" => Ok(Reply::Okay),
            "-" => Ok(Reply::Error(rest.to_owned())),
            "$" => self.value(length()?),
            "*" => (0..length()?.max(0)).map(|_| self.receive()).collect::<Result<_, _>>().map(Reply::Array),
            _ => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }

    fn value(&mut self, length: i64) -> std::io::Result<Reply> {
        let Ok(length) = usize::try_from(length) else { return Ok(Reply::Value(None)) };
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(Reply::Value(Some(bytes)))
    }
}
