//! Probes: whether a member answers, by itself, through others, over a stream.

use std::net::SocketAddr;
use std::time::Duration;

use slipring_model::{Moment, NodeId};

use super::{Effect, Membership, Step, Timer};
use crate::member::{Incarnation, Liveness};
use crate::message::{Message, Target};
use crate::table::Belief;

/// Probes made for others at one time; more are not answered.
const RELAYS_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Only the member itself was asked.
    Direct,
    /// Others and a stream were asked too.
    Indirect,
}

/// A probe on its way.
#[derive(Debug)]
pub(super) struct Probe {
    target: NodeId,
    /// The life of the target that is probed: its silence says nothing of a later one.
    incarnation: Incarnation,
    stage: Stage,
    deadline: Moment,
    /// Whether no answer means down, because a suspicion has ended.
    is_last: bool,
    /// Members asked to probe as well, and how many of them said that they are there.
    helpers: u32,
    nacks: u32,
}

impl Probe {
    pub(super) fn target(&self) -> NodeId {
        self.target
    }
}

/// A probe made for another member.
#[derive(Debug)]
pub(super) struct Relay {
    to: SocketAddr,
    asker: NodeId,
    token: u64,
    deadline: Moment,
}

impl Membership {
    /// The round's probe, and the next round.
    pub(super) fn probe_next(&mut self, step: &mut Step<'_>) {
        self.agenda.probe = step.now.after(self.awareness.scale(self.settings.probe_interval()));
        step.arm(Timer::Probe, self.agenda.probe);
        let Some(target) = self.table.next_to_probe(&mut self.rng) else { return };
        if !self.probes.values().any(|probe| probe.target == target) {
            self.probe(step, target, false);
        }
    }

    fn probe(&mut self, step: &mut Step<'_>, target: NodeId, is_last: bool) {
        let Some(incarnation) = self.table.get(&target).map(|record| record.member.incarnation) else {
            return;
        };
        let token = self.rng.u64(..);
        let deadline = step.now.after(self.awareness.scale(self.settings.probe_timeout()));
        let stage = Stage::Direct;
        let probe = Probe { target, incarnation, stage, deadline, is_last, helpers: 0, nacks: 0 };
        self.probes.insert(token, probe);
        step.arm(Timer::Answer { token }, deadline);
        self.ping(step, token, target);
    }

    fn ping(&mut self, step: &mut Step<'_>, token: u64, target: NodeId) {
        let Some(record) = self.table.get(&target) else { return };
        let (address, incarnation) = (record.member.address, record.member.incarnation);
        self.send(
            step,
            address,
            Some(target),
            Message::Ping { token, target: Some(Target(target)), incarnation },
        );
    }

    pub(super) fn answer_due(&mut self, step: &mut Step<'_>, token: u64) {
        let Some(probe) = self.probes.get(&token).filter(|probe| step.now >= probe.deadline) else { return };
        let target = probe.target;
        if self.table.get(&target).is_none_or(crate::table::Record::is_gone) {
            self.probes.remove(&token);
        } else if probe.stage == Stage::Direct {
            self.ask_others(step, token, target);
        } else {
            self.fail(step, token);
        }
    }

    /// The member did not answer in time: others and a stream may reach it.
    fn ask_others(&mut self, step: &mut Step<'_>, token: u64, target: NodeId) {
        let count = usize::try_from(self.settings.indirect_probes).unwrap_or(0);
        let helpers = self.table.pick(count, Some(target), &mut self.rng);
        let within = self.awareness.scale(self.settings.probe_timeout());
        let deadline = step.now.after(within);
        if let Some(probe) = self.probes.get_mut(&token) {
            probe.stage = Stage::Indirect;
            probe.deadline = deadline;
            probe.helpers = u32::try_from(helpers.len()).unwrap_or(0);
            probe.nacks = 0;
        }
        step.arm(Timer::Answer { token }, deadline);
        for helper in helpers {
            let Some(address) = self.table.get(&helper).map(|record| record.member.address) else { continue };
            self.send(step, address, Some(helper), Message::PingRequest { token, target: Target(target) });
        }
        let address = self.table.get(&target).map(|record| record.member.address);
        if let Some(address) = address.filter(|_| self.settings.is_stream_probing) {
            step.push(Effect::ProbeStream { token, node: target, address, within });
        }
    }

    /// Nobody reached the member. Helpers that did not even say so may mean that the fault is here.
    fn fail(&mut self, step: &mut Step<'_>, token: u64) {
        let Some(probe) = self.probes.remove(&token) else { return };
        let silent = if probe.helpers == 0 { 1 } else { probe.helpers.saturating_sub(probe.nacks) };
        self.awareness.worsen(silent);
        let Some(record) = self.table.get(&probe.target) else { return };
        if !probe.is_last {
            self.hear_suspected(step, probe.target, probe.incarnation, self.me.node);
        } else if record.liveness() == Liveness::Suspected {
            self.hear_gone(step, probe.target, probe.incarnation, Liveness::Down);
        }
    }

