//! One connection, from its first byte to its last reply, over any stream of bytes.

use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use slipring_model::limits;
use slipring_resp::{Command, Parser, ProtocolError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::input::{Input, Moved, READ_BYTES, send_now};
use super::reply::error_text;
use super::run::{SMALL_BYTES, Session};
use super::stretch::Stretch;
use super::table;

/// How long a connection that holds memory may take for the next bytes in or out.
const STALL_TIME: Duration = Duration::from_secs(60);
/// The same for one that has sent all that may wait, and takes none of its replies.
const FULL_TIME: Duration = Duration::from_secs(10);

/// What is read and thrown away after the last reply of a connection, and how long each read may take.
const LINGER_READS: usize = 64;
const LINGER_TIME: Duration = Duration::from_millis(100);

/// Answers commands until the client leaves, is told to, or `stopping` holds `true`; commands read are finished.
pub(super) async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut session: Session,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut parser = Parser::default();
    let mut input = Input::new(session.node.client_memory().bytes_max(), stopping.clone());
    let mut room = READ_BYTES.0;
    // One future for the whole connection: to make and drop one at each read would cost two locks.
    let mut stopped = pin!(stopping.wait_for(|is_stopping| *is_stopping));
    while !session.is_closing && !input.has_ended {
        input.make_room(parser.missing(&input.buffer), room);
        if !session.takes_input(input.buffer.capacity()) {
            refuse(&mut session, &mut input, &mut stream).await?;
            break;
        }
        let spare = input.buffer.capacity() - input.buffer.len();
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut input.buffer) => read?,
            _ = &mut stopped => return Ok(()),
            () = stalled(patience(&session)) => return Err(ErrorKind::TimedOut.into()),
        };
        if read == 0 {
            return Ok(());
        }
        room = if read == spare { READ_BYTES.1 } else { READ_BYTES.0 };
        session.stretch = Stretch::begin();
        run_all(&mut parser, &mut input, &mut session, &mut stream).await?;
    }
    stream.shutdown().await?;
    linger(&mut stream).await
}

/// Ends a connection whose command finds no memory: where the command ends is not known yet.
async fn refuse(
    session: &mut Session,
    input: &mut Input,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    input.end();
    session.takes_input(0);
    let refusal = session.node.client_memory().refusal();
    session.writer.error(&format!("{}; this connection ends", error_text(&refusal)));
    flush(session, input, stream).await
}

/// How long a connection may take for the next bytes in or out: the time that the operator gives each, and less for one
/// that holds memory.
fn patience(session: &Session) -> Option<Duration> {
    let stall = session.holds_memory().then_some(STALL_TIME);
    [stall, session.node.client_limits().redis_silence].into_iter().flatten().min()
}

/// Over when a connection has not moved for so long; never without a limit.
async fn stalled(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

/// Runs every complete command in the buffer and sends the replies.
async fn run_all(
    parser: &mut Parser,
    input: &mut Input,
    session: &mut Session,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut count = 0;
    while !session.is_closing {
        match parser.next(&mut input.buffer) {
            Ok(Some(command)) => {
                count += 1;
                run_one(&command, session, input, stream).await?;
                if let Some(commands) = session.transaction.due() {
                    for queued in commands {
                        run_one(&queued, session, input, stream).await?;
                    }
                    session.transaction.end();
                }
            }
            Ok(None) => {
                let waiting = input.buffer.len();
                settle(session, input, stream).await?;
                // What came while replies were sent may be whole commands.
                if input.buffer.len() == waiting {
                    break;
                }
            }
            Err(ProtocolError(message)) => {
                settle(session, input, stream).await?;
                session.writer.error(&format!("ERR {message}"));
                session.is_closing = true;
            }
        }
    }
    settle(session, input, stream).await?;
    session.account(count);
    if count > 0 {
        input.shrink();
    }
    Ok(())
}

/// Runs one command once those are done that it must come after.
async fn run_one(
    command: &Command,
    session: &mut Session,
    input: &mut Input,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let spec = command.first().and_then(|name| table::find(name));
    if session.comes_after_pending(spec, command) {
        settle(session, input, stream).await?;
    }
    session.run(spec, command).await;
    if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
        settle(session, input, stream).await?;
    }
    Ok(())
}

/// Waits for what is pending and sends every reply, never holding many more bytes than one reply has.
async fn settle(
    session: &mut Session,
    input: &mut Input,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    while session.settle_one().await {
        if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
            flush(session, input, stream).await?;
        }
    }
    flush(session, input, stream).await
}

/// Sends every reply there is, and reads on while the client takes none: many clients send all before they read.
async fn flush(
    session: &mut Session,
    input: &mut Input,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < session.writer.out.len() {
        if let Some(bytes) = send_now(stream, session.writer.out.get(sent..).unwrap_or_default()).await? {
            sent += bytes;
            continue;
        }
        let reads = input.reads_on(session);
        let is_full = !reads && !input.has_ended && !session.is_closing;
        let patience = patience(session);
        let rest = session.writer.out.get(sent..).unwrap_or_default();
        let moved = tokio::select! {
            biased;
            moved = input.exchange(stream, rest, reads) => moved?,
            () = stalled(is_full.then_some(FULL_TIME)) => {
                input.tell_why_full(session);
                return Err(ErrorKind::TimedOut.into());
            }
            () = stalled(patience) => return Err(ErrorKind::TimedOut.into()),
        };
        if let Moved::Out(bytes) = moved {
            sent += bytes;
        }
    }
    session.writer.out.clear();
    if session.writer.out.capacity() > SMALL_BYTES {
        session.writer.out = Vec::new();
    }
    session.recount();
    Ok(())
}

/// Reads on for a moment after the last reply, so that what the client still sends does not make the system
/// throw that reply away.
async fn linger(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut ignored = vec![0; READ_BYTES.1];
    for _ in 0..LINGER_READS {
        match tokio::time::timeout(LINGER_TIME, stream.read(&mut ignored)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    Ok(())
}
