//! Receiving messages: a call begins once its whole message is here.
//!
//! Whoever promises a large message gets no memory for the promise. What has arrived counts against one budget
//! of the node until the call is over, so that clients cannot fill the memory together.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use slipring_model::{Error, ErrorKind, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::REQUEST_BYTES_MAX;
use super::failure::{UNCHANGED, failed, invalid, late, refused};

/// How long a message may take to arrive.
const ARRIVAL_TIME: Duration = Duration::from_secs(60);
/// What stands before each message: a flag and its length.
const PREFIX_BYTES: usize = 5;

/// The bytes that may be held for calls.
#[derive(Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }
}

/// Hands a call on with its whole message.
pub(super) async fn gather(State(budget): State<Budget>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let received = match tokio::time::timeout(ARRIVAL_TIME, receive(&budget, body)).await {
        Ok(received) => received,
        Err(_) => Err(late(UNCHANGED, "the message did not arrive in time; nothing was done")),
    };
    match received {
        Ok((message, _held)) => next.run(Request::from_parts(head, Body::from(message))).await,
        Err(status) => status.into_http(),
    }
}

async fn receive(budget: &Budget, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Status> {
    let mut chunks = body.into_data_stream();
    let mut message = Message::default();
    let mut held: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| refused(Code::Cancelled, "the message broke off; nothing was done"))?;
        let permit = hold(budget, chunk.len())?;
        match &mut held {
            Some(held) => held.merge(permit),
            None => held = Some(permit),
        }
        message.add(chunk)?;
    }
    Ok((message.whole(), held))
}

fn hold(budget: &Budget, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
    let permit =
        u32::try_from(bytes).ok().and_then(|bytes| Arc::clone(&budget.0).try_acquire_many_owned(bytes).ok());
    let message = "too many bytes of requests are under way on this node; back off";
    permit.ok_or_else(|| failed(Error::new(ErrorKind::Overloaded, message)))
}

/// What has arrived. One chunk, which is usual, is not copied.
#[derive(Debug, Default)]
struct Message {
    only: Bytes,
    several: BytesMut,
}

impl Message {
    /// Adds what came next; refuses what is or will be too large.
    fn add(&mut self, chunk: Bytes) -> Result<(), Status> {
        if self.only.is_empty() && self.several.is_empty() {
            self.only = chunk;
        } else {
            if self.several.is_empty() {
                self.several.extend_from_slice(&std::mem::take(&mut self.only));
            }
            self.several.extend_from_slice(&chunk);
        }
        let bytes = if self.several.is_empty() { &self.only[..] } else { &self.several[..] };
        let promised = bytes.get(1..PREFIX_BYTES).and_then(|length| length.try_into().ok());
        let promised = promised.map_or(0, u32::from_be_bytes) as usize;
        if promised > REQUEST_BYTES_MAX || bytes.len() > REQUEST_BYTES_MAX + PREFIX_BYTES {
            return Err(invalid(format!(
                "a value has at most {} bytes, and a message a little more; this one is larger",
                limits::VALUE_BYTES_MAX
            )));
        }
        Ok(())
    }

    fn whole(self) -> Bytes {
        if self.several.is_empty() { self.only } else { self.several.freeze() }
    }
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
        let budget = Budget::new(100);
        for chunks in [&[][..], &[b"\0\0\0\0\x03abc" as &[u8]], &[b"\0\0", b"\0\0\x03", b"", b"ab", b"c"]] {
            let (message, held) = receive(&budget, body(chunks)).await.expect("received");
            assert_eq!(message, chunks.concat());
            assert_eq!(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits), message.len());
        }
        assert_eq!(budget.0.available_permits(), 100);
    }

    #[tokio::test]
    async fn what_is_held_has_a_limit_and_is_given_back() {
        let budget = Budget::new(100);
        let held = receive(&budget, body(&[&[0; 60]])).await.expect("received");
        let refusal = receive(&budget, body(&[&[0; 30], &[0; 30]])).await.expect_err("refused");
        assert_eq!((refusal.code(), budget.0.available_permits()), (Code::ResourceExhausted, 40));
        drop(held);
        assert!(receive(&budget, body(&[&[0; 30], &[0; 30]])).await.is_ok());
    }

    #[test]
    fn too_large_a_message_is_refused_when_it_is_promised() {
        let promise =
            |bytes: usize| [&[0], &u32::try_from(bytes).expect("a length").to_be_bytes()[..]].concat();
        let add = |chunk: Vec<u8>| Message::default().add(chunk.into()).map_err(|refusal| refusal.code());
        assert_eq!(add(promise(REQUEST_BYTES_MAX)), Ok(()));
        assert_eq!(add(promise(REQUEST_BYTES_MAX + 1)), Err(Code::InvalidArgument));
        assert_eq!(add(vec![0; REQUEST_BYTES_MAX + PREFIX_BYTES + 1]), Err(Code::InvalidArgument));
    }
}
