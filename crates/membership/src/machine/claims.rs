//! What is said of members: which word wins, and what this node says when the word is about itself.

use slipring_model::NodeId;

use super::{Effect, Membership, Phase, Step, Timer};
use crate::member::{Incarnation, Liveness, Member};
use crate::message::{Claim, Target};
use crate::suspicion::Suspicion;
use crate::table::Belief;

impl Membership {
    pub(super) fn hear(&mut self, step: &mut Step<'_>, claim: Claim) {
        match claim {
            Claim::Alive(member) if member.node == self.me.node => {
                self.hear_of_me(step, member.incarnation, false)
            }
            Claim::Alive(member) if !self.admits(&member.node) => {}
            Claim::Alive(member) => {
                let member = self.as_listed(member);
                self.hear_alive(step, member);
            }
            Claim::Suspected { node, incarnation, .. }
            | Claim::Down { node, incarnation }
            | Claim::Left { node, incarnation }
                if node.0 == self.me.node =>
            {
                self.hear_of_me(step, incarnation, true);
            }
            Claim::Suspected { node, incarnation, by } => {
                self.hear_suspected(step, node.0, incarnation, by.0)
            }
            Claim::Down { node, incarnation } => self.hear_gone(step, node.0, incarnation, Liveness::Down),
            Claim::Left { node, incarnation } => self.hear_gone(step, node.0, incarnation, Liveness::Left),
        }
    }

    /// A member is there. Only a later incarnation changes what is believed.
    pub(super) fn hear_alive(&mut self, step: &mut Step<'_>, member: Member) {
        let Some(record) = self.table.get_mut(&member.node) else { return self.meet(step, member) };
        if member.incarnation <= record.member.incarnation {
            return;
        }
        let old = std::mem::replace(&mut record.member, member.clone());
        let before = record.liveness();
        record.belief = Belief::Alive;
        if before.is_gone() {
            self.table.enter(member.node, &mut self.rng);
        }
        if old.address != member.address {
            self.known.moved(old.address, member.node);
        }
        self.note_known(step, &member);
        if before.is_gone() || old.incarnation.start != member.incarnation.start {
            step.push(Effect::Up(member.clone()));
        } else if before == Liveness::Suspected {
            step.push(Effect::Restored(member.node));
        }
        if !before.is_gone() && (old.metadata != member.metadata || old.address != member.address) {
            step.push(Effect::Changed(member.clone()));
        }
        self.broadcasts.push(Claim::Alive(member));
    }

    fn meet(&mut self, step: &mut Step<'_>, member: Member) {
        if !self.table.insert(member.clone(), &mut self.rng) {
            self.counters.members_refused = self.counters.members_refused.saturating_add(1);
            return;
        }
        self.note_known(step, &member);
        step.push(Effect::Up(member.clone()));
        self.broadcasts.push(Claim::Alive(member));
    }

    /// Somebody could not reach a member.
    pub(super) fn hear_suspected(
        &mut self,
        step: &mut Step<'_>,
        node: NodeId,
        incarnation: Incarnation,
        by: NodeId,
    ) {
        let waits = self.suspicion_waits();
        let confirmations = self.confirmations_max();
        let is_witness = by == self.me.node;
        let patience = if is_witness { std::time::Duration::ZERO } else { self.patience() };
        let Some(record) = self.table.get_mut(&node) else { return };
        if record.is_gone() || incarnation < record.member.incarnation {
            return;
        }
        let is_later = incarnation > record.member.incarnation;
        record.member.incarnation = incarnation;
        let is_news = match &mut record.belief {
            Belief::Suspected(suspicion) if !is_later => {
                if is_witness {
                    suspicion.witness();
                }
                suspicion.confirm(by) || is_witness
            }
            belief => {
                let is_new = !matches!(belief, Belief::Suspected(_));
                *belief = Belief::Suspected(Suspicion::new(by, step.now, waits, confirmations, patience));
                if is_new {
                    step.push(Effect::Suspected(node));
                }
                true
            }
        };
        if is_news {
            self.arm_suspicion(step, node);
            self.broadcasts.push(Claim::Suspected { node: Target(node), incarnation, by: Target(by) });
        }
    }

