//! The driver: owns the machine, feeds it what happens, and does what it asks for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use slipring_membership::{Effect, Input, Keyring, Membership, Metadata, Start, Timer};
use slipring_model::{BucketId, Moment, NodeId};
use slipring_wire::Request;
use tokio::sync::{mpsc, oneshot};

use super::keeper::Keeper;
use super::{Datagrams, Means, Tally, Word};
use crate::core::Core;

/// How long this node's own address may take to be looked up.
const OWN_LOOKUP: Duration = Duration::from_secs(2);

/// The machine and its surroundings.
struct Driver {
    core: Arc<Core>,
    machine: Membership,
    datagrams: Arc<dyn Datagrams>,
    timers: BTreeSet<(Moment, Timer)>,
    keeper: Keeper,
    /// Whether it was said that somebody speaks under another key.
    has_warned: bool,
    leaving: Option<oneshot::Sender<()>>,
    layout_epoch_heard: u64,
}

/// Runs gossip until the node ends.
pub(super) async fn run(
    core: Arc<Core>,
    means: Means,
    keys: Keyring,
    mut words: mpsc::Receiver<Word>,
    keeper: Keeper,
) {
    let Some(mut driver) = Driver::new(core, means, keys, keeper).await else { return };
    driver.feed(Input::Started);
    loop {
        let due = driver.timers.first().map_or(Moment(u64::MAX), |(at, _)| *at);
        let wait = due.since(driver.core.now());
        let datagrams = Arc::clone(&driver.datagrams);
        // Timers come first, so that no flood of datagrams can hold them up.
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => driver.fire(),
            Some(word) = words.recv() => driver.hear(word),
            (from, bytes) = datagrams.recv() => driver.receive(from, bytes),
        }
    }
}

impl Driver {
    async fn new(core: Arc<Core>, means: Means, keys: Keyring, keeper: Keeper) -> Option<Self> {
        let Means { datagrams, seed } = means;
        let own = datagrams.resolve(core.addresses.peer.clone());
        let own = tokio::time::timeout(OWN_LOOKUP, own).await.ok().flatten();
        let now = core.now();
        let start = Start {
            node: core.me,
            // Others reach this node where the layout says; here it only serves not to dial oneself.
            address: own.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
            start: keeper.next_start(core.incarnation),
            metadata: Metadata::default(),
            keys,
            known_peers: keeper.known_peers(),
            zero_unix_ms: core.clock.wall_ms().saturating_sub(now.0 / 1_000),
        };
        let machine = match Membership::new(start, core.settings.membership.clone(), Rng::with_seed(seed)) {
            Ok(machine) => machine,
            Err(error) => {
                core.give_up(format!("gossip cannot start: {error}"));
                return None;
            }
        };
        Some(Self {
            core,
            machine,
            datagrams,
            timers: BTreeSet::new(),
            keeper,
            has_warned: false,
            leaving: None,
            layout_epoch_heard: 0,
        })
    }

    /// Fires the timers that are due now; those they arm wait for the next time.
    fn fire(&mut self) {
        let now = self.core.now();
        let due: Vec<(Moment, Timer)> =
            self.timers.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for entry in due {
            self.timers.remove(&entry);
            self.feed(Input::Expired(entry.1));
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Met(peer) => self.feed(Input::Met(peer)),
            Word::StreamProbed { token, is_reachable } => {
                self.feed(Input::StreamProbed { token, is_reachable });
            }
            Word::Listed(roster, metadata) => {
                self.feed(Input::RosterChanged(roster));
                self.feed(Input::Announced(metadata));
                let now = self.core.now();
                self.core.gossip.look(&self.machine, None, now);
            }
            Word::Leave(others_know) => {
                self.leaving = Some(others_know);
                self.feed(Input::Leaving);
            }
        }
    }

