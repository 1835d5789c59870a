//! Bodies: those of requests must keep coming, those of answers keep their connection busy until they are sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::seats::Asked;

/// How long a body may take, and how many of its bytes buy it one second more.
const BODY_TIME: Duration = Duration::from_secs(10);
const BODY_BYTES_PER_SECOND: u64 = 4 * 1024;

/// A request's body that must keep coming.
pub(super) struct Paced<B> {
    body: B,
    began: Instant,
    bytes: u64,
    /// Runs while the next part is waited for.
    due: Option<Pin<Box<Sleep>>>,
    arrival: Arrival,
}

/// How far a body has come; clones share the answer.
#[derive(Clone, Default)]
pub(super) struct Arrival(Arc<Mark>);

#[derive(Default)]
struct Mark {
    is_late: AtomicBool,
    is_whole: AtomicBool,
}

impl Arrival {
    /// Whether the body was given up because it came too slowly.
    pub(super) fn is_late(&self) -> bool {
        self.0.is_late.load(Ordering::Relaxed)
    }

    /// Whether all of the body was read.
    pub(super) fn is_whole(&self) -> bool {
        self.0.is_whole.load(Ordering::Relaxed)
    }

    pub(super) fn note_whole(&self) {
        self.0.is_whole.store(true, Ordering::Relaxed);
    }
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, arrival: Arrival) -> Self {
        Self { body, began: Instant::now(), bytes: 0, due: None, arrival }
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(part) = Pin::new(&mut self.body).poll_frame(context) {
            self.due = None;
            let data = part.as_ref().and_then(|part| part.as_ref().ok()?.data_ref());
            self.bytes += data.map_or(0, |data| data.len() as u64);
            if part.is_none() || self.body.is_end_stream() {
                self.arrival.note_whole();
            }
            return Poll::Ready(part.map(|part| part.map_err(Into::into)));
        }
        let due = self.began + BODY_TIME + Duration::from_secs(self.bytes / BODY_BYTES_PER_SECOND);
        let wait = self.due.get_or_insert_with(|| Box::pin(sleep_until(due)));
        std::task::ready!(wait.as_mut().poll(context));
        self.arrival.0.is_late.store(true, Ordering::Relaxed);
        Poll::Ready(Some(Err("the body comes too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; its request is under way until it is sent, or given up.
pub(super) struct Held {
    pub(super) body: Body,
    pub(super) _asked: Asked,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    /// A part of so many bytes after each of so many seconds.
    fn body(parts: Vec<(u64, usize)>) -> Body {
        let parts = futures::stream::iter(parts).then(|(seconds, bytes)| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            Ok::<_, BoxError>(Bytes::from(vec![0; bytes]))
        });
        Body::from_stream(parts.boxed())
    }

    async fn arrives(parts: Vec<(u64, usize)>) -> bool {
        let arrival = Arrival::default();
        let mut paced = Body::new(Paced::new(body(parts), arrival.clone())).into_data_stream();
        let mut is_whole = true;
        while let Some(part) = paced.next().await {
            is_whole &= part.is_ok();
            if !is_whole {
                break;
            }
        }
        assert_eq!((is_whole, is_whole), (!arrival.is_late(), arrival.is_whole()));
        is_whole
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_take_so_long_and_longer_as_they_come() {
        assert!(arrives(vec![]).await && arrives(vec![(9, 1)]).await);
        assert!(!arrives(vec![(11, 1)]).await, "half a body");
        assert!(!arrives(vec![(3, 1); 4]).await, "a drop at a time");
        assert!(arrives(vec![(9, 3 * 4096), (3, 4096), (1, 4096)]).await, "slow, and never stuck");
        assert!(!arrives(vec![(9, 4096), (3, 1)]).await);
    }
}
