//! What gossip counts, for Prometheus.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Tally;

type Labelled<M> = Family<[(&'static str, &'static str); 1], M>;

/// Gossip's metrics. They are set when somebody looks: the machine counts for itself.
pub(crate) struct GossipMetrics {
    members: Labelled<Gauge>,
    dropped: Labelled<Counter>,
    sent: Counter,
    received: Counter,
    refutations: Counter,
    pauses: Counter,
    health: Gauge,
    epoch_heard: Gauge,
}

impl GossipMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let (members, dropped): (Labelled<Gauge>, Labelled<Counter>) = Default::default();
        registry.register("gossip_members", "Other members, by how they are believed to be", members.clone());
        registry.register("gossip_dropped", "Datagrams dropped unanswered, by why", dropped.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sent = counter("gossip_sent", "Datagrams sent");
        let received = counter("gossip_received", "Datagrams opened and read");
        let refutations = counter("gossip_refutations", "Suspicions of this node that it refuted");
        let pauses = counter("gossip_pauses", "Times this node noticed that it had been paused");
        let health = Gauge::default();
        registry.register("gossip_ill_health", "0 is healthy; waits grow with it, up to 8", health.clone());
        let epoch_heard = Gauge::default();
        let help = "The latest layout that any member spoke of";
        registry.register("gossip_layout_epoch", help, epoch_heard.clone());
        Self { members, dropped, sent, received, refutations, pauses, health, epoch_heard }
    }

    pub(super) fn set(&self, tally: &Tally, [alive, suspected, gone]: [u64; 3]) {
        let counters = &tally.counters;
        for (state, members) in [("alive", alive), ("suspected", suspected), ("gone", gone)] {
            self.members.get_or_create(&[("state", state)]).set(i64::try_from(members).unwrap_or(i64::MAX));
        }
        for (why, times) in [
            ("length", counters.dropped_length),
            ("version", counters.dropped_version),
            ("forged", counters.dropped_forged),
            ("replayed", counters.dropped_replayed),
            ("malformed", counters.dropped_malformed),
            ("stranger", counters.dropped_strangers),
        ] {
            store(&self.dropped.get_or_create(&[("why", why)]), times);
        }
        store(&self.sent, counters.sent);
        store(&self.received, counters.received);
        store(&self.refutations, counters.refutations);
        store(&self.pauses, counters.pauses);
        self.health.set(i64::from(tally.health_score));
        self.epoch_heard.set(i64::try_from(tally.layout_epoch_heard).unwrap_or(i64::MAX));
    }
}

fn store(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