    pub(super) fn acked(&mut self, step: &mut Step<'_>, token: u64) {
        if let Some(probe) = self.probes.remove(&token) {
            if probe.stage == Stage::Direct {
                self.awareness.improve();
            }
            self.restore(step, probe.target);
        } else if let Some(relay) = self.relays.remove(&token) {
            self.send(step, relay.to, Some(relay.asker), Message::Ack { token: relay.token });
        }
    }

    pub(super) fn nacked(&mut self, token: u64) {
        if let Some(probe) = self.probes.get_mut(&token) {
            probe.nacks = probe.nacks.saturating_add(1).min(probe.helpers);
        }
    }

    pub(super) fn stream_probed(&mut self, step: &mut Step<'_>, token: u64, is_reachable: bool) {
        if is_reachable && let Some(probe) = self.probes.remove(&token) {
            self.restore(step, probe.target);
        }
    }

    /// Pings a member for another one. Only members of the own view are pinged, at the address known here.
    pub(super) fn ping_for(
        &mut self,
        step: &mut Step<'_>,
        (to, asker): (SocketAddr, NodeId),
        token: u64,
        target: NodeId,
    ) {
        if self.relays.len() >= RELAYS_MAX || self.table.get(&target).is_none() {
            return;
        }
        let own = self.rng.u64(..);
        // A little before the asker's patience ends, so that a `Nack` still tells it that this node is there.
        let deadline = step.now.after(self.settings.probe_timeout().mul_f64(0.8));
        self.relays.insert(own, Relay { to, asker, token, deadline });
        step.arm(Timer::Relay { token: own }, deadline);
        self.ping(step, own, target);
    }

    pub(super) fn relay_due(&mut self, step: &mut Step<'_>, token: u64) {
        if self.relays.get(&token).is_none_or(|relay| step.now < relay.deadline) {
            return;
        }
        if let Some(relay) = self.relays.remove(&token) {
            self.send(step, relay.to, Some(relay.asker), Message::Nack { token: relay.token });
        }
    }

    pub(super) fn suspicion_due(&mut self, step: &mut Step<'_>, node: NodeId) {
        let Some(record) = self.table.get(&node) else { return };
        let Belief::Suspected(suspicion) = &record.belief else { return };
        let life = record.member.incarnation;
        let is_last = |probe: &Probe| probe.is_last && probe.target == node && probe.incarnation == life;
        let is_probed = self.probes.values().any(is_last);
        if is_probed || step.now < suspicion.deadline() {
            return;
        }
        if !self.settings.is_health_aware {
            let incarnation = record.member.incarnation;
            return self.hear_gone(step, node, incarnation, Liveness::Down);
        }
        self.probes.retain(|_, probe| probe.target != node);
        self.probe(step, node, true);
    }

    /// Gossip is due so often that a late one means that this node did not run. Then what it did not hear meanwhile
    /// counts against nobody: probes are made again, suspicions last longer by the pause.
    pub(super) fn notice_pause(&mut self, step: &mut Step<'_>) {
        let late = step.now.since(self.agenda.gossip);
        if !self.settings.is_health_aware || late < self.settings.probe_timeout() {
            return;
        }
        self.counters.pauses = self.counters.pauses.saturating_add(1);
        let rounds = late.as_millis() / self.settings.probe_interval().as_millis().max(1);
        self.awareness.worsen(u32::try_from(rounds).unwrap_or(u32::MAX).saturating_add(1));
        self.agenda.gossip = step.now;
        for record in self.table.iter_mut() {
            if let Belief::Suspected(suspicion) = &mut record.belief {
                suspicion.forgive(late);
                step.effects.push(Effect::Arm {
                    timer: Timer::Suspicion { node: record.member.node },
                    at: suspicion.deadline(),
                });
            }
        }
        self.repeat_probes(step);
    }

    fn repeat_probes(&mut self, step: &mut Step<'_>) {
        let deadline = step.now.after(self.awareness.scale(self.settings.probe_timeout()));
        let mut again = Vec::new();
        for (token, probe) in &mut self.probes {
            probe.stage = Stage::Direct;
            probe.deadline = deadline;
            again.push((*token, probe.target));
        }
        for (token, target) in again {
            step.arm(Timer::Answer { token }, deadline);
            self.ping(step, token, target);
        }
        // Their askers have long stopped waiting.
        self.relays.retain(|_, relay| step.now.since(relay.deadline) < Duration::from_millis(1));
    }
}
