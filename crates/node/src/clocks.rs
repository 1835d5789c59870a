//! The time by which values expire: compared among the members once a second, read without a lock.
//!
//! The comparison itself is in `comparison`; a clock that steps is believed as `steady` says. This file asks the
//! questions, keeps the last judgement where every request can read it, and tells operators of clocks that are off.
//!
//! Invariant: reading the agreed time costs one look at the monotonic clock and one atomic load.

mod comparison;
mod steady;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use slipring_model::{Error, Moment, NodeId};
use slipring_ring::{NodeEntry, NodeState};
use slipring_service::Cells;
use slipring_wire::{Reply, Request};

use crate::core::Core;
use crate::failure::unavailable;
pub(crate) use comparison::Judgement;
use comparison::{ANSWER_TIMEOUT, Clocks, Effect, Input, NEAR_US};

/// How often clocks are compared, and how often until the first comparison.
const ROUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(20));
/// How long a node whose start the cluster has agreed to waits for the first comparison before it serves.
const PATIENCE: Duration = Duration::from_secs(1);
/// A value is dropped only when it has been over for this long, in milliseconds.
const DROP_MARGIN_MS: u64 = 2_000;

/// The time that the members' clocks agree on.
pub(crate) struct AgreedTime {
    /// Less this node's monotonic time, in microseconds.
    offset_us: AtomicI64,
    is_agreed: AtomicBool,
    /// Whether this process has compared its clock, or has no other to compare it with.
    is_compared: AtomicBool,
    judgement: ArcSwap<Judgement>,
    clocks: Mutex<Clocks>,
}

impl AgreedTime {
    /// Begins with this node's own clock.
    pub(crate) fn new(me: NodeId, is_first_start: bool, wall_us: u64) -> Self {
        Self {
            offset_us: AtomicI64::new(i64::try_from(wall_us).unwrap_or(i64::MAX)),
            is_agreed: AtomicBool::new(true),
            is_compared: AtomicBool::new(false),
            judgement: ArcSwap::default(),
            clocks: Mutex::new(Clocks::new(me, is_first_start)),
        }
    }

    /// Whether a node that is one of several may judge by its time.
    pub(crate) fn is_compared(&self) -> bool {
        self.is_compared.load(Ordering::Acquire)
    }

    /// How far each clock that was read lately is ahead of the agreed time.
    pub(crate) fn judgement(&self) -> Arc<Judgement> {
        self.judgement.load_full()
    }

    fn adopt(&self, judgement: Judgement) {
        self.offset_us.store(judgement.time_us, Ordering::Release);
        self.is_agreed.store(judgement.is_agreed, Ordering::Release);
        self.judgement.store(Arc::new(judgement));
    }
}

impl Core {
    /// Unix milliseconds, as the members' clocks agree.
    pub(crate) fn agreed_ms(&self) -> u64 {
        self.at_offset(self.time.offset_us.load(Ordering::Acquire))
    }

    /// The Unix millisecond up to which values that have expired may be dropped; none while too few clocks are known.
    pub(crate) fn drop_ms(&self) -> Option<u64> {
        let offset_us = self.time.judgement.load().drop_us?;
        Some(self.at_offset(offset_us).saturating_sub(DROP_MARGIN_MS))
    }

    fn at_offset(&self, offset_us: i64) -> u64 {
        self.now().0.saturating_add_signed(offset_us) / 1_000
    }

    /// Whether this node may decide when values expire.
    pub(crate) fn check_clocks_agree(&self) -> Result<(), Error> {
        match self.time.is_agreed.load(Ordering::Acquire) {
            true => Ok(()),
            false => Err(unavailable(disagreement(&self.time.judgement().ahead_ms))),
        }
    }

    /// Passes a service's response on, unless it decides when a value expires while the clocks disagree: then nothing
    /// changes.
    pub(crate) fn unless_clocks_differ<R>(&self, cells: &mut Cells<'_>, response: R) -> Result<R, Error> {
        if cells.sets_expiry() {
            self.check_clocks_agree().inspect_err(|_| cells.withdraw())?;
        }
        Ok(response)
    }

