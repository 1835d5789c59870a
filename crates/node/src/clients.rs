//! What clients may take of a node, by all gateways together: connections, and memory for what is in flight.
//!
//! Bytes count as they arrive, never as they are promised, and count until they are gone. Nothing waits for
//! memory: what finds none is refused.
//!
//! Invariant: the bytes held are those of all [`Held`]s that are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use slipring_model::{Error, ErrorKind, limits};

/// Bytes of a request that do not count.
const SMALL_BYTES: usize = 1024;
/// After how much silence a client's machine is asked for a sign of life when nothing else is said.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// How much clients may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bytes in flight: input, requests under way, replies.
    pub memory_bytes: usize,
    /// Connections of the port for Redis clients.
    pub redis_connections: usize,
    /// Connections of the port for HTTP and gRPC.
    pub http_connections: usize,
    /// After how much silence the system asks a client's machine for a sign of life; never when absent.
    pub keepalive: Option<Duration>,
    /// How long a Redis connection may be silent; without a limit when absent.
    pub redis_silence: Option<Duration>,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            memory_bytes: limits::CLIENT_MEMORY_BYTES_DEFAULT,
            redis_connections: limits::CONNECTIONS_MAX,
            http_connections: limits::CONNECTIONS_MAX,
            keepalive: Some(KEEPALIVE),
            redis_silence: None,
        }
    }
}

/// What a value or an answer of a request counts: so few bytes that their number is bounded by that of requests are
/// not worth counting.
pub(crate) fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(SMALL_BYTES)
}

/// The limits in force, and the memory they allow.
pub(crate) struct Clients {
    pub(crate) limits: ClientLimits,
    pub(crate) memory: ClientMemory,
    /// Transactions that ran, each without isolation.
    pub(crate) transactions: AtomicU64,
}

impl Clients {
    pub(crate) fn new(limits: ClientLimits) -> Self {
        Self { memory: ClientMemory::new(limits.memory_bytes), limits, transactions: AtomicU64::new(0) }
    }
}

/// The memory for what clients have in flight; clones are the same one.
#[derive(Clone, Debug)]
pub struct ClientMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    held: AtomicUsize,
    /// The most that was held since somebody looked.
    peak: AtomicUsize,
    refused: AtomicU64,
}

/// What is told of clients to Prometheus. Set when somebody looks.
pub(crate) struct ClientMetrics {
    bytes: Gauge,
    bytes_max: Gauge,
    refused: Counter,
    transactions: Counter,
    redis_connections_max: Gauge,
    http_connections_max: Gauge,
}

impl ClientMetrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let bytes = gauge("clients_memory_bytes", "Bytes that clients have in flight");
        let bytes_max = gauge("clients_memory_bytes_max", "Bytes that clients may have in flight");
        let redis_connections_max =
            gauge("redis_connections_max", "Connections that the port for Redis clients accepts");
        let http_connections_max =
            gauge("http_connections_max", "Connections that the port for HTTP and gRPC accepts");
        let refused = Counter::default();
        let help = "Times that clients had too many bytes in flight for what one wanted";
        registry.register("clients_memory_refused", help, refused.clone());
        let transactions = Counter::default();
        let help = "Transactions of Redis clients that ran, in order and not isolated from other clients";
        registry.register("redis_transactions", help, transactions.clone());
        Self { bytes, bytes_max, refused, transactions, redis_connections_max, http_connections_max }
    }

    pub(crate) fn set(&self, clients: &Clients) {
        let Clients { limits, memory, transactions } = clients;
        self.refused.inner().store(memory.refused(), Ordering::Relaxed);
        self.transactions.inner().store(transactions.load(Ordering::Relaxed), Ordering::Relaxed);
        for (gauge, value) in [
            (&self.bytes, memory.bytes()),
            (&self.bytes_max, memory.bytes_max()),
            (&self.redis_connections_max, limits.redis_connections),
            (&self.http_connections_max, limits.http_connections),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}

/// Bytes that one connection, request or reply holds; given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    memory: ClientMemory,
    bytes: usize,
}

