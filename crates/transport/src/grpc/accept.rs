//! The places of the port for peers: so many connections, and a moment for each to greet.
//!
//! A connection that finds no place is closed at once. One that does not greet in time is closed, too: silent
//! connections must not take the places of peers.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

/// How long to wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether a connection has greeted; clones tell of the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Greeting(Arc<AtomicBool>);

impl Greeting {
    /// The connection stays as long as its peer wants.
    pub(super) fn given(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A connection that has a place.
pub(super) struct Seat {
    stream: TcpStream,
    greeting: Greeting,
    patience: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// The connections that find one of so many places; each greets within `patience`, or ends.
pub(super) fn incoming(
    listener: TcpListener,
    places: usize,
    patience: Duration,
) -> impl Stream<Item = io::Result<Seat>> {
    unfold((listener, Arc::new(Semaphore::new(places))), move |(listener, places)| async move {
        loop {
            let accepted = listener.accept().await.and_then(|(stream, _)| {
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            match (accepted, Arc::clone(&places).try_acquire_owned()) {
                (Ok(stream), Ok(place)) => {
                    let patience = Box::pin(sleep(patience));
                    let seat = Seat { stream, greeting: Greeting::default(), patience, _place: place };
                    return Some((Ok(seat), (listener, places)));
                }
                (Ok(_), Err(_)) => tracing::debug!("the port for peers is full; a connection was closed"),
                (Err(error), _) => {
                    tracing::warn!(%error, "a connection of a peer could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl Connected for Seat {
    type ConnectInfo = Greeting;

    fn connect_info(&self) -> Greeting {
        self.greeting.clone()
    }
}

impl AsyncRead for Seat {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.greeting.0.load(Ordering::Acquire) && self.patience.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Seat {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn port(places: usize, patience: Duration) -> (String, impl Stream<Item = io::Result<Seat>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        (address, incoming(listener, places, patience))
    }

    #[tokio::test]
    async fn connection_beyond_the_last_place_is_closed_at_once() {
        let (address, seats) = port(2, Duration::from_secs(60)).await;
        let mut seats = pin!(seats);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(&address).await.expect("connected"));
        }
        let first = seats.next().await.expect("a seat").expect("accepted");
        let _second = seats.next().await.expect("a seat").expect("accepted");
        let (mut third, mut byte) = (clients.pop().expect("three"), [0]);
        let closed = tokio::select! {
            _ = seats.next() => panic!("there is no third place"),
            read = third.read(&mut byte) => read,
        };
        assert!(matches!(closed, Ok(0) | Err(_)));
        drop(first);
        let _late = TcpStream::connect(&address).await.expect("connected");
        assert!(seats.next().await.is_some_and(|seat| seat.is_ok()), "a place that is free again is given");
    }

    #[tokio::test]
    async fn connection_that_does_not_greet_ends() {
        let (address, seats) = port(2, Duration::from_millis(50)).await;
        let mut seats = pin!(seats);
        let _clients = [TcpStream::connect(&address).await, TcpStream::connect(&address).await];
        let mut silent = seats.next().await.expect("a seat").expect("accepted");
        let mut greeted = seats.next().await.expect("a seat").expect("accepted");
        greeted.connect_info().given();
        let error = silent.read(&mut [0]).await.expect_err("closed");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let waiting = tokio::time::timeout(Duration::from_millis(100), greeted.read(&mut [0])).await;
        assert!(waiting.is_err(), "one that has greeted may be silent");
    }
}
