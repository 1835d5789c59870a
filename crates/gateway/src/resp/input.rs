//! What one connection has sent that waits to be run: read on while replies wait, up to a share of the clients' memory.
//!
//! A client that sends a whole pipeline before it reads would else wait without end, as the node waits for it.
//!
//! Invariant: no more than `bytes_max` is read ahead, and none of it before the memory for it is counted.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::watch;

use super::run::{SMALL_BYTES, Session};

/// Room for what one read brings in: of a connection that says little, and of one that fills it.
pub(super) const READ_BYTES: (usize, usize) = (4 * 1024, 16 * 1024);

/// The share of the clients' memory that one connection may fill with commands that wait: one part of so many.
const SHARE: usize = 2;

/// By how much the buffer grows at most when replies wait.
const GROWTH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of one connection that have come and were not run.
pub(super) struct Input {
    pub(super) buffer: BytesMut,
    /// Whether the client sends no more, or is read no more.
    pub(super) has_ended: bool,
    bytes_max: usize,
    /// Holds `true` once the node reads no more commands.
    stopping: watch::Receiver<bool>,
}

/// Sends what the system takes at once; nothing when it takes nothing now.
pub(super) async fn send_now(
    stream: &mut (impl AsyncWrite + Unpin),
    replies: &[u8],
) -> std::io::Result<Option<usize>> {
    let sent = poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *stream).poll_write(context, replies) {
            Poll::Ready(sent) => sent.and_then(not_none).map(Some),
            Poll::Pending => Ok(None),
        })
    });
    sent.await
}

/// A stream that takes no byte of some will take none later.
fn not_none(sent: usize) -> std::io::Result<usize> {
    if sent == 0 { Err(std::io::ErrorKind::WriteZero.into()) } else { Ok(sent) }
}

/// What went over the connection.
pub(super) enum Moved {
    /// So many bytes of replies.
    Out(usize),
    /// Commands, or their end.
    In,
}

impl Input {
    /// Input of a node whose clients have so much memory together, read until `stopping` holds `true`.
    pub(super) fn new(client_memory: usize, stopping: watch::Receiver<bool>) -> Self {
        Self { buffer: BytesMut::new(), has_ended: false, bytes_max: client_memory / SHARE, stopping }
    }

    /// Forgets what was read, and reads no more.
    pub(super) fn end(&mut self) {
        self.buffer = BytesMut::new();
        self.has_ended = true;
    }

    /// Makes room for what comes next: for a command that is not all here, no more than has come of it already.
    pub(super) fn make_room(&mut self, missing: usize, room: usize) {
        let buffer = &mut self.buffer;
        let wanted = missing.clamp(room, room.max(buffer.len()));
        if buffer.len() + wanted <= SMALL_BYTES {
            buffer.reserve(room);
        } else if buffer.capacity() - buffer.len() < room {
            self.grow(wanted + room);
        }
    }

    fn grow(&mut self, more: usize) {
        let mut larger = BytesMut::with_capacity(self.buffer.len() + more);
        larger.extend_from_slice(&self.buffer);
        self.buffer = larger;
    }

    /// Gives back what was needed for large commands that have run.
    pub(super) fn shrink(&mut self) {
        if self.buffer.capacity() > SMALL_BYTES {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
    }

    /// Whether more may be read while replies wait, and room for it.
    pub(super) fn reads_on(&mut self, session: &mut Session) -> bool {
        self.has_ended |= *self.stopping.borrow();
        if self.has_ended || session.is_closing {
            return false;
        }
        if self.buffer.capacity() > self.buffer.len() {
            return true;
        }
        let more = self.growth();
        if more == 0 || !session.takes_input(self.buffer.len() + more) {
            session.takes_input(self.buffer.capacity());
            return false;
        }
        self.grow(more);
        true
    }

    /// How many bytes more may wait.
    fn growth(&self) -> usize {
        let more = self.buffer.len().clamp(READ_BYTES.1, GROWTH_BYTES_MAX);
        more.min(self.bytes_max.saturating_sub(self.buffer.len()))
    }

    /// Sends some of `replies`; while the client takes none, and if told so, reads what it sends.
    pub(super) async fn exchange(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        replies: &[u8],
        reads: bool,
    ) -> std::io::Result<Moved> {
        let read = poll_fn(|context| {
            if let Poll::Ready(sent) = Pin::new(&mut *stream).poll_write(context, replies) {
                return Poll::Ready(not_none(sent?).map(Moved::Out));
            }
            if !reads {
                return Poll::Pending;
            }
            let came = pin!(stream.read_buf(&mut self.buffer)).poll(context);
            came.map_ok(|bytes| {
                self.has_ended = bytes == 0;
                Moved::In
            })
        });
        read.await
    }

    /// Says in the log why the connection ends.
    pub(super) fn tell_why_full(&self, session: &Session) {
        tracing::warn!(
            client = session.presence.client.address,
            waiting_bytes = self.buffer.len(),
            waiting_bytes_max = self.bytes_max,
            clients_memory = session.node.client_memory().bytes_max(),
            "a Redis client sends on and takes no replies: its connection ends; raise clients_memory, or send fewer \
             commands before reading"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input_of(client_memory: usize) -> Input {
        Input::new(client_memory, watch::channel(false).1)
    }

    #[test]
    fn buffer_grows_with_what_has_come_and_not_with_what_is_promised() {
        let (mut input, mut growths) = (input_of(0), 0);
        while input.buffer.len() < 1_000_000 {
            let before = input.buffer.capacity();
            let missing = 16_000_000 - input.buffer.len();
            input.make_room(missing, READ_BYTES.1);
            growths += usize::from(input.buffer.capacity() > before);
            assert!(input.buffer.capacity() - input.buffer.len() >= READ_BYTES.1);
            assert!(
                input.buffer.capacity() <= 2 * input.buffer.len() + 2 * READ_BYTES.1,
                "{}",
                input.buffer.capacity()
            );
            input.buffer.resize(input.buffer.len() + 5_000, 0);
        }
        assert!(growths < 20, "{growths}");
    }

    #[test]
    fn buffer_takes_little_more_than_a_large_command() {
        let mut input = input_of(0);
        let whole = 1_000_000;
        while input.buffer.len() < whole {
            let missing = whole - input.buffer.len();
            input.make_room(missing, READ_BYTES.0);
            input.buffer.resize(input.buffer.capacity().min(whole), 0);
        }
        assert!(input.buffer.capacity() <= whole + 2 * READ_BYTES.0, "{}", input.buffer.capacity());
    }

    #[test]
    fn input_that_waits_grows_to_its_limit_and_not_beyond() {
        let mut input = input_of(SHARE * 100_000);
        for (bytes, more) in
            [(0, READ_BYTES.1), (50_000, 50_000), (60_000, 40_000), (99_999, 1), (100_000, 0), (100_001, 0)]
        {
            input.buffer.resize(bytes, 0);
            assert_eq!(input.growth(), more, "{bytes}");
        }
        let mut large = input_of(SHARE * 10 * GROWTH_BYTES_MAX);
        large.buffer.resize(2 * GROWTH_BYTES_MAX, 0);
        assert_eq!(large.growth(), GROWTH_BYTES_MAX);
    }
}
