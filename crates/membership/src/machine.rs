//! The machine: one input at a time, effects appended to the caller's buffer.
//!
//! A node probes one other per interval. No answer: others are asked to probe it, and a stream is tried. Still
//! none: it is suspected, and told so. If it has not spoken for itself when the suspicion ends, the
//! node probes it once more by itself, and only then declares it down.
//!
//! Invariant: a node that was paused declares nobody down on evidence from before its pause.
//! Invariant: what a member says of itself in a later incarnation wins over whatever others say of an earlier one.

mod claims;
mod contact;
mod probing;
mod rejoining;
mod roster;
mod spreading;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use slipring_model::{Moment, NodeId};

use crate::awareness::Awareness;
use crate::broadcasts::Broadcasts;
use crate::known::{KnownPeer, KnownPeers};
use crate::member::{Incarnation, Liveness, Member, Metadata};
use crate::replay::ReplayGuard;
use crate::seal::Keyring;
use crate::settings::{InvalidSettings, Settings};
use crate::table::Table;
use probing::{Probe, Relay};

/// What happens to the machine.
#[derive(Debug)]
pub enum Input {
    /// The machine may begin: it arms its first timers. Once, before anything else.
    Started,
    /// A datagram has arrived; any bytes.
    Datagram {
        /// Where it came from.
        from: SocketAddr,
        /// What it holds.
        bytes: Vec<u8>,
    },
    /// A timer that was armed is due.
    Expired(Timer),
    /// What came of a probe over a stream.
    StreamProbed {
        /// The token of the effect that asked for it.
        token: u64,
        /// Whether the node with the asked id answered.
        is_reachable: bool,
    },
    /// Somebody might be at this address: a seed, or what discovery found.
    PeerLearnt(SocketAddr),
    /// Who may be a member, and where each is reached, if that is known. Nobody else is taken in, answered or passed
    /// on from now on; whoever is new here counts as alive until probes say otherwise. Before the first, anybody may.
    RosterChanged(BTreeMap<NodeId, Option<SocketAddr>>),
    /// A stream with this node has just come about, so it is there.
    Met(NodeId),
    /// This node's metadata has changed; it spreads to all members.
    Announced(Metadata),
    /// The keys have changed.
    KeysChanged(Keyring),
    /// The node stops on purpose: others need not suspect it first.
    Leaving,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// At most 1,400 sealed bytes.
        bytes: Vec<u8>,
    },
    /// Hand the timer back as [`Input::Expired`] at this moment or later.
    Arm {
        /// Which timer.
        timer: Timer,
        /// When.
        at: Moment,
    },
    /// Open a stream to this member, make sure that it has this id, and report with [`Input::StreamProbed`].
    ProbeStream {
        /// Names the probe.
        token: u64,
        /// Who must answer.
        node: NodeId,
        /// Where.
        address: SocketAddr,
        /// After this long the answer is no longer of use.
        within: Duration,
    },
    /// A member is there: new, back, or restarted.
    Up(Member),
    /// A member moved or told new metadata of itself.
    Changed(Member),
    /// A member could not be reached; it still counts as alive.
    Suspected(NodeId),
    /// A suspected member is there after all.
    Restored(NodeId),
    /// A member is down. Nothing but routing may follow from it.
    Down(NodeId),
    /// A member said that it is gone for now. It stays in the layout.
    Left(NodeId),
    /// Keep this list of known peers over a restart, in the place of the one before.
    Persist(Vec<KnownPeer>),
    /// Somebody who holds the key and is not in the roster spoke: perhaps the roster here is old.
    Stranger(Member),
    /// The cluster knows this node from a later start than its own, as after its disk was set back. It goes on
    /// with this start; keep it, so that the next one is later still.
    StartRaised(u64),
    /// The word that this node leaves has been spread: the driver may stop.
    Departed,
}

/// A timer; stale ones are ignored, so the driver need not cancel any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The next probe.
    Probe,
    /// A probe's answer should be here.
    Answer {
        /// Names the probe.
        token: u64,
    },
    /// A probe made for another member should be answered.
    Relay {
        /// Names the probe.
        token: u64,
    },
    /// A suspicion may have ended.
    Suspicion {
        /// Who is suspected.
        node: NodeId,
    },
    /// News are to be sent, if there are any.
    Gossip,
    /// Two members are to compare what they know.
    Pull,
    /// A peer that is gone is to be tried.
    Rejoin,
    /// The list of known peers has changed for a while.
    Persist,
}

