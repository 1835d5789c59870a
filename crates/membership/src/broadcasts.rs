//! News waiting to be sent along with other messages: at most one piece per member, the least sent first.

use std::collections::{BTreeMap, BTreeSet};

use slipring_model::NodeId;

use crate::message::{Claim, append};

#[derive(Debug)]
struct Queued {
    claim: Claim,
    sent: u32,
    /// Later news go before earlier ones that were sent as often.
    order: u64,
}

/// The news a node passes on. When there are too many, those go that were sent most often.
#[derive(Debug)]
pub(crate) struct Broadcasts {
    pieces_max: usize,
    queued: BTreeMap<NodeId, Queued>,
    turns: BTreeSet<(u32, u64, NodeId)>,
    next_order: u64,
}

impl Broadcasts {
    pub(crate) fn new(pieces_max: usize) -> Self {
        Self { pieces_max, queued: BTreeMap::new(), turns: BTreeSet::new(), next_order: 0 }
    }

    pub(crate) fn push(&mut self, claim: Claim) {
        let node = claim.node();
        if let Some(old) = self.queued.remove(&node) {
            self.turns.remove(&(old.sent, old.order, node));
        }
        if self.queued.len() >= self.pieces_max
            && let Some((_, _, most_sent)) = self.turns.pop_last()
        {
            self.queued.remove(&most_sent);
        }
        self.enqueue(node, claim, 0);
    }

    /// Fills a plain text with news; each piece is dropped after `sends_max` times.
    pub(crate) fn fill(&mut self, plain: &mut Vec<u8>, sends_max: u32) {
        let mut sent = Vec::new();
        while let Some((times, order, node)) = self.turns.pop_first() {
            let Some(queued) = self.queued.remove(&node) else { continue };
            if !append(plain, &queued.claim) {
                self.turns.insert((times, order, node));
                self.queued.insert(node, queued);
                break;
            }
            sent.push((node, queued.claim, times.saturating_add(1)));
        }
        for (node, claim, times) in sent {
            if times < sends_max {
                self.enqueue(node, claim, times);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.queued.len()
    }

    fn enqueue(&mut self, node: NodeId, claim: Claim, sent: u32) {
        let order = u64::MAX - self.next_order;
        self.next_order = self.next_order.saturating_add(1);
        self.turns.insert((sent, order, node));
        self.queued.insert(node, Queued { claim, sent, order });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::Incarnation;
    use crate::message::{PLAIN_BYTES_MAX, Target};

    fn down(byte: u8, start: u64) -> Claim {
        Claim::Down { node: Target(NodeId([byte; 32])), incarnation: Incarnation::at_start(start) }
    }

    #[test]
    fn newer_news_of_a_member_replace_older_and_each_is_sent_so_often() {
        let mut broadcasts = Broadcasts::new(60);
        broadcasts.push(down(1, 1));
        broadcasts.push(down(1, 2));
        assert_eq!(broadcasts.len(), 1);
        let mut plain = Vec::new();
        broadcasts.fill(&mut plain, 2);
        assert_eq!(plain, postcard::to_allocvec(&down(1, 2)).unwrap());
        broadcasts.fill(&mut plain, 2);
        assert!(broadcasts.is_empty());
        assert!(broadcasts.turns.is_empty());
    }

    #[test]
    fn what_does_not_fit_goes_first_in_the_next_datagram() {
        let mut broadcasts = Broadcasts::new(60);
        (0..60).for_each(|byte| broadcasts.push(down(byte, 1)));
        let mut first = Vec::new();
        broadcasts.fill(&mut first, 9);
        assert!(first.len() <= PLAIN_BYTES_MAX && first.len() > PLAIN_BYTES_MAX - 40);
        let mut second = Vec::new();
        broadcasts.fill(&mut second, 9);
        let each = postcard::to_allocvec(&down(0, 1)).unwrap();
        let left = postcard::to_allocvec(&down(59 - u8::try_from(first.len() / each.len()).unwrap(), 1));
        assert!(second.starts_with(&left.unwrap()));
        assert_eq!(broadcasts.len(), 60, "what was sent once stays until it was sent often enough");
        broadcasts.push(down(99, 1));
        assert_eq!(broadcasts.len(), 60, "the number of pieces is bounded");
    }
}