    /// Compares clocks for as long as the node runs.
    pub(crate) async fn run_clocks(self: Arc<Self>) {
        let mut agreed_since = None;
        loop {
            let round = if self.time.is_compared() { ROUNDS.0 } else { ROUNDS.1 };
            let questions = self.begin_round().into_iter().map(|peer| self.ask_clock(peer));
            tokio::join!(futures::future::join_all(questions), tokio::time::sleep(round));
            if self.muster.is_agreed() {
                let since = *agreed_since.get_or_insert(self.now());
                let is_over = self.now().since(since) >= PATIENCE;
                if is_over || self.time.clocks.lock().knows_majority() {
                    self.time.is_compared.store(true, Ordering::Release);
                }
            }
        }
    }

    /// Looks at this node's own clock; the members to ask now.
    fn begin_round(&self) -> Vec<NodeId> {
        let Some(view) = self.view() else { return Vec::new() };
        let before = self.now();
        let wall_us = self.clock.wall_us();
        let now = self.now();
        if now.since(before) > ANSWER_TIMEOUT {
            return Vec::new();
        }
        // A lost one never answers again.
        let is_there = |(_, entry): &(&NodeId, &NodeEntry)| entry.role.state != NodeState::Lost;
        let members = view.layout.nodes().iter().filter(is_there).map(|(node, _)| *node).collect();
        self.compare(now, Input::Ticked { wall_us, members })
    }

    async fn ask_clock(&self, peer: NodeId) {
        let asked = self.now();
        if !self.is_reachable(peer) {
            return;
        }
        if let Some(Reply::Clock { wall_us }) = self.ask(peer, Request::Clock, ANSWER_TIMEOUT).await {
            self.compare(self.now(), Input::Told { peer, wall_us, asked });
        }
    }

    /// Hands one input to the comparison and does what it asks for; the members to ask.
    fn compare(&self, now: Moment, input: Input) -> Vec<NodeId> {
        let (mut effects, mut questions) = (Vec::new(), Vec::new());
        let mut clocks = self.time.clocks.lock();
        clocks.handle(now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Ask { peer } => questions.push(peer),
                Effect::Judge(judgement) => self.time.adopt(judgement),
                Effect::Report { node, by_ms } => self.report_clock(node, by_ms),
                Effect::Withdraw { node } => {
                    tracing::info!(node = %node.short(), "the clock of a node is right again");
                }
            }
        }
        questions
    }

    fn report_clock(&self, node: NodeId, by_ms: i64) {
        let (node, by) = (node.short(), seconds(by_ms));
        tracing::warn!(%node, "the clock of node {node} is {by} s off the agreed time; mend its time service (NTP)");
    }
}

fn seconds(ms: i64) -> String {
    format!("{:+.3}", ms as f64 / 1_000.0)
}

fn disagreement(ahead_ms: &BTreeMap<NodeId, i64>) -> String {
    let clocks: Vec<String> =
        ahead_ms.iter().map(|(node, by_ms)| format!("{} {} s", node.short(), seconds(*by_ms))).collect();
    format!(
        "no majority of the nodes' clocks is within {} s of each other ({}), so no time to live can be set; nothing was \
         done; mend the time service (NTP) of the nodes",
        NEAR_US / 1_000_000,
        clocks.join(", ")
    )
}

/// What Prometheus is told of clocks.
pub(crate) struct ClockMetrics {
    offsets: Family<[(&'static str, String); 1], Gauge<f64, std::sync::atomic::AtomicU64>>,
    is_agreed: Gauge,
}

impl ClockMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { offsets: Family::default(), is_agreed: Gauge::default() };
        let help = "Seconds by which a node's clock is ahead of the agreed time, this node's among them";
        registry.register("clock_offset_seconds", help, metrics.offsets.clone());
        let help = "Whether enough clocks agree to decide when values expire";
        registry.register("clocks_agree", help, metrics.is_agreed.clone());
        metrics
    }

    pub(crate) fn set(&self, judgement: &Judgement) {
        self.is_agreed.set(i64::from(judgement.is_agreed));
        self.offsets.clear();
        for (node, by_ms) in &judgement.ahead_ms {
            self.offsets.get_or_create(&[("peer", node.to_string())]).set(*by_ms as f64 / 1_000.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disagreement_names_the_nodes_and_their_offsets() {
        let ahead_ms = [(NodeId([1; 32]), 7_200_000), (NodeId([2; 32]), -12)].into_iter().collect();
        let message = disagreement(&ahead_ms);
        assert!(message.contains(" +7200.000 s, ") && message.contains(" -0.012 s)"), "{message}");
        assert!(message.contains(&NodeId([1; 32]).short()), "{message}");
        assert!(message.contains("within 10 s") && message.contains("NTP"), "{message}");
    }
}
