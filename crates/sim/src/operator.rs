//! The operator of a run: what the cluster has been told to become, told again until it has heard.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use slipring_model::{BucketId, ErrorKind, NodeId};
use slipring_ring::{Change, Changes, Command, Layout, NodeChange, NodeState, Spread};

use crate::host::PARTITION_BITS;
use crate::run::Violation;
use crate::world::World;

/// How long after the last fault everything must have moved where it should be.
const SETTLING_MS: u64 = 30_000;
/// How long an order may be without an answer.
const PATIENCE_MS: u64 = 4_000;

/// What the operator wants, in order.
#[derive(Default)]
pub(crate) struct Operator {
    orders: VecDeque<Command>,
    attempt: Option<Attempt>,
    /// Splits that were ordered.
    splits: u8,
    /// Hosts that were told to leave.
    pub(crate) leaving: BTreeSet<usize>,
    /// Hosts that return as spares, and the nodes they were, whose places they are to take.
    stand_ins: Vec<(usize, NodeId)>,
}

/// What came of an order.
#[derive(Clone, Copy, PartialEq)]
enum Heard {
    /// It is done, or can never be.
    Over,
    /// It cannot be done yet.
    NotYet,
    /// Nobody can tell.
    Nothing,
}

/// An order on its way.
struct Attempt {
    host: usize,
    life: u64,
    since_ms: u64,
    outcome: Arc<Mutex<Option<Heard>>>,
}

impl Operator {
    pub(crate) fn is_done(&self) -> bool {
        self.orders.is_empty() && self.stand_ins.is_empty()
    }
}

impl World {
    /// Tells the cluster that one of its nodes is to be different.
    fn order(&mut self, node: NodeId, change: NodeChange) {
        let changes = vec![Change { node, change }];
        self.operator.orders.push_back(Command::Change { changes, expected_epoch: None });
        self.journal.count("roles changed", 1);
    }

    /// Tells the cluster that a host's share is to be another one.
    pub(crate) fn order_weight(&mut self, host: usize, weight: u32) {
        if let Some(node) = self.ids.get(host).copied() {
            self.order(node, NodeChange::Weight(weight));
        }
    }

    /// Tells the cluster that a bucket is to have another number of copies.
    pub(crate) fn order_copies(&mut self, bucket: u32, replicas: u8) {
        let spreads = vec![Spread { bucket: BucketId(bucket), replicas }];
        let changes = Changes { nodes: Vec::new(), spreads };
        self.operator.orders.push_back(changes.command(None));
        self.journal.count("copies changed", 1);
    }

    /// Tells the cluster to take back what moves.
    pub(crate) fn order_back(&mut self) {
        self.operator.orders.push_back(Command::Revert);
        self.journal.count("moves taken back", 1);
    }

    /// Tells the cluster to halve every partition.
    pub(crate) fn order_split(&mut self) {
        self.operator.splits += 1;
        let bits = PARTITION_BITS + self.operator.splits;
        self.operator.orders.push_back(Command::Split { bits, expected_epoch: None });
        self.journal.count("splits", 1);
    }

    /// What a recovered layout has heard of no more is asked for again: splits, which later ones build on.
    pub(crate) fn order_splits_again(&mut self, bits: u8) {
        self.operator.orders.retain(|command| !matches!(command, Command::Split { .. }));
        for bits in bits + 1..=PARTITION_BITS + self.operator.splits {
            self.operator.orders.push_back(Command::Split { bits, expected_epoch: None });
        }
    }

    /// A host that lost its directory is to take the place of the node that it was, once it has joined as a spare.
    pub(crate) fn order_stand_in(&mut self, host: usize) {
        if let Some(dead) = self.ids.get(host).copied().filter(|node| *node != NodeId::default()) {
            self.operator.stand_ins.push((host, dead));
        }
    }

    /// Orders what the spares that have joined are there for.
    fn put_spares_in_place(&mut self) {
        if self.operator.stand_ins.is_empty() {
            return;
        }
        let newest = self.layouts().map(|(_, layout)| layout).max_by_key(|layout| layout.epoch());
        let Some(layout) = newest else { return };
        let ids = &self.ids;
        let joined = |(host, dead): &mut (usize, NodeId)| {
            let is_new = |id: &&NodeId| *id != dead && layout.nodes().contains_key(*id);
            ids.get(*host).filter(is_new).is_some()
        };
        let joined: Vec<(usize, NodeId)> = self.operator.stand_ins.extract_if(.., joined).collect();
        for (host, dead) in joined {
            let Some(by) = self.ids.get(host).copied() else { continue };
            self.journal.count("places taken", 1);
            self.order(by, NodeChange::Replaces(dead));
            // Where it had no place to take, having been drained, say.
            self.order(dead, NodeChange::State(NodeState::Lost));
            self.order(by, NodeChange::State(NodeState::Active));
        }
    }

