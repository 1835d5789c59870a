//! Accepting: connections of peers, and single questions.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

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

use super::client::{Failed, PATH, WINDOW_BYTES};
use super::codec::Plain;
use super::handshake::Outgoing;
use super::lobby::{Pass, Visit};
use super::{Shared, handshake, stream};
use crate::link::Link;

/// HTTP/2 streams one connection may have open: one is used.
const STREAMS_PER_CONNECTION: u32 = 8;

/// How often guests are looked at.
const LOBBY_INTERVAL: Duration = Duration::from_millis(250);
/// The rest after a connection that could not be accepted: there is no file left, most often.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Accepts until the transport stops.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut stopping = shared.stopping.subscribe();
    let stopped = async move {
        // The sender lives in what is shared; either way it is over.
        let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
    };
    tokio::spawn(keep_the_lobby(Arc::clone(&shared)));
    let incoming = incoming(Arc::clone(&shared), listener);
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

/// Connections as they come, each of them a guest at first.
fn incoming(
    shared: Arc<Shared>,
    listener: TcpListener,
) -> impl futures::Stream<Item = Result<Visit, std::io::Error>> {
    futures::stream::unfold((shared, listener), async |(shared, listener)| {
        let (stream, source) = loop {
            match listener.accept().await {
                Ok(accepted) => break accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection of a peer could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        };
        // A connection that sends small pieces late is slow, and no worse.
        let _ = stream.set_nodelay(true);
        let guest = shared.lobby.enter(source.ip(), shared.settings.connect * 2);
        let visit = Visit::new(stream, Arc::clone(&shared.lobby), guest);
        Some((Ok(visit), (shared, listener)))
    })
}

/// Sends guests away in time, until the transport stops.
async fn keep_the_lobby(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    while tokio::time::timeout(LOBBY_INTERVAL, stopping.wait_for(|is_stopping| *is_stopping)).await.is_err() {
        shared.let_members_through();
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
        let pass = request.extensions().get::<Pass>().copied();
        let service = Connect(Arc::clone(&self.0), pass);
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
struct Connect(Arc<Shared>, Option<Pass>);

type Frames = Pin<Box<dyn futures::Stream<Item = Result<Bytes, Status>> + Send>>;

impl StreamingService<Bytes> for Connect {
    type Response = Bytes;
    type ResponseStream = Frames;
    type Future = Ready<Result<Response<Frames>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (outgoing, frames) = mpsc::channel(stream::FRAMES_AHEAD);
        tokio::spawn(greet(Arc::clone(&self.0), self.1, outgoing, request.into_inner()));
        ready(Ok(Response::new(Box::pin(ReceiverStream::new(frames)))))
    }
}

/// Lets the other side prove who it is, then answers a question or runs a connection.
async fn greet(shared: Arc<Shared>, pass: Option<Pass>, outgoing: Outgoing, mut incoming: Streaming<Bytes>) {
    let greeting = handshake::accept(&shared, &outgoing, &mut incoming);
    let proven = match timeout(shared.settings.connect * 2, greeting).await {
        Ok(Ok(proven)) => proven,
        Ok(Err(failed)) => {
            let (code, reason) = match failed {
                Failed::Refused(reason) => (Code::PermissionDenied, reason),
                Failed::Unreachable(reason) => (Code::Unavailable, reason),
            };
            tracing::debug!(reason, "a connection was refused");
            // The other side may be gone already.
            let _ = outgoing.send(Err(Status::new(code, reason))).await;
            return;
        }
        Err(_late) => return,
    };
    let peer = (!proven.hello.is_question).then_some(proven.hello.node);
    if let Some(pass) = pass {
        shared.lobby.proven(pass, peer);
    }
    if peer.is_none() {
        return answer(&shared, (&proven.hello, proven.version), outgoing, incoming).await;
    }
    shared.let_members_through();
    let link = Arc::new(Link::new(proven.hello, false, proven.version));
    stream::run(&shared, &link, outgoing, incoming).await;
}

async fn answer(
    shared: &Shared,
    (hello, version): (&Hello, u8),
    outgoing: Outgoing,
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
