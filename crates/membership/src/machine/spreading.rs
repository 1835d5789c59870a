//! Spreading: gossip, comparing whole views, and leaving.

use std::net::SocketAddr;
use std::time::Duration;

use slipring_model::{Moment, NodeId};

use super::{Effect, Membership, Phase, Step, Timer};
use crate::message::{Claim, Message, Target, append};

/// Datagrams that one comparison may send; the next one goes on from another member.
const VIEW_DATAGRAMS_MAX: usize = 64;
/// Gossip intervals in which the word of a node that leaves is spread.
const LEAVING_INTERVALS: u32 = 10;

impl Membership {
    /// Sends news to a few members, if there are any, and looks whether leaving has been told for long enough.
    pub(super) fn gossip(&mut self, step: &mut Step<'_>) {
        if let Phase::Leaving { until } = self.phase
            && (self.broadcasts.is_empty() || self.table.present() == 0 || step.now >= until)
        {
            self.phase = Phase::Departed;
            step.push(Effect::Departed);
            return;
        }
        self.agenda.gossip = step.now.after(self.settings.gossip_interval());
        step.arm(Timer::Gossip, self.agenda.gossip);
        let fanout = usize::try_from(self.settings.gossip_fanout).unwrap_or(1);
        for node in self.table.pick(fanout, None, &mut self.rng) {
            let Some(address) = self.table.get(&node).map(|record| record.member.address) else { continue };
            if !self.broadcasts.is_empty() {
                self.send(step, address, Some(node), Message::Gossip);
            }
        }
    }

    /// Compares views with one member, and forgets those that have been gone for long, unless a roster names them.
    pub(super) fn pull(&mut self, step: &mut Step<'_>) {
        let interval = self.settings.pull_interval().mul_f64(0.75 + self.rng.f64() / 2.0);
        self.agenda.pull = step.now.after(interval);
        step.arm(Timer::Pull, self.agenda.pull);
        let kept = Duration::from_millis(self.settings.forget_after_ms);
        let age = u64::try_from(kept.as_micros()).unwrap_or(u64::MAX);
        let horizon = step.now.0.checked_sub(age).filter(|_| self.roster.is_none());
        if let Some(horizon) = horizon {
            self.table.forget_gone_before(Moment(horizon));
        }
        for node in self.table.pick(1, None, &mut self.rng) {
            let Some(address) = self.table.get(&node).map(|record| record.member.address) else { continue };
            self.ask_view(step, address, node, false);
        }
    }

    pub(super) fn ask_view(&mut self, step: &mut Step<'_>, to: SocketAddr, node: NodeId, is_answer: bool) {
        let digest = self.table.digest(self.me.node, self.me.incarnation);
        self.send(step, to, Some(node), Message::Pull { digest, is_answer });
    }

    pub(super) fn pulled(
        &mut self,
        step: &mut Step<'_>,
        to: SocketAddr,
        node: NodeId,
        digest: u64,
        is_answer: bool,
    ) {
        if digest == self.table.digest(self.me.node, self.me.incarnation) {
            return;
        }
        if !is_answer {
            self.ask_view(step, to, node, true);
        }
        self.send_view(step, to, node);
    }

    /// Sends all that is known, beginning with a member drawn at random, in a bounded number of datagrams.
    fn send_view(&mut self, step: &mut Step<'_>, to: SocketAddr, recipient: NodeId) {
        let mut claims: Vec<Claim> = Vec::new();
        for record in self.table.iter().filter(|record| record.member.node != recipient) {
            if !record.is_gone() && record.is_heard_of() {
                claims.push(Claim::Alive(record.member.clone()));
            }
            claims.extend(record.accusation(self.me.node));
        }
        let begin = if claims.is_empty() { 0 } else { self.rng.usize(..claims.len()) };
        claims.rotate_left(begin);
        let mut rest = claims.iter().peekable();
        for _ in 0..VIEW_DATAGRAMS_MAX {
            if rest.peek().is_none() {
                return;
            }
            let mut plain = self.envelope(Message::Gossip);
            while rest.next_if(|claim| append(&mut plain, claim)).is_some() {}
            self.dispatch(step, to, &plain);
        }
    }

    /// Tells a few members at once, and the others by gossip, that this node is gone for now.
    pub(super) fn leave(&mut self, step: &mut Step<'_>) {
        if self.phase != Phase::Running {
            return;
        }
        let until = step.now.after(self.settings.gossip_interval().saturating_mul(LEAVING_INTERVALS));
        self.phase = Phase::Leaving { until };
        self.me.incarnation = self.me.incarnation.renewed();
        let (node, incarnation) = (Target(self.me.node), self.me.incarnation);
        self.broadcasts.push(Claim::Left { node, incarnation });
        self.probes.clear();
        self.relays.clear();
        self.gossip(step);
    }
}
