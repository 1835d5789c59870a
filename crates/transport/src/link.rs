//! One side of a connection: what waits to be sent, and how much the peer will take.
//!
//! The receiver grants credit for messages it has handled; a sender never has more than a window of them
//! unhandled, and beyond that they wait here, in bounded space, until `Overloaded` is the answer.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;
use slipring_model::limits;
use slipring_wire::{Hello, Message};
use tokio::sync::Notify;

use crate::SendError;

/// Messages a peer may have been sent and not yet handled.
const CREDIT_WINDOW: u32 = 16 * 1024;

/// A connection with a peer.
pub(crate) struct Link {
    pub(crate) peer: Hello,
    /// Whether this node dialled.
    pub(crate) is_ours: bool,
    /// The version of the protocol that the two have agreed on.
    pub(crate) version: u8,
    queue: Mutex<Queue>,
    /// Messages of the peer handled here and not yet credited.
    handled: AtomicU32,
    is_closed: AtomicBool,
    pub(crate) work: Notify,
    pub(crate) closing: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
    outstanding: u32,
}

/// What can leave in one frame.
pub(crate) struct Outgoing {
    pub(crate) credit: u32,
    pub(crate) messages: Vec<Message>,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.messages.len() >= limits::PEER_QUEUE_MESSAGES_MAX || self.bytes >= limits::PEER_QUEUE_BYTES_MAX
    }
}

impl Link {
    pub(crate) fn new(peer: Hello, is_ours: bool, version: u8) -> Self {
        Self {
            peer,
            is_ours,
            version,
            queue: Mutex::default(),
            handled: AtomicU32::new(0),
            is_closed: AtomicBool::new(false),
            work: Notify::new(),
            closing: Notify::new(),
        }
    }

    pub(crate) fn push(&self, message: Message) -> Result<(), SendError> {
        let mut queue = self.queue.lock();
        // Under the lock: what is pushed later than the link closes would be missing from what it has not sent.
        if self.is_closed() {
            return Err(SendError::NotConnected);
        }
        if queue.is_full() {
            return Err(SendError::Overloaded);
        }
        queue.bytes += message.weight();
        queue.messages.push_back(message);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    /// Whether no more messages are taken now.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.lock().is_full()
    }

    /// Takes requests back that have not left yet; returns which of `ids` those were.
    pub(crate) fn withdraw(&self, ids: &BTreeSet<u64>) -> BTreeSet<u64> {
        let mut queue = self.queue.lock();
        let (mut withdrawn, mut bytes) = (BTreeSet::new(), 0);
        queue.messages.retain(|message| match message {
            Message::Request { id, .. } if ids.contains(id) => {
                withdrawn.insert(*id);
                bytes += message.weight();
                false
            }
            _ => true,
        });
        queue.bytes -= bytes;
        withdrawn
    }

    /// Closes the link; returns the ids of the requests that have not left.
    pub(crate) fn close_and_drain(&self) -> BTreeSet<u64> {
        self.close();
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        let request = |message| match message {
            Message::Request { id, .. } => Some(id),
            Message::Reply { .. } => None,
        };
        queue.messages.drain(..).filter_map(request).collect()
    }

    /// Takes what fits into one frame; `None` when there is nothing to say.
    pub(crate) fn take(&self) -> Option<Outgoing> {
        let mut queue = self.queue.lock();
        let mut messages = Vec::new();
        let mut bytes = 0;
        while queue.outstanding < CREDIT_WINDOW && messages.len() < limits::FRAME_MESSAGES_MAX {
            let Some(weight) = queue.messages.front().map(Message::weight) else { break };
            if !messages.is_empty() && bytes + weight > limits::FRAME_BYTES_MAX / 2 {
                break;
            }
            bytes += weight;
            queue.bytes -= weight;
            queue.outstanding += 1;
            messages.extend(queue.messages.pop_front());
        }
        let has_credit = self.handled.load(Ordering::Relaxed) >= CREDIT_WINDOW / 4;
        if messages.is_empty() && !has_credit {
            return None;
        }
        Some(Outgoing { credit: self.handled.swap(0, Ordering::Relaxed), messages })
    }

