//! The Redis protocol, RESP2 and RESP3, on one port.
//!
//! One task per connection: it takes every complete command out of what was read, runs them, and writes all
//! replies at once. A command that this node can answer alone costs no task and no wait.

mod admin;
mod clients;
mod cluster;
mod connection;
mod describe;
mod glob;
mod info;
mod parse;
mod reply;
mod run;
mod strings;
mod table;
mod write;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use slipring_model::limits;
use slipring_node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use clients::Clients;
pub use parse::{Command, Parser, ProtocolError};
use run::Session;

/// The version of Redis whose commands these are.
const REDIS_VERSION: &str = "7.4.0";

/// Room for what one read brings in: of a connection that says little, and of one that fills it.
const READ_BYTES: (usize, usize) = (4 * 1024, 16 * 1024);

/// What is read and thrown away after the last reply of a connection, and how long each read may take.
const LINGER_READS: usize = 64;
const LINGER_TIME: Duration = Duration::from_millis(100);

/// An argument in lower case, for comparing; empty when it is not there.
fn word(command: &Command, at: usize) -> String {
    let bytes = command.get(at).map(AsRef::as_ref).unwrap_or_default();
    String::from_utf8_lossy(bytes).to_ascii_lowercase()
}

fn unknown_subcommand(session: &mut Session, command: &Command) {
    let name = word(command, 0).to_ascii_uppercase();
    let sub: String = String::from_utf8_lossy(&strings::argument(command, 1)).chars().take(128).collect();
    session.writer.error(&format!("ERR unknown subcommand '{sub}'. Try {name} HELP."));
}

/// Serves Redis clients on `listener` until `stopping` holds `true`; connections finish what they have read.
pub async fn serve(listener: TcpListener, node: Node, mut stopping: watch::Receiver<bool>) {
    let clients = Clients::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => match clients.enter(address.to_string()) {
                Some(presence) => {
                    let client = Arc::clone(&presence.client);
                    let session = Session::new(node.clone(), presence);
                    client.served_by(tokio::spawn(talk(stream, session, stopping.clone())).abort_handle());
                }
                None => turn_away(stream),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn turn_away(stream: TcpStream) {
    let message = b"-ERR max number of clients reached\r\n";
    if let Err(error) = stream.into_std().and_then(|mut stream| stream.write_all(message)) {
        tracing::debug!(%error, "a client that was turned away does not know why");
    }
}

async fn talk(stream: TcpStream, session: Session, stopping: watch::Receiver<bool>) {
    if let Err(error) = converse(stream, session, stopping).await {
        tracing::debug!(%error, "a Redis connection ended");
    }
}

async fn converse(
    mut stream: TcpStream,
    mut session: Session,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut parser = Parser::default();
    let mut buffer = BytesMut::new();
    let mut room = READ_BYTES.0;
    while !session.is_closing {
        buffer.reserve(parser.missing(&buffer).clamp(room, limits::REPLY_BYTES_MAX));
        let spare = buffer.capacity() - buffer.len();
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => read?,
            _ = stopping.wait_for(|is_stopping| *is_stopping) => return Ok(()),
        };
        if read == 0 {
            return Ok(());
        }
        room = if read == spare { READ_BYTES.1 } else { READ_BYTES.0 };
        run_all(&mut parser, &mut buffer, &mut session, &mut stream).await?;
    }
    stream.shutdown().await?;
    linger(&mut stream).await
}

/// Runs every complete command in the buffer and sends the replies.
async fn run_all(
    parser: &mut Parser,
    buffer: &mut BytesMut,
    session: &mut Session,
    stream: &mut TcpStream,
) -> std::io::Result<()> {
    let mut count = 0;
    while !session.is_closing {
        match parser.next(buffer) {
            Ok(Some(command)) => {
                count += 1;
                let spec = command.first().and_then(|name| table::find(name));
                if session.comes_after_pending(spec, &command) {
                    settle(session, stream).await?;
                }
                session.run(spec, &command).await;
                if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
                    settle(session, stream).await?;
                }
            }
            Ok(None) => break,
            Err(ProtocolError(message)) => {
                settle(session, stream).await?;
                session.writer.error(&format!("ERR {message}"));
                session.is_closing = true;
            }
        }
    }
    settle(session, stream).await?;
    session.account(count);
    Ok(())
}

/// Waits for what is pending and sends every reply, never holding many more bytes than one reply has.
async fn settle(session: &mut Session, stream: &mut TcpStream) -> std::io::Result<()> {
    while session.settle_one().await {
        if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
            flush(session, stream).await?;
        }
    }
    flush(session, stream).await
}

async fn flush(session: &mut Session, stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&session.writer.out).await?;
    session.writer.out.clear();
    if session.writer.out.capacity() > limits::REPLY_BYTES_MAX {
        session.writer.out = Vec::new();
    }
    Ok(())
}

/// Reads on for a moment after the last reply, so that what the client still sends does not make the system
/// throw that reply away.
async fn linger(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut ignored = vec![0; READ_BYTES.1];
    for _ in 0..LINGER_READS {
        match tokio::time::timeout(LINGER_TIME, stream.read(&mut ignored)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    Ok(())
}
