//! The connections that are open: counted, listed, and ended when another client asks for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The shortest time a rate is taken over.
const RATE_TIME_MIN: Duration = Duration::from_millis(100);

/// What all connections of one port share.
#[derive(Clone)]
pub(crate) struct Clients(Arc<Shared>);

struct Shared {
    /// Connections that may be open.
    places: usize,
    began: Instant,
    accepted: AtomicU64,
    rejected: AtomicU64,
    commands: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    rate: Mutex<Rate>,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
}

struct Rate {
    since: Instant,
    commands: u64,
    per_second: u64,
}

/// One connection, as others see it.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: String,
    since: Instant,
    label: Mutex<Label>,
    task: OnceLock<AbortHandle>,
}

/// What a client says of itself, and has chosen.
#[derive(Clone, Default)]
pub(crate) struct Label {
    pub(crate) name: Bytes,
    pub(crate) library: Bytes,
    pub(crate) library_version: Bytes,
    pub(crate) bucket: u32,
    pub(crate) is_resp3: bool,
}

/// A place on the list of open connections; given up when dropped.
pub(crate) struct Presence {
    pub(crate) clients: Clients,
    pub(crate) client: Arc<Client>,
}

impl Clients {
    pub(crate) fn new(places: usize) -> Self {
        let began = Instant::now();
        Self(Arc::new(Shared {
            places,
            began,
            accepted: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            rate: Mutex::new(Rate { since: began, commands: 0, per_second: 0 }),
            open: Mutex::default(),
        }))
    }

    /// Puts a connection on the list; `None` when it is full.
    pub(crate) fn enter(&self, address: String) -> Option<Presence> {
        let mut open = self.0.open.lock();
        if open.len() >= self.0.places {
            self.0.rejected.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let id = self.0.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let (since, label, task) = (Instant::now(), Mutex::default(), OnceLock::new());
        let client = Arc::new(Client { id, address, since, label, task });
        open.insert(id, Arc::clone(&client));
        Some(Presence { clients: self.clone(), client })
    }

    /// The open connections, oldest first.
    pub(crate) fn open(&self) -> Vec<Arc<Client>> {
        self.0.open.lock().values().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.open.lock().len()
    }

    /// How many connections may be open.
    pub(crate) fn places(&self) -> usize {
        self.0.places
    }

    /// Connections that found no place.
    pub(crate) fn rejected(&self) -> u64 {
        self.0.rejected.load(Ordering::Relaxed)
    }

    /// Connections since the port was opened.
    pub(crate) fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn commands(&self) -> u64 {
        self.0.commands.load(Ordering::Relaxed)
    }

    /// Values that were asked for and found, and those that were not.
    pub(crate) fn hits_and_misses(&self) -> (u64, u64) {
        (self.0.hits.load(Ordering::Relaxed), self.0.misses.load(Ordering::Relaxed))
    }

    /// Commands a second since this was last asked.
    pub(crate) fn commands_per_second(&self) -> u64 {
        let mut rate = self.0.rate.lock();
        let (elapsed, commands) = (rate.since.elapsed(), self.commands());
        if elapsed >= RATE_TIME_MIN {
            let per_second = (commands - rate.commands) as f64 / elapsed.as_secs_f64();
            *rate = Rate { since: Instant::now(), commands, per_second: per_second as u64 };
        }
        rate.per_second
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// Adds what a batch of commands came to.
    pub(crate) fn account(&self, commands: u64, hits: u64, misses: u64) {
        for (total, more) in [(&self.0.commands, commands), (&self.0.hits, hits), (&self.0.misses, misses)] {
            if more > 0 {
                total.fetch_add(more, Ordering::Relaxed);
            }
        }
    }

    /// Forgets what was counted of commands.
    pub(crate) fn reset(&self) {
        let mut rate = self.0.rate.lock();
        *rate = Rate { since: Instant::now(), commands: 0, per_second: 0 };
        for total in [&self.0.commands, &self.0.hits, &self.0.misses] {
            total.store(0, Ordering::Relaxed);
        }
    }
}

impl Client {
    pub(crate) fn label(&self) -> Label {
        self.label.lock().clone()
    }

    pub(crate) fn relabel(&self, change: impl FnOnce(&mut Label)) {
        change(&mut self.label.lock());
    }

    /// Says which task serves the connection, so that it can be ended.
    pub(crate) fn served_by(&self, task: AbortHandle) {
        // Called once, by whoever started the task.
        let _ = self.task.set(task);
    }

    /// Ends the connection where it stands; whether it could.
    pub(crate) fn end(&self) -> bool {
        self.task.get().inspect(|task| task.abort()).is_some()
    }

    /// The connection's line in CLIENT LIST.
    pub(crate) fn line(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let label = self.label();
        format!(
            "id={} addr={} name={} age={} flags=N db={} user=default lib-name={} lib-ver={} resp={}\n",
            self.id,
            self.address,
            text(&label.name),
            self.since.elapsed().as_secs(),
            label.bucket,
            text(&label.library),
            text(&label.library_version),
            if label.is_resp3 { 3 } else { 2 },
        )
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.clients.0.open.lock().remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_listed_until_it_ends() {
        let clients = Clients::new(10);
        let (first, second) = (clients.enter("a:1".into()), clients.enter("b:2".into()));
        let lines: Vec<_> = clients.open().iter().map(|client| client.line()).collect();
        assert!(
            lines.iter().zip(["id=1 addr=a:1", "id=2 addr=b:2"]).all(|(line, start)| line.starts_with(start))
        );
        drop(first);
        assert_eq!((clients.count(), clients.accepted()), (1, 2));
        drop(second);
        assert_eq!(clients.count(), 0);
    }

    #[test]
    fn connection_finds_a_place_up_to_the_last_and_once_one_is_free() {
        let clients = Clients::new(3);
        let mut open: Vec<_> = (0..3).map(|_| clients.enter("a:1".into())).collect();
        assert!(open.iter().all(Option::is_some));
        assert!(clients.enter("a:1".into()).is_none());
        assert_eq!((clients.count(), clients.places(), clients.rejected()), (3, 3, 1));
        open.pop();
        assert!(clients.enter("a:1".into()).is_some());
    }
}
