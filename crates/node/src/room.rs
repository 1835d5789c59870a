//! Room: how much the stores of this node and of its peers still take, and what follows from that.
//!
//! A node whose disk or memory is full stays, and reads go on. It tells its peers, so that they hand writes to
//! replicas with room and refuse what too few have room for before anything is done. Where room comes back, the
//! copies are compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::bucket::EngineKind;
use slipring_model::{NodeId, Room, Space};
use slipring_replication::Quorums;
use slipring_wire::{Message, Request};
use tokio::sync::Notify;

use crate::core::Core;
use crate::view::Place;

/// How often the room is measured.
const INTERVAL: Duration = Duration::from_millis(250);
/// Measurements after which peers are told again while room is scarce: a message may have been lost.
const TELL_EVERY: u32 = 4;

/// The room of one node's stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stores {
    disk: Room,
    memory: Room,
}

impl Stores {
    fn of(self, engine: EngineKind) -> Room {
        match engine {
            EngineKind::Disk => self.disk,
            EngineKind::Memory => self.memory,
        }
    }
}

/// What this node knows of the room of its peers, and has told them of its own.
#[derive(Default)]
pub(crate) struct Rooms {
    /// Of those with ample room nothing is kept.
    peers: Mutex<BTreeMap<NodeId, Stores>>,
    /// Whether there are any: most writes need to know no more.
    has_scarce: AtomicBool,
    told: Mutex<Stores>,
    wake: Notify,
}

impl Rooms {
    /// A copy or a write was refused: peers should know soon.
    pub(crate) fn refused(&self) {
        self.wake.notify_one();
    }

    /// Notes what a peer told; whether it has more room than before.
    fn heard(&self, peer: NodeId, stores: Stores) -> bool {
        let mut peers = self.peers.lock();
        let before = match stores == Stores::default() {
            true => peers.remove(&peer),
            false => peers.insert(peer, stores),
        };
        self.has_scarce.store(!peers.is_empty(), Ordering::Release);
        let before = before.unwrap_or_default();
        stores.disk < before.disk || stores.memory < before.memory
    }

    fn of(&self, peer: NodeId, engine: EngineKind) -> Room {
        self.peers.lock().get(&peer).copied().unwrap_or_default().of(engine)
    }
}