    /// A member is down or has left.
    pub(super) fn hear_gone(
        &mut self,
        step: &mut Step<'_>,
        node: NodeId,
        incarnation: Incarnation,
        how: Liveness,
    ) {
        let Some(record) = self.table.get_mut(&node) else { return };
        if incarnation < record.member.incarnation {
            return;
        }
        record.member.incarnation = incarnation;
        if record.is_gone() {
            return;
        }
        let target = Target(node);
        let address = record.member.address;
        let (belief, effect, claim) = match how {
            Liveness::Left => {
                (Belief::Left(step.now), Effect::Left(node), Claim::Left { node: target, incarnation })
            }
            _ => (Belief::Down(step.now), Effect::Down(node), Claim::Down { node: target, incarnation }),
        };
        record.belief = belief;
        self.table.leave(&node);
        self.known.lost(address, node, step.now);
        step.push(effect);
        self.broadcasts.push(claim);
    }

    /// A member answered a probe of our own: whatever was suspected, it is there.
    pub(super) fn restore(&mut self, step: &mut Step<'_>, node: NodeId) {
        let Some(record) = self.table.get_mut(&node) else { return };
        if matches!(record.belief, Belief::Suspected(_)) {
            record.belief = Belief::Alive;
            step.push(Effect::Restored(node));
            // Takes the place of the suspicion among the news.
            self.broadcasts.push(Claim::Alive(record.member.clone()));
        }
    }

    /// A word about this node itself: it alone knows better, and says so in a later incarnation.
    pub(super) fn hear_of_me(&mut self, step: &mut Step<'_>, incarnation: Incarnation, is_accused: bool) {
        let mine = self.me.incarnation;
        let is_stale = incarnation < mine || (incarnation == mine && !is_accused);
        if is_stale || self.phase != Phase::Running {
            return;
        }
        if incarnation.start > mine.start {
            // The cluster has met a later start than this one. Datagrams of this start count as replays there.
            let Some(start) = incarnation.start.checked_add(1) else { return };
            self.me.incarnation = Incarnation::at_start(start);
            self.broadcasts.push(Claim::Alive(self.me.clone()));
            step.push(Effect::StartRaised(start));
            return;
        }
        self.counters.refutations = self.counters.refutations.saturating_add(1);
        self.awareness.worsen(1);
        self.renew(incarnation);
    }

    /// Speaks for itself in an incarnation later than `than`.
    pub(super) fn renew(&mut self, than: Incarnation) {
        self.me.incarnation = self.me.incarnation.max(than).renewed();
        self.broadcasts.push(Claim::Alive(self.me.clone()));
    }

    /// The shortest and the longest suspicion, for a view of this size and this node's health.
    fn suspicion_waits(&self) -> (std::time::Duration, std::time::Duration) {
        let shortest = self.awareness.scale(self.settings.suspicion_min(self.size()));
        let times = u32::try_from(self.settings.suspicion_max_multiplier).unwrap_or(u32::MAX);
        (shortest, shortest.saturating_mul(times))
    }

    /// How many confirmations a suspicion may wait for: none when there are too few members to give them.
    fn confirmations_max(&self) -> usize {
        let wanted = usize::try_from(self.settings.suspicion_confirmations).unwrap_or(usize::MAX);
        let others = self.table.present().saturating_sub(1);
        if self.settings.is_health_aware && others >= wanted { wanted } else { 0 }
    }

    /// How much longer a suspicion that was only heard of lasts: long enough for those who saw it to probe
    /// once more and for their word to spread. So few probe a member that is really down.
    fn patience(&mut self) -> std::time::Duration {
        if !self.settings.is_health_aware {
            return std::time::Duration::ZERO;
        }
        let interval = self.settings.probe_interval();
        let drawn = interval.mul_f64(self.rng.f64());
        self.settings.probe_timeout().saturating_mul(2).saturating_add(interval).saturating_add(drawn)
    }

    pub(super) fn arm_suspicion(&mut self, step: &mut Step<'_>, node: NodeId) {
        let Some(record) = self.table.get(&node) else { return };
        if let Belief::Suspected(suspicion) = &record.belief {
            step.arm(Timer::Suspicion { node }, suspicion.deadline());
        }
    }
}
