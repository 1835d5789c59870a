//! One connection, from its first byte to its last reply, over any stream of bytes.

use std::pin::pin;
use std::time::Duration;

use bytes::BytesMut;
use slipring_model::limits;
use slipring_resp::{Parser, ProtocolError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use super::run::Session;
use super::stretch::Stretch;
use super::table;

/// Room for what one read brings in: of a connection that says little, and of one that fills it.
const READ_BYTES: (usize, usize) = (4 * 1024, 16 * 1024);

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
        buffer.reserve(parser.missing(&buffer).clamp(room, limits::REPLY_BYTES_MAX));
        let spare = buffer.capacity() - buffer.len();
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut buffer) => read?,
            _ = &mut stopped => return Ok(()),
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
async fn settle(session: &mut Session, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    while session.settle_one().await {
        if session.writer.out.len() >= limits::REPLY_BYTES_MAX {
            flush(session, stream).await?;
        }
    }
    flush(session, stream).await
}

async fn flush(session: &mut Session, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(&session.writer.out).await?;
    session.writer.out.clear();
    if session.writer.out.capacity() > limits::REPLY_BYTES_MAX {
        session.writer.out = Vec::new();
    }
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