impl Core {
    /// Measures the room and tells peers of changes, until shutdown.
    pub(crate) async fn run_room_watch(self: Arc<Self>) {
        for turn in (0..TELL_EVERY).cycle() {
            tokio::select! {
                biased;
                () = self.rooms.wake.notified() => tokio::time::sleep(INTERVAL / 10).await,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let disk = Arc::clone(&self.disk);
            match self.syncer.on_disk(move || disk.look()).await {
                Ok(false) => {}
                Ok(true) => self.disk_took_writes_again(),
                Err(error) => {
                    tracing::warn!(%error, "the disk has room and files are free, but the store cannot be opened again yet")
                }
            }
            self.tell_room(turn == 0);
        }
    }

    fn disk_took_writes_again(&self) {
        tracing::info!("the disk has room and files are free: the store was opened again, and writes go on");
        let Some(view) = self.view() else { return };
        let on_disk = view.buckets().filter(|bucket| bucket.bucket.policy.engine == EngineKind::Disk);
        on_disk.for_each(|bucket| bucket.bucket.doubt());
        self.syncer.mark_dirty();
    }

    fn tell_room(&self, is_reminder: bool) {
        let now = Stores { disk: self.disk.space().room, memory: self.memory.space().room };
        let before = std::mem::replace(&mut *self.rooms.told.lock(), now);
        if now == before && !(is_reminder && now != Stores::default()) {
            return;
        }
        for (what, before, now) in [("disk", before.disk, now.disk), ("memory", before.memory, now.memory)] {
            match now {
                now if now == before => {}
                Room::Ample => tracing::info!("the {what} has room again: every write is taken"),
                Room::Scarce => {
                    tracing::warn!("the {what} has little room: only deletions are taken, and reads go on")
                }
                Room::Spent => tracing::error!("the {what} is full: no write is taken; reads go on"),
            }
        }
        let Some(view) = self.view() else { return };
        let has_more = now.disk < before.disk || now.memory < before.memory;
        for peer in view.layout.nodes().keys().filter(|node| **node != self.me) {
            self.send_room(*peer, now);
            if has_more {
                self.recovery.met(*peer);
            }
        }
    }

    /// A peer is connected: nothing is known of its room until it tells.
    pub(crate) fn room_of_new_connection(&self, peer: NodeId) {
        self.rooms.heard(peer, Stores::default());
        let own = *self.rooms.told.lock();
        if own != Stores::default() {
            self.send_room(peer, own);
        }
    }

    fn send_room(&self, to: NodeId, Stores { disk, memory }: Stores) {
        // It is told again, and a peer that is away asks nothing of this node.
        let _ = self.send(to, Message::Request { id: 0, request: Request::Room { disk, memory } });
    }

    /// Notes what a member told of its room.
    pub(crate) fn heard_room(&self, from: NodeId, disk: Room, memory: Room) {
        let is_member = self.view().is_some_and(|view| view.layout.nodes().contains_key(&from));
        if is_member && self.rooms.heard(from, Stores { disk, memory }) {
            self.recovery.met(from);
            self.hints.wake();
        }
    }

    /// Whether a node takes every write to buckets of this kind, as far as it is known here.
    pub(crate) fn has_room(&self, node: NodeId, engine: EngineKind) -> bool {
        if node == self.me {
            let store = if engine == EngineKind::Disk { &self.disk } else { &self.memory };
            return store.room(0) == Room::Ample;
        }
        !self.rooms.has_scarce.load(Ordering::Acquire) || self.rooms.of(node, engine) == Room::Ample
    }

    /// What so many others as a write needs have room for.
    pub(crate) fn room_of_others(&self, engine: EngineKind, needed: &Quorums) -> Room {
        if !self.rooms.has_scarce.load(Ordering::Acquire) {
            return Room::Ample;
        }
        let rooms = [Room::Ample, Room::Scarce];
        let takes = |node: NodeId, room: Room| {
            node == self.me || self.is_reachable(node) && self.rooms.of(node, engine) <= room
        };
        let enough = rooms.into_iter().find(|room| needed.is_met(|node| takes(node, *room)));
        enough.unwrap_or(Room::Spent)
    }

    /// Whether another replica of a place may take what this node has no room for.
    pub(crate) fn another_has_room(&self, place: &Place, engine: EngineKind) -> bool {
        place.members().any(|node| node != self.me && self.is_reachable(node) && self.has_room(node, engine))
    }

    /// The room on this node's disk and in its memory.
    pub(crate) fn spaces(&self) -> (Space, Space) {
        (self.disk.space(), self.memory.space())
    }

    /// Why this node takes no writes that grow, if so.
    pub(crate) fn why_reads_only(&self) -> Option<String> {
        let disk = self.disk.space();
        let left =
            format!("{} MiB are left, {} MiB are kept in reserve", disk.free >> 20, disk.reserve >> 20);
        match disk.room {
            Room::Ample => None,
            Room::Scarce => {
                Some(format!("the disk has little room, so only deletions are taken here: {left}"))
            }
            Room::Spent => Some(format!("the disk is full, so no write is taken here: {left}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId([1; 32]);
    const TWO: NodeId = NodeId([2; 32]);

    #[test]
    fn room_of_a_peer_is_what_it_told_last() {
        let rooms = Rooms::default();
        let full = Stores { disk: Room::Scarce, memory: Room::Ample };
        assert!(!rooms.heard(ONE, full) && rooms.has_scarce.load(Ordering::Acquire));
        assert_eq!(rooms.of(ONE, EngineKind::Disk), Room::Scarce);
        assert_eq!(rooms.of(ONE, EngineKind::Memory), Room::Ample);
        assert_eq!(rooms.of(TWO, EngineKind::Disk), Room::Ample);
        assert!(!rooms.heard(ONE, Stores { disk: Room::Spent, ..full }), "it has less");
        assert!(rooms.heard(ONE, full), "it has more");
        assert!(rooms.heard(ONE, Stores::default()) && !rooms.has_scarce.load(Ordering::Acquire));
    }
}