    fn receive(&mut self, from: SocketAddr, bytes: Vec<u8>) {
        let before = self.machine.counters().dropped_forged;
        self.feed(Input::Datagram { from, bytes });
        if self.machine.counters().dropped_forged > before && !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                %from,
                "somebody gossips under another cluster key or for another cluster; what comes under it is \
                 dropped, and counted in slipring_gossip_dropped_total"
            );
        }
    }

    fn feed(&mut self, input: Input) {
        let (now, mut effects) = (self.core.now(), Vec::new());
        self.machine.handle(now, input, &mut effects);
        for effect in effects {
            self.carry_out(now, effect);
        }
        let tally = Tally {
            counters: self.machine.counters(),
            health_score: self.machine.health_score(),
            layout_epoch_heard: self.layout_epoch_heard,
        };
        *self.core.gossip.tally.lock() = tally;
    }

    fn carry_out(&mut self, now: Moment, effect: Effect) {
        match effect {
            Effect::Send { to, bytes } => self.datagrams.send_to(to, &bytes),
            Effect::Arm { timer, at } => drop(self.timers.insert((at, timer))),
            Effect::ProbeStream { token, node, within, .. } => {
                tokio::spawn(probe(Arc::clone(&self.core), token, node, within));
            }
            Effect::Up(member) => {
                tracing::info!(peer = %member.node.short(), start = member.incarnation.start, "a node has been heard: it is up");
                if let Some(transport) = self.core.transport.get() {
                    transport.hasten(member.node);
                }
                self.hear_of_layout(member.node, &member.metadata);
                self.look_at(member.node, now);
            }
            Effect::Changed(member) => {
                self.hear_of_layout(member.node, &member.metadata);
                self.look_at(member.node, now);
            }
            Effect::Restored(node) => self.look_at(node, now),
            Effect::Suspected(node) => {
                tracing::info!(peer = %node.short(), "a node does not answer; it is suspected");
                self.look_at(node, now);
            }
            Effect::Down(node) => {
                tracing::warn!(peer = %node.short(), "a node is down; it stays a member");
                self.look_at(node, now);
            }
            Effect::Left(node) => {
                tracing::info!(peer = %node.short(), "has left for now; it stays a member");
                self.look_at(node, now);
            }
            Effect::Stranger(member) => self.hear_of_layout(member.node, &member.metadata),
            Effect::Persist(peers) => self.keeper.keep_peers(peers),
            Effect::StartRaised(start) => self.keeper.keep_start(start),
            // Whoever waits sees the sender dropped.
            Effect::Departed => self.leaving = None,
        }
    }

    /// Somebody works with a layout: the place to fetch it from there, when it is later than the one here.
    fn hear_of_layout(&mut self, from: NodeId, metadata: &Metadata) {
        let (theirs, ours) = (metadata.layout_epoch, self.core.view().map_or(0, |view| view.epoch()));
        if theirs > ours && theirs > self.layout_epoch_heard {
            tracing::debug!(peer = %from.short(), theirs, ours, "works with a later layout");
        }
        self.layout_epoch_heard = self.layout_epoch_heard.max(theirs);
    }

    fn look_at(&self, node: NodeId, now: Moment) {
        self.core.gossip.look(&self.machine, Some(node), now);
    }
}

/// Whether a node answers over a stream; the driver is told.
async fn probe(core: Arc<Core>, token: u64, node: NodeId, within: Duration) {
    let answering = tokio::time::timeout(within, answers(&core, node, within)).await;
    let is_reachable = answering.unwrap_or(false);
    // A driver that is gone has no use for it.
    let _ = core.gossip.words.send(Word::StreamProbed { token, is_reachable }).await;
}

/// Asks a node for nothing at all: over the connection there is, or over a new one. Any answer will do, also that
/// it may not serve yet.
async fn answers(core: &Core, node: NodeId, within: Duration) -> bool {
    let nothing = Request::Count { bucket: BucketId(0), partitions: Vec::new() };
    let Some(transport) = core.transport.get() else { return false };
    if transport.is_connected(node) {
        return core.ask(node, nothing, within).await.is_some();
    }
    let Some(view) = core.view() else { return false };
    let Some(entry) = view.layout.nodes().get(&node) else { return false };
    let address = core.whereabouts.of(node, &entry.addresses.peer);
    let asked = transport.ask(address, nothing, within).await;
    asked.is_ok_and(|(hello, _)| hello.node == node)
}
