//! Seats: which connections the HTTP port has, and when one must go.
//!
//! A seat is silent until its first request, then busy or idle by turns. A connection that takes too long for a head,
//! or is idle for too long, loses its seat. When all seats are taken, the connection that is idle longest gives way.
//! When none is idle, a newcomer gets a seat of the reserve: it may ask for the node's health and nothing else.
//!
//! Invariant: at most `seats_max` seats beside `HTTP_RESERVE_CONNECTIONS` of the reserve are taken at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::limits;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a head may take, from its first byte, and a new connection until its first request.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a connection of HTTP/1 may be idle between two requests: longer than clients and proxies keep theirs, most
/// of them for 60 or 75 s, so that they are the ones that close it.
const IDLE_TIME: Duration = Duration::from_secs(90);
/// How a connection of HTTP/2 begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// All seats of one port.
pub(super) struct Seats {
    seats_max: usize,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    next: u64,
    taken: BTreeMap<u64, Arc<Seat>>,
    reserve: BTreeMap<u64, Arc<Seat>>,
    /// Those that were idle longest when last looked at, the longest last.
    going: Vec<(Instant, u64)>,
}

/// One connection.
pub(super) struct Seat {
    number: u64,
    is_reserve: bool,
    state: Mutex<State>,
    is_up: Notify,
}

struct State {
    requests: u32,
    has_asked: bool,
    is_http2: Option<bool>,
    /// Since when there is no request under way.
    since: Instant,
    /// When the first byte of the head that is being read came.
    head_since: Option<Instant>,
}

/// A seat that is taken until this is dropped.
pub(super) struct Taken {
    seats: Arc<Seats>,
    pub(super) seat: Arc<Seat>,
}

/// A request under way until this is dropped.
pub(super) struct Asked(Arc<Seat>);

impl Seats {
    pub(super) fn new(seats_max: usize) -> Arc<Self> {
        Arc::new(Self { seats_max, book: Mutex::default() })
    }

    /// Takes a seat for a new connection; there always is one.
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        let mut book = self.book.lock();
        book.next += 1;
        let is_reserve = book.taken.len() >= self.seats_max && !book.free_longest_idle();
        if is_reserve && book.reserve.len() >= limits::HTTP_RESERVE_CONNECTIONS {
            // What the reserve is asked takes moments: the oldest is not worth waiting for.
            let oldest = book.reserve.pop_first();
            oldest.inspect(|(_, seat)| seat.is_up.notify_one());
        }
        let seat = Arc::new(Seat::new(book.next, is_reserve));
        let seats = if is_reserve { &mut book.reserve } else { &mut book.taken };
        seats.insert(seat.number, Arc::clone(&seat));
        Taken { seats: Arc::clone(self), seat }
    }
}

impl Book {
    /// Ends the connection that is idle longest; whether there is one.
    fn free_longest_idle(&mut self) -> bool {
        for is_fresh in [false, true] {
            if is_fresh {
                let idle = self.taken.values().filter_map(|seat| Some((seat.idle_since()?, seat.number)));
                self.going = idle.collect();
                self.going.sort_unstable_by(|one, other| other.cmp(one));
            }
            while let Some((since, number)) = self.going.pop() {
                let seat = self.taken.get(&number).filter(|seat| seat.idle_since() == Some(since));
                if let Some(seat) = seat {
                    seat.is_up.notify_one();
                    self.taken.remove(&number);
                    return true;
                }
            }
        }
        false
    }
}

impl Seat {
    fn new(number: u64, is_reserve: bool) -> Self {
        let state =
            State { requests: 0, has_asked: false, is_http2: None, since: Instant::now(), head_since: None };
        Self { number, is_reserve, state: Mutex::new(state), is_up: Notify::new() }
    }

    /// Whether it may ask for the node's health alone.
    pub(super) fn is_reserve(&self) -> bool {
        self.is_reserve
    }

