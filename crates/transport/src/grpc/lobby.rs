//! Connections that no member has made yet: how many there may be, for how long, and how much they may send.
//!
//! Whoever connects to the port for peers waits here until it has proven to be a member. When there are too many, the
//! oldest one from the address with the most of them gives way, so those of one machine cannot keep others out. A
//! node that has proven an id which is no member's stays a guest for a little longer: it may have a question, or be
//! a member that this node has not heard of yet.
//!
//! Invariant: there are never more than `guests_max` connections of nodes that are no members.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use slipring_model::{NodeId, limits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tonic::transport::server::Connected;

/// How long a guest may stay that has proven an id.
const GUEST_STAYS: Duration = Duration::from_secs(10);

/// All guests, in the order in which they came.
pub(super) struct Lobby(Mutex<Guests>);

struct Guests {
    /// How many there may be.
    guests_max: usize,
    last: u64,
    present: BTreeMap<u64, Guest>,
}

struct Guest {
    source: IpAddr,
    leaves_at: Instant,
    /// Once it has proven an id and has a connection of a peer.
    node: Option<NodeId>,
    seat: Arc<Seat>,
}

/// What the connection itself looks at.
pub(super) struct Seat {
    /// Bytes that may still come.
    allowed: AtomicU64,
    is_over: AtomicBool,
    waker: AtomicWaker,
}

/// Which guest a stream belongs to.
#[derive(Clone, Copy)]
pub(super) struct Pass(u64);

impl Lobby {
    /// A lobby for so many guests, of whom there is always room for one.
    pub(super) fn new(guests_max: usize) -> Self {
        Self(Mutex::new(Guests { guests_max: guests_max.max(1), last: 0, present: BTreeMap::new() }))
    }

    /// Lets a connection in, for so long.
    pub(super) fn enter(&self, source: IpAddr, stays: Duration) -> (Pass, Arc<Seat>) {
        let mut guests = self.0.lock();
        if guests.present.len() >= guests.guests_max
            && let Some(number) = guests.first_of_most()
            && let Some(guest) = guests.present.remove(&number)
        {
            guest.seat.end();
        }
        guests.last += 1;
        let number = guests.last;
        let (allowed, leaves_at) = (limits::UNPROVEN_BYTES_MAX, Instant::now() + stays);
        let seat =
            Arc::new(Seat { allowed: allowed.into(), is_over: false.into(), waker: AtomicWaker::new() });
        guests.present.insert(number, Guest { source, leaves_at, node: None, seat: Arc::clone(&seat) });
        (Pass(number), seat)
    }

    /// A guest has proven an id. One that is a peer's connection is let through as soon as the id is a member's.
    pub(super) fn proven(&self, pass: Pass, peer: Option<NodeId>) {
        if let Some(guest) = self.0.lock().present.get_mut(&pass.0) {
            guest.node = peer;
            guest.leaves_at = Instant::now() + GUEST_STAYS;
            guest.seat.allowed.fetch_add(limits::GUEST_BYTES_MAX, Ordering::AcqRel);
        }
    }

    /// Lets members through and ends what has been here for too long.
    pub(super) fn sweep(&self, is_member: impl Fn(NodeId) -> bool) {
        let now = Instant::now();
        self.0.lock().present.retain(|_, guest| {
            let is_through = guest.node.is_some_and(&is_member);
            match is_through {
                true => guest.seat.allowed.store(u64::MAX, Ordering::Release),
                false if now >= guest.leaves_at => guest.seat.end(),
                false => return true,
            }
            false
        });
    }

    fn leave(&self, pass: Pass) {
        self.0.lock().present.remove(&pass.0);
    }
}

impl Guests {
    /// The oldest from the address with the most.
    fn first_of_most(&self) -> Option<u64> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        self.present.values().for_each(|guest| *counts.entry(guest.source).or_default() += 1);
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        self.present.iter().find_map(|(number, guest)| (guest.source == most).then_some(*number))
    }
}

