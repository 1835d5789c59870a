//! One replica: cells in memory and on disk, hints, and those who wait for the disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use slipring_model::{Actor, BucketId, Dot, NodeId, Position, Timestamp, VersionVector};
use slipring_replication::{Hint, PageEntry, root_of};
use slipring_service::{Cell, Change};

use super::network::Key;

const BUCKET: BucketId = BucketId(0);

/// What a crash takes away and what it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Store {
    cells: BTreeMap<Key, Bytes>,
    hints: BTreeSet<Vec<u8>>,
}

/// Who is told once everything here is on disk.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// A write that this replica coordinates.
    Write { request: u64 },
    /// A peer that sent a cell.
    Peer { to: usize, request: u64, key: Key, repair: u64 },
}

/// A replica.
pub(super) struct Replica {
    number: usize,
    pub(super) is_up: bool,
    incarnation: u64,
    counter: u64,
    last_stamp: Timestamp,
    skew: u64,
    memory: Store,
    disk: Store,
    pub(super) waiters: Vec<Waiter>,
    /// Per key, all that this replica has ever held, whatever it has lost since.
    held: BTreeMap<Key, VersionVector>,
}

pub(super) fn node(replica: usize) -> NodeId {
    NodeId([replica as u8 + 1; 32])
}

pub(super) fn replica_of(node: NodeId) -> usize {
    usize::from(node.0.first().copied().unwrap_or(1)) - 1
}

pub(super) fn decode(bytes: &[u8]) -> Cell<'_> {
    Cell::decode(bytes).expect("a game's own cells are whole")
}

impl Replica {
    pub(super) fn new(number: usize, skew: u64) -> Self {
        Self {
            number,
            is_up: true,
            incarnation: 1,
            counter: 0,
            last_stamp: Timestamp(0),
            skew,
            memory: Store::default(),
            disk: Store::default(),
            waiters: Vec::new(),
            held: BTreeMap::new(),
        }
    }

    pub(super) fn cell(&self, key: Key) -> Option<&Bytes> {
        self.memory.cells.get(&key)
    }

    pub(super) fn own(&self, key: Key) -> Option<(Bytes, u64)> {
        self.cell(key).map(|bytes| (bytes.clone(), decode(bytes).digest()))
    }

    /// Whether the disk holds the write of a dot or what has seen it.
    pub(super) fn is_durable(&self, key: Key, dot: Dot) -> bool {
        self.disk.cells.get(&key).is_some_and(|bytes| decode(bytes).context.covers(dot))
    }

    /// Whether this replica holds, or held before it lost it, all that `context` has seen.
    pub(super) fn has_held(&self, key: Key, context: &VersionVector) -> bool {
        self.held.get(&key).is_some_and(|held| held.descends(context))
    }

    /// Applies a change of a client; the dot it got and the cell it made.
    pub(super) fn change(&mut self, key: Key, change: &Change, now: u64) -> (Dot, Bytes) {
        let before = self.cell(key).cloned().unwrap_or_default();
        let cell = if before.is_empty() { Cell::default() } else { decode(&before) };
        let stamp = Timestamp::next(now + self.skew, self.last_stamp, cell.last_stamp());
        self.counter += 1;
        self.last_stamp = stamp;
        let actor = Actor { assignment: self.number as u64 + 1, incarnation: self.incarnation };
        let dot = Dot { actor, counter: self.counter };
        let cell = cell.changed(change, dot, stamp);
        let bytes = self.keep(key, &cell);
        (dot, bytes)
    }

    /// Merges a cell; whether nothing that was here is forgotten.
    pub(super) fn merge(&mut self, key: Key, theirs: &Bytes) -> bool {
        let before = self.cell(key).cloned();
        let ours = before.as_deref().map_or_else(Cell::default, decode);
        let seen = ours.context.clone();
        let merged = ours.merge(decode(theirs));
        let grows = merged.context.descends(&seen);
        self.keep(key, &merged);
        grows
    }

    fn keep(&mut self, key: Key, cell: &Cell<'_>) -> Bytes {
        let mut bytes = Vec::new();
        cell.encode(&mut bytes);
        let bytes = Bytes::from(bytes);
        self.held.entry(key).or_default().join(&cell.context);
        self.memory.cells.insert(key, bytes.clone());
        bytes
    }

    /// Everything in memory reaches the disk; who waited for it.
    pub(super) fn sync(&mut self) -> Vec<Waiter> {
        self.disk.clone_from(&self.memory);
        std::mem::take(&mut self.waiters)
    }

    /// Dies; with `loses_power` what had not reached the disk is gone.
    pub(super) fn crash(&mut self, loses_power: bool) {
        self.is_up = false;
        self.waiters.clear();
        if loses_power {
            self.memory.clone_from(&self.disk);
        }
    }

    pub(super) fn start(&mut self) {
        self.is_up = true;
        self.incarnation += 1;
        (self.counter, self.last_stamp) = (0, Timestamp(0));
    }

    pub(super) fn add_hint(&mut self, target: NodeId, key: Key) {
        self.memory.hints.insert(Hint::record_key(target, BUCKET, &[key]));
    }

    pub(super) fn remove_hint(&mut self, target: NodeId, key: Key) {
        self.memory.hints.remove(&Hint::record_key(target, BUCKET, &[key]));
    }

    /// The hint at a place of the log: its target and its key.
    pub(super) fn hint(&self, place: usize) -> Option<(NodeId, Key)> {
        let hint = Hint::from_record_key(self.memory.hints.iter().nth(place)?)?;
        Some((hint.target, *hint.key.first()?))
    }

    pub(super) fn hint_count(&self) -> usize {
        self.memory.hints.len()
    }

    /// What this replica holds, in the order of exchanges.
    pub(super) fn page(&self) -> Vec<PageEntry<Vec<u8>>> {
        let entry = |(key, bytes): (&Key, &Bytes)| PageEntry {
            position: Position::of(&[*key]),
            key: vec![*key],
            digest: decode(bytes).digest(),
        };
        let mut page: Vec<_> = self.memory.cells.iter().map(entry).collect();
        page.sort_by(|left, right| (left.position, &left.key).cmp(&(right.position, &right.key)));
        page
    }

    pub(super) fn root(&self) -> u128 {
        self.page().iter().fold(0, |sum, entry| sum.wrapping_add(root_of(&entry.key, entry.digest)))
    }

    pub(super) fn cells(&self) -> &BTreeMap<Key, Bytes> {
        &self.memory.cells
    }
}