    /// These bytes have come.
    pub(super) fn heard(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        let is_http2 = *state.is_http2.get_or_insert_with(|| bytes.starts_with(HTTP2_PREFACE));
        if !is_http2 && state.requests == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
        }
    }

    /// A request begins.
    pub(super) fn asked(self: &Arc<Self>) -> Asked {
        let mut state = self.state.lock();
        (state.requests, state.has_asked, state.head_since) = (state.requests + 1, true, None);
        Asked(Arc::clone(self))
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.state.lock();
        (state.requests == 0).then_some(state.since)
    }

    /// When the connection must have gone on; nothing while it may take its time.
    fn due(&self) -> Option<Instant> {
        let state = self.state.lock();
        match (state.head_since, state.is_http2) {
            _ if self.is_reserve => Some(state.since + HEAD_TIME),
            _ if state.requests > 0 => None,
            (Some(began), _) => Some(began + HEAD_TIME),
            // It is asked for signs of life instead.
            (None, Some(true)) => None,
            (None, _) if state.has_asked => Some(state.since + IDLE_TIME),
            (None, _) => Some(state.since + HEAD_TIME),
        }
    }

    /// Waits until the connection must go.
    pub(super) async fn is_lost(&self) {
        loop {
            let now = Instant::now();
            let due = self.due();
            if due.is_some_and(|due| due <= now) {
                return;
            }
            tokio::select! {
                () = self.is_up.notified() => return,
                () = tokio::time::sleep_until(due.unwrap_or(now + HEAD_TIME)) => {}
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.requests -= 1;
        if state.requests == 0 && !self.0.is_reserve {
            state.since = Instant::now();
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut book = self.seats.book.lock();
        let seats = if self.seat.is_reserve { &mut book.reserve } else { &mut book.taken };
        seats.remove(&self.seat.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long until the seat is lost, within two minutes.
    async fn lost_after(seat: &Seat) -> Option<Duration> {
        let began = Instant::now();
        tokio::time::timeout(Duration::from_secs(120), seat.is_lost()).await.ok().map(|()| began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_and_slow_heads_lose_their_seats() {
        let seats = Seats::new(8);
        let [silent, half, kept, slow, busy, http2] = std::array::from_fn(|_| seats.take());
        assert_eq!(lost_after(&silent.seat).await, Some(HEAD_TIME));
        half.seat.heard(b"GE");
        assert_eq!(lost_after(&half.seat).await, Some(HEAD_TIME));
        for asked in [&kept, &slow] {
            asked.seat.heard(b"GET");
            drop(asked.seat.asked());
        }
        let idle = lost_after(&kept.seat).await;
        assert_eq!(idle, Some(IDLE_TIME));
        assert!(idle > Some(Duration::from_secs(75)), "clients that keep theirs so long close it first");
        slow.seat.heard(b"G");
        tokio::time::advance(HEAD_TIME / 2).await;
        slow.seat.heard(b"E");
        assert_eq!(lost_after(&slow.seat).await, Some(HEAD_TIME / 2), "from its first byte");
        let request = busy.seat.asked();
        busy.seat.heard(b"a body");
        assert_eq!(lost_after(&busy.seat).await, None, "a request has limits of its own");
        drop(request);
        http2.seat.heard(b"PRI * HTTP/2.0\r\n");
        assert_eq!(lost_after(&http2.seat).await, None, "it is asked for signs of life");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_gives_way_and_no_busy_one() {
        let seats = Seats::new(3);
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(seats.take());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let has_seat = |taken: &Taken| taken.seats.book.lock().taken.contains_key(&taken.seat.number);
        let [first, second, third] = open.as_slice() else { panic!("three") };
        let busy = first.seat.asked();
        let fourth = seats.take();
        assert_eq!([first, second, third, &fourth].map(has_seat), [true, false, true, true]);
        assert_eq!(lost_after(&second.seat).await, Some(Duration::ZERO));
        drop(busy);
        let _busy = [third.seat.asked(), fourth.seat.asked()];
        let fifth = seats.take();
        assert!(!fifth.seat.is_reserve() && !has_seat(first), "it became idle last");
        let _more = fifth.seat.asked();
        assert!(seats.take().seat.is_reserve());
    }

    #[tokio::test(start_paused = true)]
    async fn the_reserve_has_room_for_so_many_and_the_oldest_gives_way() {
        let seats = Seats::new(1);
        let first = seats.take();
        let busy = first.seat.asked();
        let reserve: Vec<_> = (0..limits::HTTP_RESERVE_CONNECTIONS).map(|_| seats.take()).collect();
        assert!(reserve.iter().all(|taken| taken.seat.is_reserve()));
        let oldest = &reserve.first().expect("one").seat;
        let _asked = oldest.asked();
        assert_eq!(seats.book.lock().reserve.len(), limits::HTTP_RESERVE_CONNECTIONS);
        assert!(tokio::time::timeout(Duration::from_secs(1), oldest.is_lost()).await.is_err());
        let _another = seats.take();
        assert_eq!(lost_after(oldest).await, Some(Duration::ZERO), "busy or not");
        assert_eq!(seats.book.lock().reserve.len(), limits::HTTP_RESERVE_CONNECTIONS);
        drop(busy);
        assert!(!seats.take().seat.is_reserve(), "there is an idle one again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_is_free_once_its_connection_ended() {
        let seats = Seats::new(1);
        let first = seats.take();
        let _busy = first.seat.asked();
        assert!(seats.take().seat.is_reserve());
        drop(first);
        assert!(!seats.take().seat.is_reserve());
    }
}
