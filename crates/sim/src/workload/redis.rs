//! A client of the node's Redis gateway, over a stream in memory: what it asks and is told, as RESP2.

use std::collections::BTreeMap;
use std::sync::Arc;

use slipring_gateway::resp::Port;
use slipring_node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use crate::history::{Action, BucketKind, Outcome};
use crate::journal::EPOCH_MS;
use crate::workload::Workload;

/// Bytes that a connection holds in each direction.
const STREAM_BYTES: usize = 64 * 1024;

/// A client's connections, one for each bucket.
pub(crate) struct Redis {
    port: Port,
    /// Kept for as long as the port: without it, the port would take itself to be stopping.
    stopping: Option<watch::Sender<bool>>,
    name: String,
    connections: BTreeMap<BucketKind, Connection>,
    workload: Arc<Workload>,
}

struct Connection {
    stream: DuplexStream,
    /// Read, and not looked at yet.
    input: Vec<u8>,
}

/// One reply.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<String>),
}

impl Redis {
    pub(crate) fn new(node: Node, name: String, workload: Arc<Workload>) -> Self {
        let (stopping, is_stopping) = watch::channel(false);
        let port = Port::new(node, is_stopping);
        Self { port, stopping: Some(stopping), name, connections: BTreeMap::new(), workload }
    }

    /// Performs one action; nothing when Redis has no words for it.
    pub(crate) async fn perform(
        &mut self,
        bucket: BucketKind,
        key: &str,
        action: &Action,
    ) -> Option<Outcome> {
        let command = command(key, action)?;
        let reply = match self.connection(bucket).await {
            Some(connection) => connection.ask(&command).await,
            None => None,
        };
        Some(match reply {
            Some(reply) => outcome(action, reply),
            None => {
                self.connections.remove(&bucket);
                Outcome::Unknown("the connection ended".to_owned())
            }
        })
    }

    async fn connection(&mut self, bucket: BucketKind) -> Option<&mut Connection> {
        if !self.connections.contains_key(&bucket) {
            let (stream, theirs) = tokio::io::duplex(STREAM_BYTES);
            self.port.open(theirs, self.name.clone()).ok()?;
            let mut connection = Connection { stream, input: Vec::new() };
            let select = encode(&["SELECT", &bucket.id().0.to_string()]);
            if connection.ask(&select).await? != Reply::Simple("OK".to_owned()) {
                return None;
            }
            self.connections.insert(bucket, connection);
        }
        self.connections.get_mut(&bucket)
    }
}

impl Drop for Redis {
    /// The ends of connections outlive their host: a runtime that a panic shuts down must not be woken by them.
    fn drop(&mut self) {
        self.workload.keep((self.stopping.take(), std::mem::take(&mut self.connections)));
    }
}

impl Connection {
    /// Sends a command and reads its reply; nothing when the connection ends first.
    async fn ask(&mut self, command: &[u8]) -> Option<Reply> {
        self.stream.write_all(command).await.ok()?;
        loop {
            if let Some((reply, length)) = parse(&self.input) {
                self.input.drain(..length);
                return Some(reply);
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// The command for an action; nothing for one on concurrent values, which Redis clients do not see.
fn command(key: &str, action: &Action) -> Option<Vec<u8>> {
    Some(match action {
        Action::Set { value, expires_at: None } => encode(&["SET", key, value]),
        Action::Set { value, expires_at: Some(at) } => {
            encode(&["SET", key, value, "PXAT", &(EPOCH_MS + at).to_string()])
        }
        Action::CompareAndSet { expected: None, value } => encode(&["SET", key, value, "NX"]),
        Action::CompareAndSet { expected: Some(expected), value } => {
            encode(&["SET", key, value, "IFEQ", expected])
        }
        Action::Delete => encode(&["DEL", key]),
        Action::Get | Action::Total => encode(&["GET", key]),
        Action::Add(delta) => encode(&["INCRBY", key, &delta.to_string()]),
        Action::Replace { .. } | Action::GetAll => return None,
    })
}

fn encode(words: &[&str]) -> Vec<u8> {
    let bulks: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{bulks}", words.len()).into_bytes()
}

/// The first reply in `input` and how many bytes it takes; nothing while it is not whole.
fn parse(input: &[u8]) -> Option<(Reply, usize)> {
    let end = input.windows(2).position(|pair| pair == b"\r\n")?;
    let line = String::from_utf8_lossy(input.get(1..end)?).into_owned();
    let next = end + 2;
    match input.first()? {
        b'+' => Some((Reply::Simple(line), next)),
        b'-' => Some((Reply::Error(line), next)),
        b':' => Some((Reply::Integer(line.parse().ok()?), next)),
        b'$' if line == "-1" => Some((Reply::Bulk(None), next)),
        b'$' => {
            let length: usize = line.parse().ok()?;
            let bytes = input.get(next..next + length)?;
            input.get(next + length + 1)?;
            Some((Reply::Bulk(Some(String::from_utf8_lossy(bytes).into_owned())), next + length + 2))
        }
        _ => Some((Reply::Error(format!("PROTOCOL {line}")), next)),
    }
}

fn outcome(action: &Action, reply: Reply) -> Outcome {
    match (action, reply) {
        (_, Reply::Error(text)) => match text.split(' ').next() {
            Some("NOREPLICAS" | "OVERLOADED") => Outcome::Refused(text),
            Some("UNKNOWN") => Outcome::Unknown(text),
            _ => Outcome::Broken(text),
        },
        (Action::Set { .. } | Action::CompareAndSet { .. }, Reply::Simple(_))
        | (Action::Delete, Reply::Integer(1)) => Outcome::Written,
        (Action::CompareAndSet { .. }, Reply::Bulk(None)) => Outcome::Unequal,
        (Action::Delete, Reply::Integer(0)) => Outcome::NothingThere,
        (Action::Add(_), Reply::Integer(after)) => Outcome::Added(after),
        (Action::Get, Reply::Bulk(value)) => Outcome::Found(value),
        (Action::Total, Reply::Bulk(value)) => match value.map(|text| text.parse()) {
            None => Outcome::Counted(0),
            Some(Ok(total)) => Outcome::Counted(total),
            Some(Err(_)) => Outcome::Broken("a counter is no number".to_owned()),
        },
        (_, other) => Outcome::Broken(format!("an answer of another kind: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        assert_eq!(parse(b"$3\r\nabc\r\n+OK\r\n"), Some((Reply::Bulk(Some("abc".to_owned())), 9)));
        for part in [&b"$3\r\nabc\r"[..], b"$3\r\nab", b"$3\r", b":1", b""] {
            assert_eq!(parse(part), None, "{part:?}");
        }
        assert_eq!(parse(b":-7\r\n"), Some((Reply::Integer(-7), 5)));
    }

    #[test]
    fn the_first_word_of_an_error_tells_what_became_of_the_operation() {
        let told = |text: &str| outcome(&Action::Delete, Reply::Error(text.to_owned()));
        assert!(matches!(told("NOREPLICAS too few"), Outcome::Refused(_)));
        assert!(matches!(told("UNKNOWN maybe"), Outcome::Unknown(_)));
        assert!(matches!(told("ERR what"), Outcome::Broken(_)));
    }
}