    /// Looks after the first order that is not done.
    pub(crate) fn operate(&mut self) {
        self.put_spares_in_place();
        if let Some(attempt) = &self.operator.attempt {
            let now = self.journal.now_ms();
            let is_lost = !self.is_alive(attempt.host, attempt.life) || now > attempt.since_ms + PATIENCE_MS;
            let outcome = *attempt.outcome.lock();
            let first = match outcome {
                Some(Heard::Over | Heard::NotYet) => self.operator.orders.pop_front(),
                _ => None,
            };
            // Something moves, and an order may be what ends that.
            self.operator.orders.extend(first.filter(|_| outcome == Some(Heard::NotYet)));
            if outcome.is_some() || is_lost {
                self.operator.attempt = None;
            }
            return;
        }
        let Some(command) = self.operator.orders.front().cloned() else { return };
        let Some((host, node)) = self.members().find_map(|host| Some((host, self.node(host)?))) else {
            return;
        };
        if matches!(command, Command::Split { .. }) && node.layout().is_moving() {
            return self.operator.orders.rotate_left(1);
        }
        let outcome = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&outcome);
        let life = self.life(host);
        self.journal.note(format_args!("host {host} is told: {command:?}"));
        self.spawn_on(host, async move {
            let is_split = matches!(command, Command::Split { .. });
            *slot.lock() = Some(match node.propose(command).await {
                Ok(_) => Heard::Over,
                Err(error) if error.kind == ErrorKind::Conflict && is_split => Heard::NotYet,
                // It is so already, or can never be.
                Err(error) if error.kind == ErrorKind::Conflict => Heard::Over,
                Err(_) => Heard::Nothing,
            });
        });
        self.operator.attempt = Some(Attempt { host, life, since_ms: self.journal.now_ms(), outcome });
    }

    /// Everything must come to lie where it should.
    pub(crate) fn settle_moves(&mut self) -> Result<(), Violation> {
        let is_settled = self.run_until(SETTLING_MS, |world| {
            world.let_go();
            world.operator.is_done() && world.has_settled()
        })?;
        if is_settled {
            return Ok(());
        }
        let layouts: Vec<String> = self.layouts().map(|(host, layout)| summary(host, &layout)).collect();
        let story = format!("data still moves {SETTLING_MS} ms after healing: {}", layouts.join("; "));
        Err(Violation::new("settling", story))
    }

    fn has_settled(&self) -> bool {
        let layouts: Vec<Arc<Layout>> = self.layouts().map(|(_, layout)| layout).collect();
        let epochs: BTreeSet<u64> = layouts.iter().map(|layout| layout.epoch()).collect();
        let is_leaving =
            |layout: &Arc<Layout>| layout.nodes().values().any(|entry| !entry.role.state.stays());
        epochs.len() == 1
            && self.are_lost_hosts_still()
            && !self.is_majority_lost()
            && layouts.len() == self.members().count()
            && !layouts.iter().any(|layout| layout.is_moving() || is_leaving(layout))
    }

    fn layouts(&self) -> impl Iterator<Item = (usize, Arc<Layout>)> + '_ {
        self.members().filter_map(|host| Some((host, self.node(host)?.layout())))
    }

    /// Hosts that have left take part no more.
    fn let_go(&mut self) {
        let leaving: Vec<usize> = self.operator.leaving.iter().copied().collect();
        for host in leaving {
            let Some(id) = self.ids.get(host).copied() else { continue };
            let others = self.layouts().filter(|(other, _)| *other != host);
            let has_left = others.max_by_key(|(_, layout)| layout.epoch());
            if has_left.is_some_and(|(_, layout)| !layout.nodes().contains_key(&id)) {
                self.leave(host);
            }
        }
    }

    /// What a fault of the cluster's shape asks for.
    pub(crate) fn order_away(&mut self, host: usize, state: NodeState) {
        if let Some(node) = self.ids.get(host).copied().filter(|node| *node != NodeId::default()) {
            self.order(node, NodeChange::State(state));
            if state == NodeState::Leaving {
                self.operator.leaving.insert(host);
            }
        }
    }
}

fn summary(host: usize, layout: &Layout) -> String {
    let states: Vec<String> = layout
        .nodes()
        .iter()
        .map(|(node, entry)| format!("{} {:?}", node.short(), entry.role.state))
        .collect();
    let moves = layout.moves().count();
    format!(
        "host {host} is at epoch {}, {moves} partitions move, nodes {}",
        layout.epoch(),
        states.join(", ")
    )
}
