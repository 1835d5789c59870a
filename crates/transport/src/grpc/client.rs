//! Dialling: connections to peers, and single questions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use slipring_model::{NodeId, limits};
use slipring_wire::{Frame, Hello, Message, Reply, Request};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use super::codec::Plain;
use super::handshake::{Outgoing, Proven};
use super::{Shared, handshake, stream};
use crate::link::Link;

/// The one method of the peer service.
pub(super) const PATH: &str = "/slipring.peer.v1.Peer/Connect";
/// HTTP/2 windows: large enough that one frame never waits for the next window.
pub(super) const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The longest answer to a question that is no request to join: introductions are short.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why there is no stream.
pub(super) enum Failed {
    /// Nobody answers, or not as a peer does. It may later.
    Unreachable(String),
    /// One of the two will have nothing to do with the other.
    Refused(String),
}

impl From<String> for Failed {
    fn from(reason: String) -> Self {
        Self::Unreachable(reason)
    }
}

/// A stream whose other side has proven who it is.
struct Opened {
    proven: Proven,
    outgoing: Outgoing,
    incoming: Streaming<Bytes>,
}

/// What a stream is opened for.
enum Purpose {
    /// A connection with a peer.
    Peer(NodeId),
    /// One question, whose answer has at most so many bytes.
    Question { bytes_max: usize },
}

/// Dials a peer whenever it is not connected, for ever.
pub(super) async fn keep_dialling(shared: Arc<Shared>, peer: NodeId, hastened: Arc<Notify>) {
    let (first, longest) = shared.settings.redial;
    let mut rest = first;
    let mut refused = String::new();
    loop {
        if !shared.is_connected(peer)
            && let Some(address) = shared.address(peer)
        {
            match dial(&shared, peer, &address).await {
                Ok(()) => rest = first,
                Err(Failed::Refused(reason)) => {
                    if reason != refused {
                        tracing::warn!(peer = %peer.short(), address, reason, "a peer cannot be talked with");
                        refused = reason;
                    }
                    rest = (rest * 2).min(longest);
                }
                Err(Failed::Unreachable(reason)) => {
                    tracing::debug!(peer = %peer.short(), address, reason, "a peer cannot be dialled");
                    // A node that founds where this peer was must hear of it before it has founded.
                    rest = (rest * 2).min(longest / 4);
                }
            }
        }
        tokio::select! {
            () = sleep(rest.mul_f64(0.75 + 0.5 * fastrand::f64())) => {}
            () = hastened.notified() => rest = first,
        }
    }
}

/// Opens a connection to a peer and runs it to its end.
async fn dial(shared: &Shared, peer: NodeId, address: &str) -> Result<(), Failed> {
    let opening = open(shared, address, Purpose::Peer(peer));
    let Opened { proven, outgoing, incoming } =
        timeout(shared.settings.connect, opening).await.map_err(|_| "no answer in time".to_owned())??;
    let link = Arc::new(Link::new(proven.hello, true, proven.version));
    stream::run(shared, &link, outgoing, incoming).await;
    Ok(())
}

/// Asks one question of whoever answers at an address.
pub(super) async fn ask(shared: &Shared, address: &str, request: Request) -> Result<(Hello, Reply), Failed> {
    let bytes_max = match request {
        // The answer holds the layout.
        Request::Join(_) => limits::FRAME_BYTES_MAX,
        _ => ANSWER_BYTES_MAX,
    };
    let mut opened = open(shared, address, Purpose::Question { bytes_max }).await?;
    let version = opened.proven.version;
    let frame = Frame::new(shared.cluster(), 0, vec![Message::Request { id: 1, request }]);
    opened
        .outgoing
        .send(Ok(frame.encode_as(version)))
        .await
        .map_err(|_| "it closed the connection".to_owned())?;
    let answer = opened.incoming.message().await.map_err(|status| status.message().to_owned())?;
    let bytes = answer.ok_or_else(|| "it closed the connection".to_owned())?;
    let frame = Frame::decode_as(version, bytes).map_err(|error| error.to_string())?;
    match frame.messages.into_iter().next() {
        Some(Message::Reply { id: 1, reply }) => Ok((opened.proven.hello, reply)),
        _ => Err("it answered out of turn".to_owned().into()),
    }
}

async fn open(shared: &Shared, address: &str, purpose: Purpose) -> Result<Opened, Failed> {
    let (expected, bytes_max) = match purpose {
        Purpose::Peer(node) => (Some(node), limits::FRAME_BYTES_MAX),
        Purpose::Question { bytes_max } => (None, bytes_max),
    };
    let is_question = expected.is_none();
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .tcp_nodelay(true)
        .local_address(shared.dials_from)
        .connect_timeout(shared.settings.connect)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(10));
    let channel = endpoint.connect().await.map_err(|error| with_causes(&error))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(bytes_max);
    grpc.ready().await.map_err(|error| error.to_string())?;
    let (outgoing, frames) = mpsc::channel(stream::FRAMES_AHEAD);
    // The greeting has to wait in the stream already: the call below returns only when the peer has answered.
    let greeting = shared.greeting(is_question).encode();
    outgoing.send(Ok(greeting.clone())).await.map_err(|_| "the stream ended".to_owned())?;
    let frames = ReceiverStream::new(frames).filter_map(Result::ok);
    let opened = grpc.streaming(tonic::Request::new(frames), PathAndQuery::from_static(PATH), Plain).await;
    let mut incoming: Streaming<Bytes> = opened.map_err(|status| unopened(&status))?.into_inner();
    let proven =
        handshake::dial(shared, (&greeting, is_question), expected, &outgoing, &mut incoming).await?;
    Ok(Opened { proven, outgoing, incoming })
}

/// Why no stream was opened, for people: most often they have named a port for clients.
fn unopened(status: &tonic::Status) -> String {
    // What does not speak HTTP/2 at all shows as either, whichever is noticed first.
    let is_broken = status.message().starts_with("h2 protocol error");
    match status.code() {
        Code::Unimplemented => {
            "what answers there is no port for peers; name that one (7946 unless it was set)".to_owned()
        }
        Code::Cancelled => ended_at_once(status),
        Code::Internal if is_broken => ended_at_once(status),
        _ => status.message().to_owned(),
    }
}

fn ended_at_once(status: &tonic::Status) -> String {
    format!("{}; is that the port for peers (7946 unless it was set)?", status.message())
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}
