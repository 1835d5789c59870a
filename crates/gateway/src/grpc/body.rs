//! Receiving messages: a call begins once its whole message is here.
//!
//! What is promised gets no memory; what has arrived is held until the call is over, so that clients cannot fill
//! the memory together. What a method holds for its answer is held until that is sent.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use slipring_model::limits;
use slipring_node::{ClientMemory, Held};
use tonic::{Code, Status};

use super::failure::{UNCHANGED, failed, invalid, late, refused};
use super::{REQUEST_BYTES_MAX, compression};
use crate::body::{Arriving, until_sent};

/// How long a message may take to arrive.
const ARRIVAL_TIME: Duration = Duration::from_secs(60);
/// What stands before each message: a flag and its length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Hands a call on with its whole message.
pub(super) async fn gather(State(memory): State<ClientMemory>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let received = match tokio::time::timeout(ARRIVAL_TIME, receive(&memory, body)).await {
        Ok(received) => received,
        Err(_) => Err(late(UNCHANGED, "the message did not arrive in time; nothing was done")),
    };
    let plain = match received {
        Ok((message, held)) => compression::undo(&mut head.headers, message, held).await,
        Err(status) => Err(status),
    };
    match plain {
        Ok((message, _held)) => {
            let mut response = next.run(Request::from_parts(head, Body::from(message))).await;
            let held = response.extensions_mut().remove::<Arc<Held>>();
            until_sent(response, &memory, held)
        }
        Err(status) => status.into_http(),
    }
}

/// An answer with so many bytes of values, as far as there is memory for them.
pub(super) fn answer<T>(
    message: T,
    bytes: usize,
    memory: &ClientMemory,
) -> Result<tonic::Response<T>, Status> {
    let held = memory.hold(bytes).map_err(failed)?;
    let mut response = tonic::Response::new(message);
    response.extensions_mut().insert(Arc::new(held));
    Ok(response)
}

async fn receive(memory: &ClientMemory, body: Body) -> Result<(Bytes, Held), Status> {
    let mut chunks = body.into_data_stream();
    let mut message = Arriving::new(memory);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| refused(Code::Cancelled, "the message broke off; nothing was done"))?;
        if !message.add(chunk) {
            return Err(failed(memory.refusal()));
        }
        check_size(message.bytes())?;
    }
    Ok(message.whole())
}

/// Refuses what is or will be too large.
fn check_size(bytes: &[u8]) -> Result<(), Status> {
    let promised = bytes.get(1..PREFIX_BYTES).and_then(|length| length.try_into().ok());
    let promised = promised.map_or(0, u32::from_be_bytes) as usize;
    if promised > REQUEST_BYTES_MAX || bytes.len() > REQUEST_BYTES_MAX + PREFIX_BYTES {
        return Err(too_large());
    }
    Ok(())
}

pub(super) fn too_large() -> Status {
    invalid(format!(
        "a value has at most {} bytes, and a message a little more; this one is larger",
        limits::VALUE_BYTES_MAX
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(chunks: &[&[u8]]) -> Body {
        let chunks: Vec<_> =
            chunks.iter().map(|chunk| Ok::<_, Status>(Bytes::copy_from_slice(chunk))).collect();
        Body::from_stream(futures::stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_message_is_handed_on_as_it_was_sent() {
        let memory = ClientMemory::new(100);
        for chunks in [&[][..], &[b"\0\0\0\0\x03abc" as &[u8]], &[b"\0\0", b"\0\0\x03", b"", b"ab", b"c"]] {
            let (message, held) = receive(&memory, body(chunks)).await.expect("received");
            assert_eq!(message, chunks.concat());
            assert_eq!(held.bytes(), message.len());
        }
        assert_eq!(memory.bytes(), 0);
    }

    #[tokio::test]
    async fn what_is_held_has_a_limit_and_is_given_back() {
        let memory = ClientMemory::new(100);
        let held = receive(&memory, body(&[&[0; 60]])).await.expect("received");
        let refusal = receive(&memory, body(&[&[0; 30], &[0; 30]])).await.expect_err("refused");
        assert_eq!((refusal.code(), memory.bytes()), (Code::ResourceExhausted, 60));
        drop(held);
        assert!(receive(&memory, body(&[&[0; 30], &[0; 30]])).await.is_ok());
    }

    #[test]
    fn too_large_a_message_is_refused_when_it_is_promised() {
        let promise =
            |bytes: usize| [&[0], &u32::try_from(bytes).expect("a length").to_be_bytes()[..]].concat();
        let check = |chunk: Vec<u8>| check_size(&chunk).map_err(|refusal| refusal.code());
        assert_eq!(check(promise(REQUEST_BYTES_MAX)), Ok(()));
        assert_eq!(check(promise(REQUEST_BYTES_MAX + 1)), Err(Code::InvalidArgument));
        assert_eq!(check(vec![0; REQUEST_BYTES_MAX + PREFIX_BYTES + 1]), Err(Code::InvalidArgument));
    }
}