/// Who the node is at its start.
#[derive(Debug)]
pub struct Start {
    /// Its id.
    pub node: NodeId,
    /// Where others reach it, by datagrams and by streams.
    pub address: SocketAddr,
    /// Its durable start number: higher than at every start before.
    pub start: u64,
    /// What it tells of itself.
    pub metadata: Metadata,
    /// The cluster's keys.
    pub keys: Keyring,
    /// The list that was last kept, empty at the first start.
    pub known_peers: Vec<KnownPeer>,
    /// The wall clock at `Moment(0)`, in milliseconds since the Unix epoch; only for the list of known peers.
    pub zero_unix_ms: u64,
}

/// What came in and what was dropped, since the start. Nothing that is dropped is ever answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams opened and read.
    pub received: u64,
    /// Dropped: longer than 1,400 bytes or shorter than a seal.
    pub dropped_length: u64,
    /// Dropped: a format this build does not speak.
    pub dropped_version: u64,
    /// Dropped: wrong key, wrong cluster, or changed on the way.
    pub dropped_forged: u64,
    /// Dropped: seen before, or from an earlier start of its sender.
    pub dropped_replayed: u64,
    /// Dropped: opened, but not to be understood.
    pub dropped_malformed: u64,
    /// Dropped: from somebody who is not in the roster.
    pub dropped_strangers: u64,
    /// Members not taken into the view because it is full.
    pub members_refused: u64,
    /// Times that this node noticed that it had been paused.
    pub pauses: u64,
    /// Suspicions of this node by others that it refuted.
    pub refutations: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Leaving { until: Moment },
    Departed,
}

/// One input's moment and the buffer for what follows from it.
struct Step<'a> {
    now: Moment,
    effects: &'a mut Vec<Effect>,
}

impl Step<'_> {
    fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn arm(&mut self, timer: Timer, at: Moment) {
        self.push(Effect::Arm { timer, at });
    }
}

/// When each of the timers that come again is expected.
#[derive(Debug, Default)]
struct Agenda {
    probe: Moment,
    gossip: Moment,
    pull: Moment,
    rejoin: Option<Moment>,
    persist: Option<Moment>,
    /// Until when no further view is asked for on first contact.
    quiet: Moment,
}

/// SWIM on one node.
#[derive(Debug)]
pub struct Membership {
    settings: Settings,
    me: Member,
    keys: Keyring,
    rng: Rng,
    zero_unix_ms: u64,
    phase: Phase,
    agenda: Agenda,
    table: Table,
    broadcasts: Broadcasts,
    awareness: Awareness,
    known: KnownPeers,
    /// Who may be a member; anybody while there is none.
    roster: Option<BTreeMap<NodeId, Option<SocketAddr>>>,
    replays: ReplayGuard,
    probes: BTreeMap<u64, Probe>,
    relays: BTreeMap<u64, Relay>,
    session: [u8; 4],
    counter: u64,
    counters: Counters,
}

impl Membership {
    /// A machine that has not begun yet.
    ///
    /// # Errors
    /// When a setting is outside its range.
    pub fn new(start: Start, settings: Settings, mut rng: Rng) -> Result<Self, InvalidSettings> {
        settings.validate()?;
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let score_max = if settings.is_health_aware { settings.awareness_max } else { 0 };
        let waits =
            (Duration::from_millis(settings.rejoin_min_ms), Duration::from_millis(settings.rejoin_max_ms));
        let mut known = KnownPeers::new(size(settings.known_peers_max), waits.0, waits.1);
        for peer in start.known_peers {
            if peer.address != start.address && peer.node != Some(start.node) {
                known.learn(peer, Moment(0));
            }
        }
        let incarnation = Incarnation::at_start(start.start);
        let Start { node, address, metadata, .. } = start;
        Ok(Self {
            me: Member { node, address, incarnation, metadata },
            keys: start.keys,
            session: rng.u32(..).to_be_bytes(),
            rng,
            zero_unix_ms: start.zero_unix_ms,
            phase: Phase::Running,
            agenda: Agenda::default(),
            table: Table::new(size(settings.members_max)),
            broadcasts: Broadcasts::new(size(settings.members_max).saturating_add(1)),
            awareness: Awareness::new(u32::try_from(score_max).unwrap_or(0)),
            known,
            roster: None,
            replays: ReplayGuard::new(size(settings.members_max)),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
            counter: 0,
            counters: Counters::default(),
            settings,
        })
    }