impl Seat {
    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn check(&self) -> std::io::Result<()> {
        match self.is_over.load(Ordering::Acquire) {
            true => Err(std::io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }

    /// So many bytes have come.
    fn take(&self, bytes: u64) -> std::io::Result<()> {
        let take = |allowed: u64| match allowed {
            u64::MAX => Some(allowed),
            _ => allowed.checked_sub(bytes),
        };
        let taken = self.allowed.fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        taken.map(drop).map_err(|_| std::io::ErrorKind::ConnectionAborted.into())
    }
}

/// A connection, which ends when its guest has to leave.
pub(super) struct Visit {
    stream: TcpStream,
    lobby: Arc<Lobby>,
    pass: Pass,
    seat: Arc<Seat>,
}

impl Visit {
    pub(super) fn new(stream: TcpStream, lobby: Arc<Lobby>, (pass, seat): (Pass, Arc<Seat>)) -> Self {
        Self { stream, lobby, pass, seat }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.lobby.leave(self.pass);
    }
}

impl Connected for Visit {
    type ConnectInfo = Pass;

    fn connect_info(&self) -> Pass {
        self.pass
    }
}

impl AsyncRead for Visit {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.seat.waker.register(context.waker());
        self.seat.check()?;
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.seat.take((buffer.filled().len() - before) as u64))
    }
}

impl AsyncWrite for Visit {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.seat.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.seat.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn the_oldest_of_the_busiest_address_gives_way() {
        let lobby = Lobby::new(limits::GUESTS_MAX);
        let member = lobby.enter(address(9), LONG).1;
        let first = lobby.enter(address(1), LONG).1;
        let rest: Vec<_> = (2..limits::GUESTS_MAX).map(|_| lobby.enter(address(1), LONG).1).collect();
        assert_eq!(lobby.0.lock().present.len(), limits::GUESTS_MAX);
        assert!(first.check().is_ok(), "there is room for as many");
        lobby.enter(address(1), LONG);
        assert!(first.check().is_err(), "and for no more");
        assert!(member.check().is_ok() && rest.iter().all(|seat| seat.check().is_ok()));
        for _ in 0..limits::GUESTS_MAX {
            lobby.enter(address(1), LONG);
        }
        assert!(member.check().is_ok(), "it is alone from its address");
        assert_eq!(lobby.0.lock().present.len(), limits::GUESTS_MAX);
    }

    #[test]
    fn guests_leave_in_time_unless_they_are_members() {
        let (lobby, member, stranger) = (Lobby::new(limits::GUESTS_MAX), NodeId([1; 32]), NodeId([2; 32]));
        let [silent, known, unknown] = [(); 3].map(|()| lobby.enter(address(1), Duration::ZERO));
        lobby.proven(known.0, Some(member));
        lobby.proven(unknown.0, Some(stranger));
        lobby.sweep(|node| node == member);
        assert!(silent.1.check().is_err());
        assert!(known.1.check().is_ok() && unknown.1.check().is_ok());
        assert_eq!(lobby.0.lock().present.len(), 1, "the member is no guest any more");
        assert!(known.1.take(u64::MAX - 1).is_ok(), "and may send what it likes");
    }

    #[test]
    fn guests_may_send_so_much_and_no_more() {
        let lobby = Lobby::new(limits::GUESTS_MAX);
        let unproven = limits::UNPROVEN_BYTES_MAX;
        for (bytes, is_fine) in [(unproven - 1, true), (unproven, true), (unproven + 1, false)] {
            assert_eq!(lobby.enter(address(1), LONG).1.take(bytes).is_ok(), is_fine, "{bytes}");
        }
        let (pass, seat) = lobby.enter(address(1), LONG);
        lobby.proven(pass, None);
        assert!(seat.take(unproven + limits::GUEST_BYTES_MAX).is_ok() && seat.take(1).is_err());
    }
}