    /// The credit due now, for a frame that only shows that this node lives.
    pub(crate) fn take_credit(&self) -> u32 {
        self.handled.swap(0, Ordering::Relaxed)
    }

    /// The peer has handled `credit` messages.
    pub(crate) fn credited(&self, credit: u32) {
        let mut queue = self.queue.lock();
        queue.outstanding = queue.outstanding.saturating_sub(credit);
        let has_more = credit > 0 && !queue.messages.is_empty();
        drop(queue);
        if has_more {
            self.work.notify_one();
        }
    }

    /// This node has handled `count` messages of the peer.
    pub(crate) fn handled(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let before = self.handled.fetch_add(count, Ordering::Relaxed);
        if before.saturating_add(count) >= CREDIT_WINDOW / 4 {
            self.work.notify_one();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
        self.work.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use slipring_model::{NodeId, StorageId};
    use slipring_wire::{PROTOCOL_VERSION, PROTOCOL_VERSIONS, Reply};

    use super::*;

    fn link() -> Link {
        let peer = Hello {
            versions: PROTOCOL_VERSIONS,
            cluster: None,
            node: NodeId::default(),
            storage: StorageId::default(),
            incarnation: 1,
            boot: 1,
            peer_address: String::new(),
            is_question: false,
            redis_cluster_address: String::new(),
        };
        Link::new(peer, true, PROTOCOL_VERSION)
    }

    fn message(id: u64) -> Message {
        Message::Reply { id, reply: Reply::Done }
    }

    #[test]
    fn everything_that_waits_leaves_in_one_frame() {
        let link = link();
        (0..100).for_each(|id| link.push(message(id)).expect("room"));
        assert_eq!(link.take().expect("messages").messages.len(), 100);
        assert!(link.take().is_none());
    }

    #[test]
    fn a_sender_stops_at_its_window_and_goes_on_with_credit() {
        let link = link();
        (0..u64::from(CREDIT_WINDOW) + 5).for_each(|id| link.push(message(id)).expect("room"));
        let mut sent = 0;
        while let Some(outgoing) = link.take() {
            sent += outgoing.messages.len();
        }
        assert_eq!(sent, CREDIT_WINDOW as usize);
        link.credited(3);
        assert_eq!(link.take().expect("credit").messages.len(), 3);
    }

    #[test]
    fn a_full_queue_is_overloaded_and_a_closed_one_not_connected() {
        let link = link();
        (0..limits::PEER_QUEUE_MESSAGES_MAX as u64).for_each(|id| link.push(message(id)).expect("room"));
        assert_eq!(link.push(message(0)), Err(SendError::Overloaded));
        link.close();
        assert_eq!(link.push(message(0)), Err(SendError::NotConnected));
    }

    #[test]
    fn request_that_has_not_left_is_taken_back() {
        let link = link();
        let request = |id| Message::Request { id, request: slipring_wire::Request::Status };
        (1..=3).for_each(|id| link.push(request(id)).expect("room"));
        link.push(message(2)).expect("room");
        assert_eq!(link.withdraw(&BTreeSet::from([2, 9])), BTreeSet::from([2]));
        assert_eq!(link.take().expect("the rest").messages, [request(1), request(3), message(2)]);
        assert_eq!(link.withdraw(&BTreeSet::from([1])), BTreeSet::new(), "it has left");
        assert_eq!(link.queue.lock().bytes, 0);
    }

    #[test]
    fn closed_link_names_requests_that_have_not_left() {
        let link = link();
        let request = |id| Message::Request { id, request: slipring_wire::Request::Status };
        link.push(request(1)).expect("room");
        assert!(link.take().is_some());
        [request(2), message(3), request(4)].into_iter().for_each(|next| link.push(next).expect("room"));
        assert_eq!(link.close_and_drain(), BTreeSet::from([2, 4]));
        assert!(link.take().is_none());
    }

    #[test]
    fn credit_is_due_after_a_quarter_of_the_window() {
        let link = link();
        link.handled(CREDIT_WINDOW as usize / 4 - 1);
        assert!(link.take().is_none());
        link.handled(1);
        assert_eq!(link.take().expect("credit").credit, CREDIT_WINDOW / 4);
    }
}