    /// Applies one input. Never blocks, never fails, never reads a clock.
    pub fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Departed {
            return;
        }
        let step = &mut Step { now, effects };
        if !matches!(input, Input::Started) {
            self.notice_pause(step);
        }
        match input {
            Input::Started => self.start(step),
            Input::Datagram { from, bytes } => self.datagram(step, from, &bytes),
            Input::Expired(timer) => self.expired(step, timer),
            Input::StreamProbed { token, is_reachable } => self.stream_probed(step, token, is_reachable),
            Input::PeerLearnt(address) => self.learn(step, address),
            Input::RosterChanged(roster) => self.change_roster(step, roster),
            Input::Met(node) => self.met_by_stream(step, node),
            Input::Announced(metadata) => self.announce(metadata),
            Input::KeysChanged(keys) => self.keys = keys,
            Input::Leaving => self.leave(step),
        }
        self.schedule_known(step);
    }

    /// Whether a node is believed to be there: alive or merely suspected. True of this node until it leaves.
    #[must_use]
    pub fn is_alive(&self, node: &NodeId) -> bool {
        self.liveness(node).is_some_and(|liveness| !liveness.is_gone())
    }

    /// How a node is believed to be; `None` if it is not in the view.
    #[must_use]
    pub fn liveness(&self, node: &NodeId) -> Option<Liveness> {
        if *node == self.me.node {
            let is_running = self.phase == Phase::Running;
            return Some(if is_running { Liveness::Alive } else { Liveness::Left });
        }
        self.table.get(node).map(crate::table::Record::liveness)
    }

    /// Another member and how it is believed to be; `None` if it is not in the view.
    #[must_use]
    pub fn member(&self, node: &NodeId) -> Option<(&Member, Liveness)> {
        self.table.get(node).map(|record| (&record.member, record.liveness()))
    }

    /// All other members of the view, in the order of their ids, also those that are gone.
    pub fn members(&self) -> impl Iterator<Item = (&Member, Liveness)> {
        self.table.iter().map(|record| (&record.member, record.liveness()))
    }

    /// This node, as it tells others of itself.
    #[must_use]
    pub fn me(&self) -> &Member {
        &self.me
    }

    /// The score of local ill-health: 0 is healthy, 8 the worst.
    #[must_use]
    pub fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// What was sent, received and dropped since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Pieces of news that wait to be sent; at most one for each member.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.broadcasts.len()
    }

    /// The peers that would be tried after a restart.
    #[must_use]
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        self.known.list()
    }

    fn start(&mut self, step: &mut Step<'_>) {
        // The first probe and the first comparison are spread out, so that nodes started together do not stay in step.
        self.agenda.probe = step.now.after(self.settings.probe_interval().mul_f64(self.rng.f64()));
        self.agenda.gossip = step.now.after(self.settings.gossip_interval());
        self.agenda.pull = step.now.after(self.settings.pull_interval().mul_f64(self.rng.f64()));
        step.arm(Timer::Probe, self.agenda.probe);
        step.arm(Timer::Gossip, self.agenda.gossip);
        step.arm(Timer::Pull, self.agenda.pull);
    }

    fn expired(&mut self, step: &mut Step<'_>, timer: Timer) {
        let (now, is_running) = (step.now, self.phase == Phase::Running);
        match timer {
            Timer::Gossip if now >= self.agenda.gossip => self.gossip(step),
            Timer::Probe if is_running && now >= self.agenda.probe => self.probe_next(step),
            Timer::Pull if is_running && now >= self.agenda.pull => self.pull(step),
            Timer::Rejoin if is_running && self.agenda.rejoin.is_some_and(|at| now >= at) => {
                self.rejoin(step)
            }
            Timer::Persist if self.agenda.persist.is_some_and(|at| now >= at) => self.persist(step),
            Timer::Answer { token } => self.answer_due(step, token),
            Timer::Relay { token } => self.relay_due(step, token),
            Timer::Suspicion { node } if is_running => self.suspicion_due(step, node),
            Timer::Probe
            | Timer::Gossip
            | Timer::Pull
            | Timer::Rejoin
            | Timer::Persist
            | Timer::Suspicion { .. } => {}
        }
    }

    fn announce(&mut self, metadata: Metadata) {
        if self.me.metadata != metadata {
            self.me.metadata = metadata;
            self.renew(self.me.incarnation);
        }
    }

    /// The cluster's size in this node's eyes, this node included.
    fn size(&self) -> usize {
        self.table.present().saturating_add(1)
    }
}

#[cfg(test)]
mod tests;
