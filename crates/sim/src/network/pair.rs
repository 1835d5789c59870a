//! A pair of hosts and their connection: two sides, 0 the lower host's and 1 the higher's.
//!
//! Invariant: a new connection begins only when both sides of the old one have ended.

use std::collections::VecDeque;

use bytes::Bytes;
use slipring_model::{ClusterId, NodeId, limits};
use slipring_wire::{Frame, Message};

/// How often an address is dialled at which another node answers.
const DIAL_EVERY_MS: u64 = 400;

/// Two hosts.
#[derive(Default)]
pub(super) struct Pair {
    sides: [Side; 2],
    redial_at: u64,
    /// When one of the two dials the other's address in vain once more.
    dial_at: u64,
}

/// One host's end of the connection.
#[derive(Default)]
struct Side {
    is_up: bool,
    peer: NodeId,
    heard_at: u64,
    /// When it learns that the other side has ended.
    notice_at: Option<u64>,
    /// Said, and not sent off yet.
    outgoing: Vec<Message>,
    /// On the way to this side, with the time of arrival.
    incoming: VecDeque<(u64, Bytes)>,
    /// Likewise, in no order: frames that come a second time.
    echoes: Vec<(u64, Bytes)>,
}

impl Pair {
    pub(super) fn is_up(&self, side: usize) -> bool {
        self.side(side).is_up
    }

    /// Whether a new connection may begin.
    pub(super) fn is_free(&self, now: u64) -> bool {
        !self.is_up(0) && !self.is_up(1) && now >= self.redial_at
    }

    pub(super) fn open(&mut self, now: u64, low: NodeId, high: NodeId) {
        let side = |peer| Side { is_up: true, peer, heard_at: now, ..Side::default() };
        self.sides = [side(high), side(low)];
    }

    /// Whether it is time to dial an address in vain; begins the rest until the next time.
    pub(super) fn is_dial_due(&mut self, now: u64) -> bool {
        let is_due = now >= self.dial_at;
        if is_due {
            self.dial_at = now + DIAL_EVERY_MS;
        }
        is_due
    }

    /// No new connection begins before this.
    pub(super) fn redial_at(&mut self, at: u64) {
        self.redial_at = self.redial_at.max(at);
    }

    /// Ends one side; how many frames are lost with it.
    pub(super) fn end(&mut self, side: usize) -> usize {
        let ended = std::mem::take(self.side_mut(side));
        ended.incoming.len() + usize::from(!ended.outgoing.is_empty())
    }

    pub(super) fn peer(&self, side: usize) -> NodeId {
        self.side(side).peer
    }

    pub(super) fn heard(&mut self, side: usize, now: u64) {
        self.side_mut(side).heard_at = now;
    }

    pub(super) fn heard_at(&self, side: usize) -> u64 {
        self.side(side).heard_at
    }

    /// Whether the news that the other side has ended has arrived; it sets out when first asked for.
    pub(super) fn is_notice_due(&mut self, side: usize, now: u64, arrives_at: u64) -> bool {
        *self.side_mut(side).notice_at.get_or_insert(arrives_at) <= now
    }

    /// Frames that have reached a side.
    pub(super) fn arrived(&mut self, side: usize, now: u64) -> Vec<Bytes> {
        let Side { incoming, echoes, .. } = self.side_mut(side);
        let count = incoming.iter().take_while(|(due, _)| *due <= now).count();
        let again = echoes.extract_if(.., |(due, _)| *due <= now);
        incoming.drain(..count).chain(again).map(|(_, bytes)| bytes).collect()
    }

    /// Lets what a side has said come once more, at `due`.
    pub(super) fn echo(&mut self, side: usize, due: u64, bytes: Bytes) {
        let other = self.side_mut(1 - side);
        if other.is_up {
            other.echoes.push((due, bytes));
        }
    }

    /// Whether a side has said something that is not sent off yet.
    pub(super) fn is_speaking(&self, side: usize) -> bool {
        !self.side(side).outgoing.is_empty()
    }

    /// Keeps a message until its host's turn is over.
    pub(super) fn push(&mut self, side: usize, message: Message) {
        self.side_mut(side).outgoing.push(message);
    }

    /// Sends off what a side has said as one frame, to arrive at `due` or right after the frame before it.
    pub(super) fn send(&mut self, side: usize, cluster: ClusterId, due: u64) -> Option<Bytes> {
        let outgoing = &mut self.side_mut(side).outgoing;
        let count = outgoing.len().min(limits::FRAME_MESSAGES_MAX);
        let messages: Vec<Message> = outgoing.drain(..count).collect();
        if messages.is_empty() {
            return None;
        }
        let bytes = Frame::new(cluster, 0, messages).encode();
        let other = self.side_mut(1 - side);
        if other.is_up {
            let due = other.incoming.back().map_or(due, |(last, _)| due.max(*last));
            other.incoming.push_back((due, bytes.clone()));
        }
        Some(bytes)
    }

    fn side(&self, side: usize) -> &Side {
        self.sides.get(side).expect("a pair has two sides")
    }

    fn side_mut(&mut self, side: usize) -> &mut Side {
        self.sides.get_mut(side).expect("a pair has two sides")
    }
}

#[cfg(test)]
mod tests {
    use slipring_wire::Reply;

    use super::*;

    fn open() -> Pair {
        let mut pair = Pair::default();
        pair.open(0, NodeId([1; 32]), NodeId([2; 32]));
        pair
    }

    fn say(pair: &mut Pair, id: u64, due: u64) -> Bytes {
        pair.push(0, Message::Reply { id, reply: Reply::Done });
        pair.send(0, ClusterId::default(), due).expect("a frame")
    }

    #[test]
    fn frames_arrive_in_order_though_a_later_one_was_faster() {
        let mut pair = open();
        let (first, second) = (say(&mut pair, 1, 9), say(&mut pair, 2, 4));
        assert!(pair.arrived(1, 8).is_empty());
        assert_eq!(pair.arrived(1, 9), [first, second]);
    }

    #[test]
    fn a_new_connection_waits_for_both_ends_and_brings_nothing_old() {
        let mut pair = open();
        say(&mut pair, 1, 5);
        pair.redial_at(10);
        assert_eq!(pair.end(1), 1, "the frame on the way is lost");
        assert!(!pair.is_free(10));
        pair.end(0);
        assert!(!pair.is_free(9) && pair.is_free(10));
        pair.open(10, NodeId([1; 32]), NodeId([2; 32]));
        assert!(pair.arrived(1, 99).is_empty());
    }

    #[test]
    fn an_echo_comes_late_and_not_into_the_next_connection() {
        let mut pair = open();
        let (first, second) = (say(&mut pair, 1, 5), say(&mut pair, 2, 7));
        pair.echo(0, 6, first.clone());
        pair.echo(0, 9, first.clone());
        assert_eq!(pair.arrived(1, 5), std::slice::from_ref(&first));
        assert_eq!(pair.arrived(1, 8), [second, first]);
        pair.end(0);
        pair.end(1);
        pair.open(10, NodeId([1; 32]), NodeId([2; 32]));
        assert!(pair.arrived(1, 99).is_empty());
    }
}
