//! The key-value application: values, counters, expiry, conditions.
//!
//! Increments use the mergeable running sums of cells, so those made on different replicas add up. Everything
//! else that looks before it changes is decided by the replica that coordinates it, after a quorum read.

mod decimal;
mod execute;
mod precondition;
mod request;

use bytes::Bytes;
use slipring_model::{Error, ErrorKind};
use slipring_service::{Access, Cells, Context, Service};

pub use request::{Condition, ExpireIf, Expiry, Found, Precondition, Request, Response, Tags};

/// The version of encoded requests and responses.
const VERSION: u8 = 1;

/// The key-value service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kv;

/// The key-value service, for those who need it to live for ever.
pub static KV: Kv = Kv;

impl Service for Kv {
    type Request = Request;
    type Response = Response;

    const NAME: &'static str = "kv";

    fn key<'r>(&self, request: &'r Request) -> &'r Bytes {
        request.key()
    }

    fn access(&self, request: &Request) -> Access {
        match request {
            Request::Get { .. } | Request::GetAll { .. } => Access::Read,
            Request::Set {
                expiry,
                condition: Condition::Always,
                returns_previous: false,
                seen: None,
                ..
            } if *expiry != Expiry::Keep => Access::BlindWrite,
            Request::Put { expiry, only: Precondition { matches: None, matches_none: None }, .. }
                if *expiry != Expiry::Keep =>
            {
                Access::BlindWrite
            }
            _ => Access::ReadModifyWrite,
        }
    }

    fn names_time(&self, request: &Request) -> bool {
        match request {
            Request::Set { expiry, .. }
            | Request::GetAndExpire { expiry, .. }
            | Request::Put { expiry, .. } => {
                matches!(expiry, Expiry::At(_))
            }
            Request::Expire { .. } => true,
            _ => false,
        }
    }

    fn execute(&self, context: &Context, request: Request, cells: &mut Cells<'_>) -> Response {
        execute::execute(context, request, cells)
    }

    fn encode_request(&self, request: &Request) -> Bytes {
        encode(request)
    }

    fn decode_request(&self, bytes: Bytes) -> Result<Request, Error> {
        decode(&bytes)
    }

    fn encode_response(&self, response: &Response) -> Bytes {
        encode(response)
    }

    fn decode_response(&self, bytes: Bytes) -> Result<Response, Error> {
        decode(&bytes)
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Bytes {
    postcard::to_extend(value, vec![VERSION]).expect("requests and responses are plain data").into()
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let body = bytes
        .strip_prefix(&[VERSION])
        .ok_or("another version")
        .and_then(|body| postcard::from_bytes(body).map_err(|_| "malformed"));
    body.map_err(|why| {
        Error::new(ErrorKind::Invalid, format!("a key-value message of a peer is not known here: {why}"))
    })
}

#[cfg(test)]
mod tests;
