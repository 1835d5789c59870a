//! The hint log: which peers lack which keys, kept on disk beside the data, and its delivery.
//!
//! Bounded per target; what does not fit is left to the exchange, which compares whole partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use slipring_model::{BucketId, Error, NodeId, Position, Room, limits};
use slipring_replication::{HINTS, Hint};
use slipring_storage::{Engine, RecordKey, Write};
use slipring_wire::{Reply, Request};
use tokio::sync::Notify;

use crate::core::Core;
use crate::failure::stored;

/// Hints on their way to one peer at a time; its acknowledgements are the credit for more.
const DELIVERY_WINDOW: usize = 128;
/// How long to rest when a delivery broke off.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How many hints are kept, per target. The hints themselves lie in the engines.
#[derive(Default)]
pub(crate) struct HintLog {
    counts: Mutex<BTreeMap<NodeId, u64>>,
    wake: Notify,
}

impl HintLog {
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Hints kept for `target`.
    pub(crate) fn count(&self, target: NodeId) -> u64 {
        self.counts.lock().get(&target).copied().unwrap_or(0)
    }

    /// Hints kept for anybody.
    pub(crate) fn total(&self) -> u64 {
        self.counts.lock().values().sum()
    }

    /// Counts the hints an engine already holds.
    pub(crate) fn take_stock(&self, engine: &dyn Engine) -> Result<(), Error> {
        let mut counts = self.counts.lock();
        engine
            .scan(HINTS, Position(0)..=Position(u64::MAX), None, &mut |_, key, _| {
                if let Some(hint) = Hint::from_record_key(key) {
                    *counts.entry(hint.target).or_default() += 1;
                }
                true
            })
            .map_err(stored)
    }

    /// Keeps a hint, unless it is kept already or there is no room; says whether it was added.
    fn add(&self, engine: &dyn Engine, target: NodeId, bucket: BucketId, key: &[u8]) -> Result<bool, Error> {
        let key = Hint::record_key(target, bucket, key);
        let at = RecordKey { bucket: HINTS, position: Hint::position(target), key: &key };
        let mut counts = self.counts.lock();
        let count = counts.entry(target).or_default();
        let mut is_known = false;
        engine.read(at, &mut |record| is_known = record.is_some()).map_err(stored)?;
        let has_room = engine.room(key.len() as u64) == Room::Ample;
        if is_known || *count >= limits::HINTS_PER_TARGET_MAX as u64 || !has_room {
            return Ok(is_known);
        }
        engine.apply(&[Write { at, record: Some(&[1]) }]).map_err(stored)?;
        *count += 1;
        Ok(true)
    }

    fn remove(&self, engine: &dyn Engine, hint: &Hint) -> Result<(), Error> {
        let key = Hint::record_key(hint.target, hint.bucket, &hint.key);
        let at = RecordKey { bucket: HINTS, position: Hint::position(hint.target), key: &key };
        let mut counts = self.counts.lock();
        engine.apply(&[Write { at, record: None }]).map_err(stored)?;
        let count = counts.entry(hint.target).or_default();
        *count = count.saturating_sub(1);
        Ok(())
    }

    fn some(&self, engine: &dyn Engine, target: NodeId) -> Result<Vec<Hint>, Error> {
        let mut hints = Vec::new();
        let position = Hint::position(target);
        engine
            .scan(HINTS, position..=position, None, &mut |_, key, _| {
                hints.extend(Hint::from_record_key(key).filter(|hint| hint.target == target));
                hints.len() < DELIVERY_WINDOW
            })
            .map_err(stored)?;
        Ok(hints)
    }
}

impl Core {
    /// Remembers that `target` lacks the newest cell of `key`.
    pub(crate) fn store_hint(&self, target: NodeId, bucket: BucketId, key: &Bytes) {
        let Some(view) = self.view() else { return };
        let Some(bucket) = view.bucket(bucket) else { return };
        match self.hints.add(bucket.bucket.engine.as_ref(), target, bucket.bucket.id, key) {
            Ok(true) => drop(self.metrics.hints_stored.inc()),
            Ok(false) => {
                self.metrics.hints_overflowed.inc();
                self.recovery.met(target);
            }
            Err(error) => {
                tracing::warn!(%error, "a hint could not be kept; the exchange will repair");
                self.recovery.met(target);
            }
        }
        self.hints.wake();
    }

    /// Delivers hints to whoever is connected, for ever.
    pub(crate) async fn run_hint_delivery(self: Arc<Self>) {
        loop {
            tokio::select! {
                biased;
                () = self.hints.wake.notified() => {}
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
            let targets: Vec<NodeId> = self.hints.counts.lock().keys().copied().collect();
            for target in targets {
                for engine in [&self.disk, &self.memory] {
                    self.deliver(target, engine).await;
                }
            }
        }
    }

    /// Delivers until the target has all, or a delivery fails.
    async fn deliver(&self, target: NodeId, engine: &Arc<dyn Engine>) {
        // Hints for a node that is no member any more mean nothing, and are taken away.
        let is_gone = || self.view().is_some_and(|view| !view.layout.nodes().contains_key(&target));
        while self.hints.count(target) > 0 && (self.is_reachable(target) || is_gone()) && self.may_serve() {
            let hints = match self.hints.some(engine.as_ref(), target) {
                Ok(hints) if !hints.is_empty() => hints,
                Ok(_) => return,
                Err(error) => return tracing::warn!(%error, "hints could not be read"),
            };
            let delivered = join_all(hints.iter().map(|hint| self.deliver_one(hint))).await;
            let done = || hints.iter().zip(&delivered).filter(|(_, is_delivered)| **is_delivered);
            for (hint, _) in done() {
                if let Err(error) = self.hints.remove(engine.as_ref(), hint) {
                    return tracing::warn!(%error, "a delivered hint could not be removed");
                }
            }
            self.metrics.hints_delivered.inc_by(done().count() as u64);
            if delivered.contains(&false) {
                return;
            }
        }
    }

    /// Sends the cell as it is now; `true` when the target holds it or the hint means nothing any more.
    async fn deliver_one(&self, hint: &Hint) -> bool {
        let Some(view) = self.view() else { return false };
        let Some((bucket, place)) = view.place(hint.bucket, Position::of(&hint.key)) else { return true };
        // What this node holds no more it must not pass on: the others may have deleted it since.
        if place.mine.is_none() || place.members().all(|node| node != hint.target) {
            return true;
        }
        let key = Bytes::copy_from_slice(&hint.key);
        match bucket.bucket.cell(Position::of(&key), &key) {
            Ok(None) => true,
            Ok(Some(cell)) => {
                let request = Request::Store { bucket: hint.bucket, epoch: view.epoch(), key, cell };
                self.ask(hint.target, request, self.settings.request_timeout()).await == Some(Reply::Stored)
            }
            Err(error) => {
                tracing::warn!(%error, "a hinted cell could not be read; the exchange will bring it");
                true
            }
        }
    }
}
