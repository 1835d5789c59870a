//! Messages under way between replicas: a bag from which any may be drawn next.

use bytes::Bytes;
use slipring_replication::PageEntry;

/// Keys are small numbers; even ones are registers, odd ones counters.
pub(super) type Key = u8;

/// The most messages under way; more are lost, as by a full queue.
const MESSAGES_MAX: usize = 256;

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The request it belongs to; the number is used once.
    pub(super) request: u64,
    pub(super) key: Key,
    pub(super) body: Body,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    /// Takes a cell over; what repairs is numbered, so that a copy of an old reply is not one to a new repair:
    /// a connection answers each request once.
    Store {
        cell: Bytes,
        repair: u64,
    },
    Stored {
        repair: u64,
    },
    Digest,
    Digested(Option<u64>),
    Fetch,
    Fetched(Option<Bytes>),
    Page(Vec<PageEntry<Vec<u8>>>),
    Compared {
        wanted: Vec<Key>,
        cells: Vec<(Key, Bytes)>,
    },
}

/// What is under way.
#[derive(Default)]
pub(super) struct Bag(Vec<Message>);

impl Bag {
    pub(super) fn put(&mut self, message: Message) {
        if self.0.len() < MESSAGES_MAX {
            self.0.push(message);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Draws a message; a copy of it stays when `is_twice`.
    pub(super) fn draw(&mut self, place: usize, is_twice: bool) -> Option<Message> {
        if is_twice {
            return self.0.get(place).cloned();
        }
        (place < self.0.len()).then(|| self.0.swap_remove(place))
    }

    /// Loses everything between two replicas.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.0.retain(|message| (message.from, message.to) != (a, b) && (message.from, message.to) != (b, a));
    }
}
