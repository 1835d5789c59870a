//! A Redis client of one node that notes what it asks and what it is told.
//!
//! Invariant: whatever was sent and not answered is unknown; nothing is sent twice.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::Duration;

use redis::{Connection, ErrorKind, RedisError, Value};
use slipring_sim::{Action, BucketKind, History, Operation, Outcome};

use crate::story::Story;

/// How long a client waits for an answer: longer than a node does for its replicas.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long it waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A client, with one connection for each bucket.
pub(crate) struct Client<'a> {
    name: String,
    node: SocketAddr,
    connections: BTreeMap<BucketKind, Connection>,
    story: &'a Story,
    history: &'a History,
    operations: u64,
}

impl<'a> Client<'a> {
    /// A client of the node that serves there; `name` must be its own.
    pub(crate) fn new(name: String, node: SocketAddr, story: &'a Story, history: &'a History) -> Self {
        Self { name, node, connections: BTreeMap::new(), story, history, operations: 0 }
    }

    /// A value that nobody else writes.
    pub(crate) fn fresh_value(&mut self) -> String {
        self.operations += 1;
        format!("{}-{}", self.name, self.operations)
    }

    /// Performs one operation and notes it.
    pub(crate) fn perform(
        &mut self,
        bucket: BucketKind,
        key: String,
        action: Action,
        is_final: bool,
    ) -> Outcome {
        let request = request(&key, &action, self.story);
        let (client, start_ms) = (self.name.clone(), self.story.now_ms());
        let operation =
            Operation { bucket, key, client, action: action.clone(), start_ms, end: None, is_final };
        let number = self.history.begin(operation);
        let outcome = match (request, self.connection(bucket)) {
            (Some(request), Ok(connection)) => outcome(&action, request.query(connection)),
            // In both cases nothing was sent.
            (None, _) => Outcome::Refused("Redis has no words for it".to_owned()),
            (_, Err(error)) => Outcome::Refused(error.to_string()),
        };
        self.history.end(number, self.story.now_ms(), outcome.clone());
        if matches!(outcome, Outcome::Unknown(_)) {
            // Its answer may still come, and must not be taken for the next one.
            self.connections.remove(&bucket);
        }
        outcome
    }

    fn connection(&mut self, bucket: BucketKind) -> Result<&mut Connection, RedisError> {
        match self.connections.entry(bucket) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(place) => {
                let client = redis::Client::open(format!("redis://{}/{}", self.node, bucket.id().0))?;
                let connection = client.get_connection_with_timeout(CONNECT_TIMEOUT)?;
                connection.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                connection.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                Ok(place.insert(connection))
            }
        }
    }
}

/// The command for an action; none when it takes concurrent values, which Redis clients do not see.
fn request(key: &str, action: &Action, story: &Story) -> Option<redis::Cmd> {
    let mut request = redis::Cmd::new();
    match action {
        Action::Set { value, expires_at } => {
            request.arg("SET").arg(key).arg(value);
            if let Some(at) = expires_at {
                request.arg("PXAT").arg(story.unix_ms(*at));
            }
        }
        Action::CompareAndSet { expected: None, value } => {
            request.arg("SET").arg(key).arg(value).arg("NX");
        }
        Action::CompareAndSet { expected: Some(expected), value } => {
            request.arg("SET").arg(key).arg(value).arg("IFEQ").arg(expected);
        }
        Action::Replace { .. } | Action::GetAll => return None,
        Action::Delete => drop(request.arg("DEL").arg(key)),
        Action::Get | Action::Total => drop(request.arg("GET").arg(key)),
        Action::Add(delta) => drop(request.arg("INCRBY").arg(key).arg(*delta)),
    }
    Some(request)
}

fn outcome(action: &Action, answer: Result<Value, RedisError>) -> Outcome {
    let value = match answer {
        Ok(value) => value,
        Err(error) => return failure(&error),
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match (action, value) {
        (Action::Set { .. } | Action::CompareAndSet { .. }, Value::Okay)
        | (Action::Delete, Value::Int(1)) => Outcome::Written,
        (Action::CompareAndSet { .. }, Value::Nil) => Outcome::Unequal,
        (Action::Add(_), Value::Int(after)) => Outcome::Added(after),
        (Action::Delete, Value::Int(0)) => Outcome::NothingThere,
        (Action::Get, Value::Nil) => Outcome::Found(None),
        (Action::Get, Value::BulkString(bytes)) => Outcome::Found(Some(text(bytes))),
        (Action::Total, Value::Nil) => Outcome::Counted(0),
        (Action::Total, Value::BulkString(bytes)) => match text(bytes).parse() {
            Ok(total) => Outcome::Counted(total),
            Err(_) => Outcome::Broken("a counter is no number".to_owned()),
        },
        (_, other) => Outcome::Broken(format!("an answer of another kind: {other:?}")),
    }
}

/// What an error means for the operation: the first word of the server's errors says so.
fn failure(error: &RedisError) -> Outcome {
    let text = error.to_string();
    match (error.code(), error.kind()) {
        (Some("NOREPLICAS" | "OVERLOADED"), _) => Outcome::Refused(text),
        (Some("UNKNOWN"), _) | (None, ErrorKind::Io) => Outcome::Unknown(text),
        _ => Outcome::Broken(text),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn server(text: &str) -> Outcome {
        let parsed = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).expect("an answer");
        let error = parsed.extract_error().expect_err("an error");
        outcome(&Action::Get, Err(error))
    }

    #[test]
    fn each_error_means_what_the_server_says_of_it() {
        assert!(matches!(server("NOREPLICAS too few"), Outcome::Refused(_)));
        assert!(matches!(server("OVERLOADED back off"), Outcome::Refused(_)));
        assert!(matches!(server("UNKNOWN maybe"), Outcome::Unknown(_)));
        for damage in ["CORRUPT damaged", "INTERNAL bug", "ERR wrong", "CONFLICT seen"] {
            assert!(matches!(server(damage), Outcome::Broken(_)), "{damage}");
        }
    }

    #[test]
    fn silence_and_a_closed_connection_leave_the_outcome_unknown() {
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe] {
            let error = RedisError::from(io::Error::from(kind));
            assert!(matches!(outcome(&Action::Get, Err(error)), Outcome::Unknown(_)), "{kind}");
        }
    }

    #[test]
    fn answers_of_another_kind_are_broken() {
        assert_eq!(outcome(&Action::Delete, Ok(Value::Int(0))), Outcome::NothingThere);
        assert!(matches!(outcome(&Action::Delete, Ok(Value::Okay)), Outcome::Broken(_)));
        assert!(matches!(outcome(&Action::Get, Ok(Value::Int(1))), Outcome::Broken(_)));
        let letters = Value::BulkString(b"x".to_vec());
        assert!(matches!(outcome(&Action::Total, Ok(letters)), Outcome::Broken(_)));
    }
}
