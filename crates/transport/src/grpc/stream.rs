//! A connection at work: one task writes what waits, one reads what comes, until either ends.

use std::sync::Arc;

use bytes::Bytes;
use slipring_model::ErrorKind;
use slipring_wire::{Frame, Message, Reply};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Streaming;

use super::Shared;
use crate::link::Link;

/// Frames that may wait between a link and its socket.
pub(super) const FRAMES_AHEAD: usize = 2;

/// Runs a connection to its end.
pub(super) async fn run(
    shared: &Shared,
    link: &Arc<Link>,
    outgoing: mpsc::Sender<Result<Bytes, tonic::Status>>,
    incoming: Streaming<Bytes>,
) {
    if !shared.establish(link) {
        return;
    }
    let mut stopping = shared.stopping.subscribe();
    let reason = tokio::select! {
        biased;
        () = link.closing.notified() => "another connection of the pair stays, or this node stops".to_owned(),
        _ = stopping.wait_for(|is_stopping| *is_stopping) => "this node stops".to_owned(),
        reason = read(shared, link, incoming) => reason,
        reason = write(shared, link, outgoing) => reason,
    };
    tracing::debug!(peer = %link.peer.node.short(), reason, "a connection ended");
    shared.ended(link);
}

async fn write(shared: &Shared, link: &Link, outgoing: mpsc::Sender<Result<Bytes, tonic::Status>>) -> String {
    loop {
        let frame = match link.take() {
            Some(outgoing) => Frame::new(shared.cluster(), outgoing.credit, outgoing.messages),
            None => {
                if timeout(shared.settings.ping, link.work.notified()).await.is_ok() {
                    continue;
                }
                Frame::new(shared.cluster(), link.take_credit(), Vec::new())
            }
        };
        match timeout(shared.settings.silence, outgoing.send(Ok(frame.encode_as(link.version)))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return "the peer closed it".to_owned(),
            Err(_) => return "the peer takes nothing any more".to_owned(),
        }
    }
}

async fn read(shared: &Shared, link: &Link, mut incoming: Streaming<Bytes>) -> String {
    loop {
        let bytes = match timeout(shared.settings.silence, incoming.message()).await {
            Ok(Ok(Some(bytes))) => bytes,
            Ok(Ok(None)) => return "the peer closed it".to_owned(),
            Ok(Err(status)) => return status.message().to_owned(),
            Err(_) => return "the peer is silent".to_owned(),
        };
        let frame = match Frame::decode_as(link.version, bytes) {
            Ok(frame) => frame,
            Err(error) => return error.to_string(),
        };
        if shared.cluster.get().is_some_and(|ours| *ours != frame.cluster) {
            return "a frame came from another cluster".to_owned();
        }
        link.credited(frame.credit);
        let count = frame.messages.len() + frame.unknown.len();
        for id in frame.unknown {
            let message = "this node's version does not know that request".to_owned();
            // A peer that sends what is not known and reads no answers is told nothing.
            let _ =
                link.push(Message::Reply { id, reply: Reply::Failed { kind: ErrorKind::Invalid, message } });
        }
        if !frame.messages.is_empty() {
            shared.inbox.messages(link.peer.node, frame.messages);
        }
        link.handled(count);
    }
}
