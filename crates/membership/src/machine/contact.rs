//! Datagrams in and out: opening, replays, the sender's word for itself, answers.

use std::net::SocketAddr;

use slipring_model::NodeId;

use super::{Effect, Membership, Phase, Step};
use crate::member::Liveness;
use crate::message::{Claim, DATAGRAM_BYTES_MAX, Envelope, Message, append};
use crate::seal::SealError;

/// Views asked for on first contact, at most so many per interval between ordinary comparisons: many nodes that
/// start at once learn of each other by gossip.
const CONTACTS_PER_PULL: u32 = 6;

impl Membership {
    pub(super) fn datagram(&mut self, step: &mut Step<'_>, from: SocketAddr, bytes: &[u8]) {
        let Some((mut envelope, claims)) = self.open(bytes) else { return };
        let sender = envelope.from.node;
        if !self.admits(&sender) {
            self.counters.dropped_strangers = self.counters.dropped_strangers.saturating_add(1);
            return step.push(Effect::Stranger(envelope.from));
        }
        envelope.from = self.as_listed(envelope.from);
        if sender == self.me.node || !self.is_new(&envelope) {
            self.counters.dropped_replayed = self.counters.dropped_replayed.saturating_add(1);
            return;
        }
        self.counters.received = self.counters.received.saturating_add(1);
        let was_gone = self.table.get(&sender).is_none_or(crate::table::Record::is_gone);
        self.hear_alive(step, envelope.from.clone());
        self.seen(step, &envelope.from);
        for claim in claims {
            self.hear(step, claim);
        }
        if self.phase != Phase::Running {
            return;
        }
        self.answer(step, from, sender, envelope.message);
        self.met(step, sender, envelope.from.address, was_gone);
    }

    fn open(&mut self, bytes: &[u8]) -> Option<(Envelope, Vec<Claim>)> {
        let counters = &mut self.counters;
        let opened =
            if bytes.len() > DATAGRAM_BYTES_MAX { Err(SealError::Length) } else { self.keys.open(bytes) };
        let dropped = match opened {
            Ok(plain) => match Envelope::decode(&plain) {
                Ok(read) => return Some(read),
                Err(_) => &mut counters.dropped_malformed,
            },
            Err(SealError::Length) => &mut counters.dropped_length,
            Err(SealError::Version) => &mut counters.dropped_version,
            Err(SealError::Forged) => &mut counters.dropped_forged,
        };
        *dropped = dropped.saturating_add(1);
        None
    }

    /// Whether a datagram is no replay. What is known of the sender's start counts even without a window.
    fn is_new(&mut self, envelope: &Envelope) -> bool {
        let (node, start) = (envelope.from.node, envelope.from.incarnation.start);
        let known = self.table.get(&node).map(|record| record.member.incarnation.start);
        if known.is_some_and(|known| start < known) {
            return false;
        }
        if known.is_none()
            && u64::try_from(self.replays.len()).unwrap_or(u64::MAX) >= self.settings.members_max
        {
            let table = &self.table;
            self.replays.retain(|sender| table.get(sender).is_some());
        }
        self.replays.accept(node, start, envelope.counter)
    }

    fn answer(&mut self, step: &mut Step<'_>, from: SocketAddr, sender: NodeId, message: Message) {
        match message {
            Message::Ping { target: Some(target), .. } if target.0 != self.me.node => {}
            Message::Ping { token, target, incarnation } => {
                if target.is_some() {
                    self.hear_of_me(step, incarnation, false);
                }
                self.send(step, from, Some(sender), Message::Ack { token });
            }
            Message::PingRequest { token, target } => self.ping_for(step, (from, sender), token, target.0),
            Message::Ack { token } => self.acked(step, token),
            Message::Nack { token } => self.nacked(token),
            Message::Gossip => {}
            Message::Pull { digest, is_answer } => self.pulled(step, from, sender, digest, is_answer),
        }
    }

    /// After a word of a member: one that is believed gone is told so, one that is new is asked what it knows.
    fn met(&mut self, step: &mut Step<'_>, sender: NodeId, address: SocketAddr, was_gone: bool) {
        match self.liveness(&sender) {
            Some(Liveness::Down) => self.send(step, address, Some(sender), Message::Gossip),
            Some(Liveness::Alive) if was_gone && step.now >= self.agenda.quiet => {
                self.agenda.quiet = step.now.after(self.settings.pull_interval() / CONTACTS_PER_PULL);
                self.ask_view(step, address, sender, false);
            }
            _ => {}
        }
    }

    /// Sends a message, with news in what is left of its datagram. What the recipient must know of itself goes first.
    pub(super) fn send(
        &mut self,
        step: &mut Step<'_>,
        to: SocketAddr,
        recipient: Option<NodeId>,
        message: Message,
    ) {
        let mut plain = self.envelope(message);
        let record = recipient.and_then(|node| self.table.get(&node));
        if let Some(accusation) = record.and_then(|record| record.accusation(self.me.node)) {
            append(&mut plain, &accusation);
        }
        self.broadcasts.fill(&mut plain, self.settings.retransmits(self.size()));
        self.dispatch(step, to, &plain);
    }

    /// The beginning of a plain text; its counter is used up.
    pub(super) fn envelope(&mut self, message: Message) -> Vec<u8> {
        self.counter = self.counter.saturating_add(1);
        Envelope { counter: self.counter, from: self.me.clone(), message }.encode()
    }

    /// Seals and sends a plain text made since the last one.
    pub(super) fn dispatch(&mut self, step: &mut Step<'_>, to: SocketAddr, plain: &[u8]) {
        let mut nonce = [0; 12];
        let parts = self.session.into_iter().chain(self.counter.to_be_bytes());
        nonce.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
        self.counters.sent = self.counters.sent.saturating_add(1);
        step.push(Effect::Send { to, bytes: self.keys.seal(nonce, plain) });
    }
}
