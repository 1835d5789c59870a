//! The roster: who may be a member, as the layout says, and where each is reached.
//!
//! Invariant: with a roster, the view holds nobody who is not in it, and each member at the roster's address if
//! it has one. Somebody of whom no word has come yet is held in incarnation 0, so that any word of its own wins.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use slipring_model::NodeId;

use super::{Effect, Membership, Step};
use crate::known::KnownPeer;
use crate::member::{Incarnation, Member, Metadata};
use crate::message::Message;
use crate::table::Belief;

impl Membership {
    /// Whether somebody may be a member.
    pub(super) fn admits(&self, node: &NodeId) -> bool {
        self.roster.as_ref().is_none_or(|roster| roster.contains_key(node))
    }

    /// A member with the address that the roster has of it: its own word may be true for itself alone.
    pub(super) fn as_listed(&self, member: Member) -> Member {
        let listed = self.roster.as_ref().and_then(|roster| roster.get(&member.node).copied().flatten());
        Member { address: listed.unwrap_or(member.address), ..member }
    }

    pub(super) fn change_roster(
        &mut self,
        step: &mut Step<'_>,
        roster: BTreeMap<NodeId, Option<SocketAddr>>,
    ) {
        let out: Vec<NodeId> = self
            .table
            .iter()
            .map(|record| record.member.node)
            .filter(|node| !roster.contains_key(node))
            .collect();
        for node in out {
            self.table.remove(&node);
            self.probes.retain(|_, probe| probe.target() != node);
        }
        self.known.retain(|node| roster.contains_key(node));
        for (node, address) in &roster {
            if let Some(address) = address.filter(|_| *node != self.me.node) {
                self.list(step, *node, address);
            }
        }
        self.roster = Some(roster);
    }

    /// Makes sure that a node of the roster is in the view, at this address, and tries it when it is new there.
    fn list(&mut self, step: &Step<'_>, node: NodeId, address: SocketAddr) {
        match self.table.get_mut(&node) {
            Some(record) if record.member.address == address => return,
            Some(record) => {
                let old = std::mem::replace(&mut record.member.address, address);
                self.known.moved(old, node);
            }
            None => {
                let incarnation = Incarnation::default();
                let member = Member { node, address, incarnation, metadata: Metadata::default() };
                if !self.table.insert(member, &mut self.rng) {
                    self.counters.members_refused = self.counters.members_refused.saturating_add(1);
                    return;
                }
            }
        }
        self.known.learn(KnownPeer { address, node: Some(node), seen_unix_ms: 0 }, step.now);
    }

    /// A stream with a member has come about. The ping lets it hear what was believed of it, and say otherwise to
    /// all; where datagrams do not get through, it is here alone that it counts as back.
    pub(super) fn met_by_stream(&mut self, step: &mut Step<'_>, node: NodeId) {
        let Some(record) = self.table.get(&node) else { return };
        let (member, is_gone) = (record.member.clone(), record.is_gone());
        if !is_gone {
            return self.restore(step, node);
        }
        let token = self.rng.u64(..);
        let ping = Message::Ping { token, target: None, incarnation: Incarnation::default() };
        self.send(step, member.address, Some(node), ping);
        if let Some(record) = self.table.get_mut(&node) {
            record.belief = Belief::Alive;
        }
        self.table.enter(node, &mut self.rng);
        self.note_known(step, &member);
        step.push(Effect::Up(member));
    }
}