impl ClientMemory {
    /// Memory of so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let (held, peak, refused) = Default::default();
        Self(Arc::new(Shared { bytes_max, held, peak, refused }))
    }

    /// Holds nothing yet.
    #[must_use]
    pub fn held(&self) -> Held {
        Held { memory: self.clone(), bytes: 0 }
    }

    /// Holds `bytes`, or tells that there is no room.
    ///
    /// # Errors
    /// `Overloaded`.
    pub fn hold(&self, bytes: usize) -> Result<Held, Error> {
        let mut held = self.held();
        if held.try_set(bytes) { Ok(held) } else { Err(self.refusal()) }
    }

    /// What a client is told that finds no room.
    #[must_use]
    pub fn refusal(&self) -> Error {
        let message = format!(
            "clients have too many bytes in flight on this node, of {} at most; nothing was done: back off and try again, \
             or raise clients_memory",
            self.bytes_max()
        );
        Error::new(ErrorKind::Overloaded, message)
    }

    /// Bytes in flight now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// The most bytes that were in flight since this was last asked.
    #[must_use]
    pub fn take_peak(&self) -> usize {
        self.0.peak.swap(self.bytes(), Ordering::Relaxed).max(self.bytes())
    }

    /// Bytes that may be in flight.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// How often there was no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

impl Held {
    /// Holds `bytes` from now on; `false`, and as many as before, when there is no room for more.
    pub fn try_set(&mut self, bytes: usize) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes) else {
            self.set(bytes);
            return true;
        };
        let shared = &self.memory.0;
        if more == 0 {
            return true;
        }
        let grown = shared.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(more).filter(|held| *held <= shared.bytes_max)
        });
        match grown {
            Ok(before) => {
                shared.peak.fetch_max(before + more, Ordering::Relaxed);
                self.bytes = bytes;
            }
            Err(_) => drop(shared.refused.fetch_add(1, Ordering::Relaxed)),
        }
        grown.is_ok()
    }

    /// Holds `bytes` from now on, room or not: for what is there already.
    pub fn set(&mut self, bytes: usize) {
        let held = &self.memory.0.held;
        match bytes.checked_sub(self.bytes) {
            Some(0) => {}
            Some(more) => drop(held.fetch_add(more, Ordering::Relaxed)),
            None => drop(held.fetch_sub(self.bytes - bytes, Ordering::Relaxed)),
        }
        self.bytes = bytes;
    }

    /// How many.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a client is told when there is no room for more.
    #[must_use]
    pub fn refusal(&self) -> Error {
        self.memory.refusal()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_below_and_at_its_limit_and_not_above() {
        let memory = ClientMemory::new(100);
        for (bytes, is_given) in [(0, true), (99, true), (100, true), (101, false), (usize::MAX, false)] {
            assert_eq!(memory.hold(bytes).is_ok(), is_given, "{bytes}");
            assert_eq!(memory.bytes(), 0);
        }
        assert_eq!(memory.refused(), 2);
    }

    #[test]
    fn peak_counts_from_one_look_to_the_next() {
        let memory = ClientMemory::new(100);
        drop(memory.hold(70));
        let held = memory.hold(20);
        assert_eq!((memory.take_peak(), memory.take_peak()), (70, 20));
        drop(held);
        assert_eq!((memory.take_peak(), memory.take_peak()), (20, 0));
    }

    #[test]
    fn refused_bytes_leave_those_before_as_they_were() {
        let memory = ClientMemory::new(100);
        let (mut one, other) = (memory.held(), memory.hold(60).expect("room"));
        assert!(one.try_set(40) && !one.try_set(41));
        assert_eq!((one.bytes(), memory.bytes()), (40, 100));
        drop(other);
        assert!(one.try_set(41) && one.try_set(10));
        assert_eq!(memory.bytes(), 10);
        one.set(500);
        assert_eq!(memory.bytes(), 500, "what is there already counts beyond the limit as well");
        drop(one);
        assert_eq!(memory.bytes(), 0);
    }
}
