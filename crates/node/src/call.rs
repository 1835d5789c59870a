//! One request of a client and its answer, which is often there at once.

use std::future::{Future, IntoFuture, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::Either;
use slipring_model::Error;
use tokio::sync::oneshot;

use crate::requests::{Answer, dropped};

/// What a client may ask for beside the request itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Answers a read waits for, in place of the bucket's; at most the number of copies.
    pub read_acks: Option<u8>,
    /// Acknowledgements a write waits for, in place of the bucket's; at most the number of copies.
    pub write_acks: Option<u8>,
    /// Time until the outcome is given as unknown; at most the node's own limit.
    pub deadline: Option<Duration>,
}

/// The answer to a request, now or later.
#[must_use = "a call that is dropped goes on, but nobody learns its outcome"]
pub enum Call<R> {
    /// This node alone could answer.
    Ready(Result<R, Error>),
    /// Other nodes, or the disk, are waited for.
    Pending(Pending<R>),
}

/// An answer that other nodes, or the disk, are waited for.
pub struct Pending<R> {
    answer: oneshot::Receiver<Answer>,
    decode: Box<dyn Fn(Bytes) -> Result<R, Error> + Send + Sync>,
}

impl<R> Pending<R> {
    pub(crate) fn new(
        answer: oneshot::Receiver<Answer>,
        decode: impl Fn(Bytes) -> Result<R, Error> + Send + Sync + 'static,
    ) -> Self {
        Self { answer, decode: Box::new(decode) }
    }
}

impl<R> Future for Pending<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = std::task::ready!(Pin::new(&mut self.answer).poll(context));
        // What is taken is the client's to count.
        let answer = answer.map_or_else(|_| Err(dropped()), |(answer, _held)| answer);
        Poll::Ready(answer.and_then(|bytes| (self.decode)(bytes)))
    }
}

impl<R> IntoFuture for Call<R> {
    type Output = Result<R, Error>;
    type IntoFuture = Either<Ready<Self::Output>, Pending<R>>;

    fn into_future(self) -> Self::IntoFuture {
        match self {
            Self::Ready(result) => Either::Left(ready(result)),
            Self::Pending(pending) => Either::Right(pending),
        }
    }
}
