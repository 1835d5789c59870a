//! Forcing writes to disk, many at a time: whoever needs it waits, one sync serves all who came before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::{Error, ErrorKind, NodeId};
use slipring_replication::WriteInput;
use slipring_storage::Engine;
use slipring_wire::Reply;
use tokio::sync::{Notify, oneshot};

use crate::core::Core;
use crate::requests::Entry;

/// Who waits for durability.
pub(crate) enum Waiter {
    /// A write this node coordinates.
    Write(u64),
    /// A coordinator that sent a cell.
    Peer { node: NodeId, id: u64 },
    /// A task of the background.
    Task(oneshot::Sender<()>),
    /// A page of a clearing.
    Page(oneshot::Sender<()>),
}

/// How a node may wait for its disk.
#[derive(Clone, Debug)]
pub enum DiskWaits {
    /// On a thread of its own, so that requests go on meanwhile.
    OnThread,
    /// Right here: for simulated disks, whose order of events must repeat.
    Inline {
        /// How long a sync takes, in milliseconds; may change at any time.
        delay_ms: Arc<AtomicU64>,
    },
}

/// The waiters, and whether anything was written since the last sync.
pub(crate) struct Syncer {
    waits: DiskWaits,
    waiting: Mutex<Vec<Waiter>>,
    wake: Notify,
    is_dirty: AtomicBool,
}

impl Syncer {
    pub(crate) fn new(waits: DiskWaits) -> Self {
        Self { waits, waiting: Mutex::default(), wake: Notify::new(), is_dirty: AtomicBool::new(false) }
    }

    pub(crate) fn mark_dirty(&self) {
        self.is_dirty.store(true, Ordering::Release);
    }

    pub(crate) fn wait(&self, waiter: Waiter) {
        // A task of the background waits for the sync that comes anyway: one of its own would hold up clients.
        let is_urgent = !matches!(waiter, Waiter::Task(_));
        self.waiting.lock().push(waiter);
        if is_urgent {
            self.wake.notify_one();
        }
    }

    /// Runs a short piece of work that waits for the disk, in this node's way of waiting.
    pub(crate) async fn on_disk<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, slipring_storage::Error> + Send + 'static,
    ) -> Result<R, slipring_storage::Error> {
        match &self.waits {
            DiskWaits::Inline { .. } => work(),
            DiskWaits::OnThread => match tokio::task::spawn_blocking(work).await {
                Ok(result) => result,
                Err(_) => Err(slipring_storage::Error::Stopped("the work was cut short".into())),
            },
        }
    }

    async fn sync(&self, engine: Arc<dyn Engine>) -> Result<(), slipring_storage::Error> {
        match &self.waits {
            DiskWaits::Inline { delay_ms } => {
                match delay_ms.load(Ordering::Relaxed) {
                    0 => {}
                    delay => tokio::time::sleep(Duration::from_millis(delay)).await,
                }
                engine.sync()
            }
            DiskWaits::OnThread => match tokio::task::spawn_blocking(move || engine.sync()).await {
                Ok(result) => result,
                Err(_) => Err(slipring_storage::Error::Stopped("the sync was cut short".into())),
            },
        }
    }
}

impl Core {
    /// Syncs whenever somebody waits, and at least once an interval while anything is written.
    pub(crate) async fn run_syncer(self: Arc<Self>) {
        let interval = Duration::from_millis(self.settings.sync_interval_ms);
        loop {
            tokio::select! {
                biased;
                () = self.syncer.wake.notified() => {}
                () = tokio::time::sleep(interval) => {}
            }
            let waiters = std::mem::take(&mut *self.syncer.waiting.lock());
            let was_dirty = self.syncer.is_dirty.swap(false, Ordering::AcqRel);
            if waiters.is_empty() && !was_dirty {
                continue;
            }
            match self.syncer.sync(Arc::clone(&self.disk)).await {
                Ok(()) => waiters.into_iter().for_each(|waiter| self.persisted(waiter)),
                Err(error) => self.sync_failed(waiters, &error),
            }
        }
    }

    /// Nothing more can be written here. A disk that is full, or a lack of files, is waited for, and the node reads on.
    /// Where it failed otherwise and there are others, the node leaves the writing to them and ends; alone it stays, so
    /// that what it holds can still be read.
    fn sync_failed(&self, waiters: Vec<Waiter>, error: &slipring_storage::Error) {
        use slipring_storage::Error as Storage;
        let reason = format!("the disk did not take what was written: {error}");
        if !error.passes() && self.view().is_none_or(|view| view.layout.nodes().len() > 1) {
            return self.give_up(reason);
        }
        // What was applied is synced once there is room.
        self.syncer.mark_dirty();
        if !matches!(error, Storage::NoRoom { .. } | Storage::Busy { .. }) {
            tracing::error!(%reason, "writes are refused from now on; reads go on");
        }
        for waiter in waiters {
            let id = match waiter {
                Waiter::Write(id) => id,
                Waiter::Peer { node, id } => {
                    self.answer(node, id, crate::failure::failed(crate::failure::stored(error.clone())));
                    continue;
                }
                // Its end tells the task that nothing is synced.
                Waiter::Task(_) | Waiter::Page(_) => continue,
            };
            let answer = self.requests.with(id, |entry| match entry {
                Entry::Write(write) => (write.answer.take(), false),
                _ => (None, false),
            });
            if let Some((Some((reply_to, _)), _)) = answer {
                let message = format!("{reason}; this write may be kept or lost");
                self.reply(reply_to, Err(Error::new(ErrorKind::OutcomeUnknown, message)));
            }
            self.drive_write(id, WriteInput::DeadlinePassed);
        }
    }

    /// One waiter's writes are as durable as promised.
    pub(crate) fn persisted(&self, waiter: Waiter) {
        match waiter {
            Waiter::Write(id) => self.drive_write(id, WriteInput::Persisted),
            Waiter::Peer { node, id } => self.answer(node, id, Reply::Stored),
            // A task that is gone waits for nothing.
            Waiter::Task(done) | Waiter::Page(done) => drop(done.send(())),
        }
    }
}
