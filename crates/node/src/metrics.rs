//! What a node counts about itself, for Prometheus.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use slipring_model::{ErrorKind, Space};

use crate::authority::Refusals;
use crate::clients::ClientMetrics;
use crate::clocks::ClockMetrics;
use crate::gossip::GossipMetrics;

/// One node's counters, in a registry of their own.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) answered_alone: Counter,
    pub(crate) coordinated: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) peers_avoided: Counter,
    pub(crate) rejected: Counter,
    pub(crate) unknown: Counter,
    pub(crate) read_repairs: Counter,
    pub(crate) healed: Counter,
    pub(crate) hints_stored: Counter,
    pub(crate) hints_delivered: Counter,
    pub(crate) hints_overflowed: Counter,
    pub(crate) exchanged: Counter,
    pub(crate) expired: Counter,
    pub(crate) replies_late: Counter,
    pub(crate) replies_dropped: Counter,
    pub(crate) requests_restarted: Counter,
    pub(crate) writes_repeated: Counter,
    pub(crate) partitions_taken_over: Counter,
    pub(crate) moved_cells: Counter,
    pub(crate) moved_bytes: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) hints_waiting: Gauge,
    pub(crate) epoch: Gauge,
    pub(crate) partitions: Gauge,
    pub(crate) peers_connected: Gauge,
    pub(crate) room: RoomMetrics,
    pub(crate) gossip: GossipMetrics,
    pub(crate) clients: ClientMetrics,
    pub(crate) clocks: ClockMetrics,
    pub(crate) refusals: Refusals,
}

/// What is in use and left of the disk, and of the memory for buckets.
pub(crate) struct RoomMetrics {
    pub(crate) writes_refused: Counter,
    disk_room: Gauge,
    disk_free: Gauge,
    disk_reserve: Gauge,
    memory_room: Gauge,
    memory_used: Gauge,
    memory_limit: Gauge,
}

impl RoomMetrics {
    fn register(registry: &mut Registry) -> Self {
        let writes_refused = Counter::default();
        let help = "Writes that this node had no room for, here or on other replicas";
        registry.register("writes_without_room", help, writes_refused.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            writes_refused,
            disk_room: gauge("disk_room", "What the disk takes: 0 every write, 1 only deletions, 2 nothing"),
            disk_free: gauge("disk_free_bytes", "Bytes that the disk has left"),
            disk_reserve: gauge(
                "disk_reserve_bytes",
                "With fewer bytes left than this, only deletions are taken",
            ),
            memory_room: gauge("memory_room", "What the buckets in memory take: 0 every write, 1 no growth"),
            memory_used: gauge("memory_used_bytes", "Bytes that the buckets in memory hold"),
            memory_limit: gauge("memory_limit_bytes", "Bytes that they may hold; 0 for any number"),
        }
    }

    pub(crate) fn set(&self, disk: &Space, memory: &Space) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        for (gauge, value) in [
            (&self.disk_room, disk.room as u64),
            (&self.disk_free, disk.free),
            (&self.disk_reserve, disk.reserve),
            (&self.memory_room, memory.room as u64),
            (&self.memory_used, memory.used),
            (&self.memory_limit, memory.limit),
        ] {
            gauge.set(number(value));
        }
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("slipring");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let (answered_alone, coordinated) = (
            counter("requests_alone", "Requests answered by this node alone"),
            counter("requests_coordinated", "Requests of this node's clients that took other nodes"),
        );
        let forwarded = counter("requests_forwarded", "Requests handed to another coordinator");
        let peers_avoided =
            counter("peers_avoided", "Times a peer that refused or was late began to be avoided");
        let rejected = counter("requests_rejected", "Requests refused without effect");
        let unknown = counter("requests_unknown", "Writes whose outcome could not be told");
        let read_repairs = counter("read_repairs", "Copies brought up to date by reads");
        let healed = counter("healed_records", "Damaged records written anew from other replicas");
        let hints_stored = counter("hints_stored", "Hints kept for absent replicas");
        let hints_delivered = counter("hints_delivered", "Hints whose replicas hold the cell now");
        let hints_overflowed = counter("hints_overflowed", "Hints without room, left to the exchange");
        let exchanged = counter("exchanged_keys", "Keys that exchanges found to differ");
        let expired = counter("expired_keys", "Values dropped because their time was up");
        let replies_late = counter("replies_late", "Replies that came when nobody waited any more");
        let replies_dropped = counter("replies_dropped", "Replies whose asker was gone");
        let requests_restarted = counter("requests_restarted", "Requests begun anew under a newer layout");
        let writes_repeated = counter(
            "writes_repeated",
            "Writes run once more because replicas held values that won over them",
        );
        let partitions_taken_over = counter("partitions_taken_over", "Partitions whose data has moved here");
        let moved_cells = counter("moved_cells", "Cells fetched for partitions that move here");
        let moved_bytes = counter("moved_bytes", "Bytes of those cells and their keys");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            in_flight: gauge("requests_in_flight", "Requests under way between nodes"),
            hints_waiting: gauge("hints_waiting", "Hints kept for absent replicas now"),
            epoch: gauge("layout_epoch", "The layout this node works with"),
            partitions: gauge("layout_partitions", "How many partitions the ring is cut into"),
            peers_connected: gauge("peers_connected", "Peers this node can reach now"),
            room: RoomMetrics::register(&mut registry),
            gossip: GossipMetrics::register(&mut registry),
            clients: ClientMetrics::new(&mut registry),
            clocks: ClockMetrics::register(&mut registry),
            refusals: Refusals::register(&mut registry),
            registry,
            answered_alone,
            coordinated,
            forwarded,
            peers_avoided,
            rejected,
            unknown,
            read_repairs,
            healed,
            hints_stored,
            hints_delivered,
            hints_overflowed,
            exchanged,
            expired,
            replies_late,
            replies_dropped,
            requests_restarted,
            writes_repeated,
            partitions_taken_over,
            moved_cells,
            moved_bytes,
        }
    }

    /// Counts an error a client is told.
    pub(crate) fn count_error(&self, kind: ErrorKind) {
        match kind {
            ErrorKind::OutcomeUnknown => self.unknown.inc(),
            _ => self.rejected.inc(),
        };
    }

    /// Everything in Prometheus' text format.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
