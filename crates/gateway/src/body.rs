//! Bodies of HTTP and gRPC in the node's memory for clients.
//!
//! A request begins once its whole body is here; what has arrived is held until the request is answered. What is
//! answered is held until the system has taken it off this process, however slowly the client reads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use slipring_node::{ClientMemory, Held};

/// A body as it comes. One chunk, which is usual, is not copied.
#[derive(Debug)]
pub(crate) struct Arriving {
    only: Bytes,
    several: BytesMut,
    held: Held,
}

impl Arriving {
    pub(crate) fn new(memory: &ClientMemory) -> Self {
        Self { only: Bytes::new(), several: BytesMut::new(), held: memory.held() }
    }

    /// Adds what came next; `false` when there is no memory for it.
    pub(crate) fn add(&mut self, chunk: Bytes) -> bool {
        if !self.held.try_set(self.held.bytes() + chunk.len()) {
            return false;
        }
        if self.bytes().is_empty() {
            self.only = chunk;
            return true;
        }
        if self.several.is_empty() {
            self.several.extend_from_slice(&std::mem::take(&mut self.only));
        }
        self.several.extend_from_slice(&chunk);
        true
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        if self.several.is_empty() { &self.only } else { &self.several }
    }

    /// The whole body, and what holds it.
    pub(crate) fn whole(self) -> (Bytes, Held) {
        (if self.several.is_empty() { self.only } else { self.several.freeze() }, self.held)
    }
}

/// Holds an answer until it is sent: by `held`, else by as much as goes out.
pub(crate) fn until_sent(response: Response, memory: &ClientMemory, held: Option<Arc<Held>>) -> Response {
    let memory = memory.clone();
    response.map(|inner| Body::new(Leaving { inner, memory, held }))
}

/// A body on its way to a client.
struct Leaving {
    inner: Body,
    memory: ClientMemory,
    held: Option<Arc<Held>>,
}

/// Bytes that are held as long as they are there.
struct HeldBytes {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| {
                    let held = self.held.clone().unwrap_or_else(|| {
                        let mut held = self.memory.held();
                        held.set(bytes.len());
                        Arc::new(held)
                    });
                    Bytes::from_owner(HeldBytes { bytes, _held: held })
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use futures::StreamExt;

    use super::*;

    #[test]
    fn body_is_handed_on_as_it_came_and_held_meanwhile() {
        for chunks in [&[][..], &[b"abc" as &[u8]], &[b"a", b"", b"bc", b"d"]] {
            let memory = ClientMemory::new(100);
            let mut body = Arriving::new(&memory);
            assert!(chunks.iter().all(|chunk| body.add(Bytes::from_static(chunk))));
            let (bytes, held) = body.whole();
            assert_eq!((&bytes[..], held.bytes()), (&chunks.concat()[..], bytes.len()));
            drop(held);
            assert_eq!(memory.bytes(), 0);
        }
    }

    #[test]
    fn chunk_finds_memory_below_and_at_the_limit_and_not_above() {
        for (second, is_added) in [(39, true), (40, true), (41, false)] {
            let memory = ClientMemory::new(100);
            let mut body = Arriving::new(&memory);
            assert!(body.add(vec![0; 60].into()));
            assert_eq!(body.add(vec![0; second].into()), is_added, "{second}");
            assert_eq!(memory.bytes(), if is_added { 60 + second } else { 60 });
        }
    }

    #[tokio::test]
    async fn answer_is_held_until_its_last_byte_is_gone() {
        let memory = ClientMemory::new(10);
        let held = Arc::new(memory.hold(7).expect("room"));
        for (held, bytes) in [(Some(held), 7), (None, 5)] {
            let response = until_sent("hello".into_response(), &memory, held);
            let mut frames = response.into_body().into_data_stream();
            let frame = frames.next().await.expect("a frame").expect("bytes");
            assert!(frames.next().await.is_none());
            drop(frames);
            assert_eq!((&frame[..], memory.bytes()), (&b"hello"[..], bytes));
            drop(frame);
            assert_eq!(memory.bytes(), 0);
        }
    }
}
