//! Known peers: tried for ever while they are gone, kept over restarts.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Effect, Membership, Step, Timer};
use crate::known::KnownPeer;
use crate::member::{Incarnation, Member};
use crate::message::Message;

/// Peers tried at one time; the others follow shortly after.
const TRIES_AT_ONCE_MAX: usize = 16;
/// How long the list may have changed before it is kept.
const PERSIST_AFTER: Duration = Duration::from_secs(5);

impl Membership {
    pub(super) fn learn(&mut self, step: &mut Step<'_>, address: SocketAddr) {
        if address != self.me.address {
            self.known.learn(KnownPeer { address, node: None, seen_unix_ms: 0 }, step.now);
        }
    }

    /// A datagram of a member has come: unless it is believed gone, it is seen.
    pub(super) fn seen(&mut self, step: &Step<'_>, member: &Member) {
        if self.is_alive(&member.node) {
            self.note_known(step, member);
        }
    }

    pub(super) fn note_known(&mut self, step: &Step<'_>, member: &Member) {
        let unix_ms = self.zero_unix_ms.saturating_add(step.now.0 / 1_000);
        self.known.seen(member.address, member.node, unix_ms);
    }

    /// Pings the peers whose time has come. The ping tells them what is believed of them, which they will refute;
    /// it is meant for whoever is there now.
    pub(super) fn rejoin(&mut self, step: &mut Step<'_>) {
        self.agenda.rejoin = None;
        for (address, node) in self.known.take_due(step.now, TRIES_AT_ONCE_MAX, &mut self.rng) {
            let token = self.rng.u64(..);
            let incarnation = Incarnation::default();
            self.send(step, address, node, Message::Ping { token, target: None, incarnation });
        }
    }

    pub(super) fn persist(&mut self, step: &mut Step<'_>) {
        self.agenda.persist = None;
        if let Some(list) = self.known.take_changed() {
            step.push(Effect::Persist(list));
        }
    }

    /// Arms the timers that follow from the list, where none is armed for as early a moment.
    pub(super) fn schedule_known(&mut self, step: &mut Step<'_>) {
        if self.known.is_changed() && self.agenda.persist.is_none() {
            let at = step.now.after(PERSIST_AFTER);
            self.agenda.persist = Some(at);
            step.arm(Timer::Persist, at);
        }
        let Some(due) = self.known.next_due() else { return };
        // Not at once, so that many peers due together are tried in turn.
        let due = due.max(step.now.after(Duration::from_millis(10)));
        if self.agenda.rejoin.is_none_or(|at| due < at) {
            self.agenda.rejoin = Some(due);
            step.arm(Timer::Rejoin, due);
        }
    }
}
