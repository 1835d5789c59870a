//! The Redis protocol, RESP2 and RESP3, on one port.
//!
//! One task per connection: it takes every complete command out of what was read, runs them, and writes all
//! replies at once. A command that this node can answer alone costs no task and no wait.

mod admin;
mod cluster;
mod describe;
mod glob;
mod info;
mod parse;
mod reply;
mod run;
mod strings;
mod table;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use slipring_model::limits;
use slipring_node::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub use parse::{Command, Parser, ProtocolError};
use run::Session;

/// Room for what one read brings in; more only while a command needs it.
const READ_BYTES: usize = 16 * 1024;

/// What is read and thrown away after the last reply of a connection, and how long each read may take.
const LINGER_READS: usize = 64;
const LINGER_TIME: Duration = Duration::from_millis(100);

/// What all connections of this port share.
#[derive(Clone)]
pub(crate) struct Clients(Arc<Counts>);

struct Counts {
    began: Instant,
    open: AtomicUsize,
    total: AtomicU64,
    commands: AtomicU64,
}

impl Clients {
    fn new() -> Self {
        let (open, total, commands) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Counts { began: Instant::now(), open, total, commands }))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    pub(crate) fn commands(&self) -> u64 {
        self.0.commands.load(Ordering::Relaxed)
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.0.began.elapsed()
    }
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
            Ok((stream, address)) => {
                let (node, clients, stopping) = (node.clone(), clients.clone(), stopping.clone());
                tokio::spawn(
                    async move { welcome(stream, address.to_string(), node, clients, stopping).await },
                );
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn welcome(
    mut stream: TcpStream,
    address: String,
    node: Node,
    clients: Clients,
    stopping: watch::Receiver<bool>,
) {
    let counts = Arc::clone(&clients.0);
    if counts.open.fetch_add(1, Ordering::Relaxed) >= limits::CONNECTIONS_MAX {
        // The client may be gone already.
        let _ = stream.write_all(b"-ERR max number of clients reached\r\n").await;
    } else {
        let id = counts.total.fetch_add(1, Ordering::Relaxed) + 1;
        let session = Session::new(node, clients, id, address);
        if let Err(error) = converse(stream, session, stopping).await {
            tracing::debug!(%error, "a Redis connection ended");
        }
    }
    counts.open.fetch_sub(1, Ordering::Relaxed);
}

async fn converse(
    mut stream: TcpStream,
    mut session: Session,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut parser = Parser::default();
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    while !session.is_closing {
        buffer.reserve(parser.missing(&buffer).clamp(READ_BYTES / 4, limits::REPLY_BYTES_MAX));
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => read?,
            _ = stopping.wait_for(|is_stopping| *is_stopping) => return Ok(()),
        };
        if read == 0 {
            return Ok(());
        }
        run_all(&mut parser, &mut buffer, &mut session, &mut stream).await?;
        session.settle().await;
        flush(&mut session, &mut stream).await?;
    }
    stream.shutdown().await?;
    linger(&mut stream).await
}

/// Reads on for a moment after the last reply, so that what the client still sends does not make the system
/// throw that reply away.
async fn linger(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut ignored = vec![0; READ_BYTES];
    for _ in 0..LINGER_READS {
        match tokio::time::timeout(LINGER_TIME, stream.read(&mut ignored)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    Ok(())
}

/// Runs every complete command in the buffer.
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
                session.run(&command).await;
                if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
                    session.settle().await;
                    flush(session, stream).await?;
                }
            }
            Ok(None) => break,
            Err(ProtocolError(message)) => {
                session.settle().await;
                session.writer.error(&format!("ERR {message}"));
                session.is_closing = true;
            }
        }
    }
    session.clients.0.commands.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

async fn flush(session: &mut Session, stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&session.writer.out).await?;
    session.writer.out.clear();
    if session.writer.out.capacity() > limits::REPLY_BYTES_MAX {
        session.writer.out = Vec::new();
    }
    Ok(())
}
