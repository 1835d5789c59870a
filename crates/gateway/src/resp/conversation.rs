//! One connection, from its first byte to its last reply, over any stream of bytes.

use std::io::ErrorKind;
use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use slipring_model::limits;
use slipring_resp::{Command, Parser, ProtocolError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::reply::error_text;
use super::run::{SMALL_BYTES, Session};
use super::stretch::Stretch;
use super::table;

/// Room for what one read brings in: of a connection that says little, and of one that fills it.
const READ_BYTES: (usize, usize) = (4 * 1024, 16 * 1024);

/// How long a connection that holds memory may take for the next bytes in or out.
const STALL_TIME: Duration = Duration::from_secs(60);

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
    let mut buffer = BytesMut::new();
    let mut room = READ_BYTES.0;
    // One future for the whole connection: to make and drop one at each read would cost two locks.
    let mut stopped = pin!(stopping.wait_for(|is_stopping| *is_stopping));
    while !session.is_closing {
        let missing = parser.missing(&buffer);
        make_room(&mut buffer, missing, room);
        if !session.takes_input(buffer.capacity()) {
            refuse(&mut session, &mut buffer, &mut stream).await?;
            break;
        }
        let spare = buffer.capacity() - buffer.len();
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => read?,
            _ = &mut stopped => return Ok(()),
            () = stalled(patience(&session)) => return Err(ErrorKind::TimedOut.into()),
        };
        if read == 0 {
            return Ok(());
        }
        room = if read == spare { READ_BYTES.1 } else { READ_BYTES.0 };
        session.stretch = Stretch::begin();
        run_all(&mut parser, &mut buffer, &mut session, &mut stream).await?;
    }
    stream.shutdown().await?;
    linger(&mut stream).await
}

/// Makes room for what comes next: for a command that is not all here, no more than has come of it already.
fn make_room(buffer: &mut BytesMut, missing: usize, room: usize) {
    let wanted = missing.clamp(room, room.max(buffer.len()));
    if buffer.len() + wanted <= SMALL_BYTES {
        buffer.reserve(room);
    } else if buffer.capacity() - buffer.len() < room {
        let mut larger = BytesMut::with_capacity(buffer.len() + wanted + room);
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
}

/// Ends a connection whose command finds no memory: where the command ends is not known yet.
async fn refuse(
    session: &mut Session,
    buffer: &mut BytesMut,
    stream: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    *buffer = BytesMut::new();
    session.takes_input(0);
    let refusal = session.node.client_memory().refusal();
    session.writer.error(&format!("{}; this connection ends", error_text(&refusal)));
    flush(session, stream).await
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
    buffer: &mut BytesMut,
    session: &mut Session,
    stream: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut count = 0;
    while !session.is_closing {
        match parser.next(buffer) {
            Ok(Some(command)) => {
                count += 1;
                run_one(&command, session, stream).await?;
                if let Some(commands) = session.transaction.due() {
                    for queued in commands {
                        run_one(&queued, session, stream).await?;
                    }
                    session.transaction.end();
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
    if count > 0 && buffer.capacity() > SMALL_BYTES {
        *buffer = BytesMut::from(&buffer[..]);
    }
    Ok(())
}

/// Runs one command once those are done that it must come after.
async fn run_one(
    command: &Command,
    session: &mut Session,
    stream: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let spec = command.first().and_then(|name| table::find(name));
    if session.comes_after_pending(spec, command) {
        settle(session, stream).await?;
    }
    session.run(spec, command).await;
    if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
        settle(session, stream).await?;
    }
    Ok(())
}

/// Waits for what is pending and sends every reply, never holding many more bytes than one reply has.
async fn settle(session: &mut Session, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    while session.settle_one().await {
        if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
            flush(session, stream).await?;
        }
    }
    flush(session, stream).await
}

async fn flush(session: &mut Session, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    let patience = patience(session);
    let mut rest = &session.writer.out[..];
    while !rest.is_empty() {
        let written = tokio::select! {
            biased;
            written = stream.write(rest) => written?,
            () = stalled(patience) => return Err(ErrorKind::TimedOut.into()),
        };
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        rest = rest.get(written..).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_grows_with_what_has_come_and_not_with_what_is_promised() {
        let (mut buffer, mut growths) = (BytesMut::new(), 0);
        while buffer.len() < 1_000_000 {
            let before = buffer.capacity();
            let missing = 16_000_000 - buffer.len();
            make_room(&mut buffer, missing, READ_BYTES.1);
            growths += usize::from(buffer.capacity() > before);
            assert!(buffer.capacity() - buffer.len() >= READ_BYTES.1);
            assert!(buffer.capacity() <= 2 * buffer.len() + 2 * READ_BYTES.1, "{}", buffer.capacity());
            buffer.resize(buffer.len() + 5_000, 0);
        }
        assert!(growths < 20, "{growths}");
    }

    #[test]
    fn buffer_takes_little_more_than_a_large_command() {
        let mut buffer = BytesMut::new();
        let whole = 1_000_000;
        while buffer.len() < whole {
            let missing = whole - buffer.len();
            make_room(&mut buffer, missing, READ_BYTES.0);
            buffer.resize(buffer.capacity().min(whole), 0);
        }
        assert!(buffer.capacity() <= whole + 2 * READ_BYTES.0, "{}", buffer.capacity());
    }
}
