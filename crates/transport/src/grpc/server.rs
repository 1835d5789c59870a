//! Accepting: connections of peers, and single questions.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{BoxFuture, Ready, ready};
use slipring_model::limits;
use slipring_wire::{Frame, Hello, Message};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};

use super::accept::{Greeting, incoming};
use super::client::{Failed, PATH, WINDOW_BYTES};
use super::codec::Plain;
use super::{Settings, Shared, stream};
use crate::link::Link;

/// HTTP/2 streams one connection may have open: one is used.
const STREAMS_PER_CONNECTION: u32 = 8;

/// Accepts until the transport stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut stopping = shared.stopping.subscribe();
    let stopped = async move {
        // The sender lives in what is shared; either way it is over.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    let Settings { connections_max, connect, .. } = shared.settings;
    let incoming = incoming(listener, connections_max, 2 * connect);
    let served = Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .serve_with_incoming_shutdown(Peers(shared), incoming, stopped)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the port for peers failed");
    }
}

/// The peer service: its only method opens a stream.
#[derive(Clone)]
struct Peers(Arc<Shared>);

impl tower::Service<http::Request<Body>> for Peers {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = Connect(Arc::clone(&self.0));
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::new(Code::Unimplemented, "this port is for peers only").into_http());
            }
            let mut grpc = Grpc::new(Plain)
                .apply_max_message_size_config(Some(limits::FRAME_BYTES_MAX), Some(limits::FRAME_BYTES_MAX));
            Ok(grpc.streaming(service, request).await)
        })
    }
}

/// Opens one stream.
struct Connect(Arc<Shared>);

type Frames = Pin<Box<dyn futures::Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for Connect {
    type Response = Bytes;
    type ResponseStream = Frames;
    type Future = Ready<Result<Response<Frames>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (outgoing, frames) = mpsc::channel(stream::FRAMES_AHEAD);
        let greeting = request.extensions().get::<Greeting>().cloned().unwrap_or_default();
        tokio::spawn(greet(Arc::clone(&self.0), greeting, outgoing, request.into_inner()));
        ready(Ok(Response::new(Box::pin(ReceiverStream::new(frames)))))
    }
}

/// Exchanges greetings, then answers a question or runs a connection.
async fn greet(
    shared: Arc<Shared>,
    greeting: Greeting,
    outgoing: mpsc::Sender<Result<Bytes, Status>>,
    mut incoming: Streaming<Bytes>,
) {
    let hello = match timeout(shared.settings.connect, incoming.message()).await {
        Ok(Ok(Some(bytes))) => Hello::decode(&bytes).map_err(|error| Failed::Refused(error.to_string())),
        _ => return,
    };
    if let Some(hello) = hello.as_ref().ok().filter(|hello| !hello.is_question) {
        shared.inbox.dialled(hello);
    }
    let (hello, version) = match hello.and_then(|hello| Ok((shared.check(&hello, hello.is_question)?, hello)))
    {
        Ok((version, hello)) => (hello, version),
        Err(failed) => {
            let (code, reason) = match failed {
                Failed::Refused(reason) => (Code::PermissionDenied, reason),
                Failed::Unreachable(reason) => (Code::Unavailable, reason),
            };
            tracing::warn!(reason, "a connection was refused");
            // The other side may be gone already.
            let _ = outgoing.send(Err(Status::new(code, reason))).await;
            return;
        }
    };
    greeting.given();
    if outgoing.send(Ok(shared.hello(false).encode())).await.is_err() {
        return;
    }
    if hello.is_question {
        return answer(&shared, (&hello, version), outgoing, incoming).await;
    }
    let link = Arc::new(Link::new(hello, false, version));
    stream::run(&shared, &link, outgoing, incoming).await;
}

async fn answer(
    shared: &Shared,
    (hello, version): (&Hello, u8),
    outgoing: mpsc::Sender<Result<Bytes, Status>>,
    mut incoming: Streaming<Bytes>,
) {
    let Ok(Ok(Some(bytes))) = timeout(shared.settings.connect, incoming.message()).await else { return };
    let Ok(frame) = Frame::decode_as(version, bytes) else { return };
    if let Some(Message::Request { id, request }) = frame.messages.into_iter().next() {
        let reply = shared.inbox.asked(hello, request).await;
        let frame = Frame::new(shared.cluster(), 0, vec![Message::Reply { id, reply }]);
        // Whoever asked may have stopped waiting.
        let _ = outgoing.send(Ok(frame.encode_as(version))).await;
    }
}
