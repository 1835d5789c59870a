//! A simulated host: disks that outlive its processes, and at most one process at a time.
//!
//! A process is a tokio runtime of its own with paused time and a seeded scheduler. Ending it drops the
//! runtime with all its tasks, wherever they were.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;
use slipring_apps::KV;
use slipring_discovery::StaticSeeds;
use slipring_model::NodeId;
use slipring_node::{
    DiskWaits, Entropy, MembershipSettings, Node, RecoverError, Remains, Settings, StartError,
};
use slipring_ring::{Addresses, Layout};
use slipring_storage::faults::{FaultyEngine, FaultyFile};
use slipring_storage::{Engine, MemoryEngine, MetaStore};
use slipring_transport::{Identity, Inbox, Transport};
use slipring_wire::Frame;
use tokio::runtime::{Builder, RngSeed, Runtime, UnhandledPanic};

use crate::guest::Guest;
use crate::journal::{HostClock, Journal};
use crate::network::{Delivery, Network};

/// How many bits name a partition when a cluster is founded.
pub(crate) const PARTITION_BITS: u8 = 4;

/// A host.
pub(crate) struct Host {
    pub(crate) index: usize,
    pub(crate) clock: Arc<HostClock>,
    pub(crate) disk: FaultyEngine,
    file: FaultyFile,
    seed: u64,
    lives: u64,
    /// How often its disks were replaced by empty ones: its node is another one since.
    pub(crate) times_new: usize,
    /// The node that the operator tells it to believe.
    pub(crate) follows: Option<NodeId>,
    /// Whether a new node of it joins as a spare.
    pub(crate) is_spare: bool,
    pub(crate) process: Option<Process>,
    pub(crate) is_paused: bool,
    /// Time that has passed while it was paused.
    missed: Duration,
    /// How much longer a sync takes, in milliseconds.
    sync_delay_ms: Arc<AtomicU64>,
    guest: Option<Arc<dyn Guest>>,
    /// The disks as they were when they were copied, and the incarnation then.
    copy: Option<(FaultyEngine, FaultyFile, u64)>,
}

/// A process.
pub(crate) struct Process {
    pub(crate) runtime: Runtime,
    pub(crate) memory: Arc<MemoryEngine>,
    started: Arc<Mutex<Option<Result<Node, String>>>>,
}

impl Host {
    pub(crate) fn new(index: usize, seed: u64, guest: Option<Arc<dyn Guest>>, journal: Arc<Journal>) -> Self {
        Self {
            index,
            clock: Arc::new(HostClock::new(journal)),
            disk: FaultyEngine::new(),
            file: FaultyFile::new(),
            seed: seed.wrapping_mul(31).wrapping_add(index as u64),
            lives: 0,
            times_new: 0,
            follows: None,
            is_spare: false,
            process: None,
            is_paused: false,
            missed: Duration::ZERO,
            sync_delay_ms: Arc::default(),
            guest,
            copy: None,
        }
    }

    /// How often a process has been started here.
    pub(crate) fn lives(&self) -> u64 {
        self.lives
    }

    /// Starts a process; `seeds` are asked, and so many hosts expected, when it belongs to no cluster yet.
    pub(crate) fn start(&mut self, network: &Arc<Network>, seeds: Vec<String>, expected: Option<NonZeroU32>) {
        self.lives += 1;
        self.disk.restart();
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.lives);
        network.power_on(self.index);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
            .unhandled_panic(UnhandledPanic::ShutdownRuntime)
            .build()
            .expect("a runtime without sockets needs nothing of the system");
        let memory = Arc::new(MemoryEngine::new());
        let starting = self.starting(seed, network, (seeds, expected), Arc::clone(&memory));
        let started = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&started);
        runtime.spawn(async move {
            let result = starting.await;
            *slot.lock() = Some(result);
        });
        self.process = Some(Process { runtime, memory, started });
    }

    fn starting(
        &self,
        seed: u64,
        network: &Arc<Network>,
        (seeds, expected): (Vec<String>, Option<NonZeroU32>),
        memory: Arc<MemoryEngine>,
    ) -> impl Future<Output = Result<Node, String>> + Send + use<> {
        let disk: Arc<dyn Engine> = Arc::new(self.disk.clone());
        let (index, network, clock) = (self.index, Arc::clone(network), Arc::clone(&self.clock));
        let file = self.file.clone();
        // What a host was before is given up only later.
        let settings =
            Settings { spare: self.is_spare, as_new: self.times_new > 0, follow: self.follows, ..settings() };
        let (sync_delay_ms, guest) = (Arc::clone(&self.sync_delay_ms), self.guest.clone());
        async move {
            let meta = MetaStore::with_backend(file).map_err(|error| error.to_string())?;
            let port = |port: u16| format!("host-{index}:{port}");
            let peer = network.address(index);
            let redis_cluster = port(6479);
            let addresses = Addresses { peer, redis: port(6379), http: port(8080), redis_cluster };
            let datagrams = Arc::new(network.open_socket(index));
            let seeds = StaticSeeds::new(seeds).map_err(|error| error.to_string())?;
            let transport = move |identity: Identity, inbox: Arc<dyn Inbox>| {
                let transport: Arc<dyn Transport> = Arc::new(network.attach(index, identity.hello, inbox));
                Ok(transport)
            };
            let node = Node::builder(settings, meta, disk, addresses, Box::new(transport))
                .service(&KV)
                .join(seeds)
                .expect(expected)
                .clock(clock)
                .entropy(Entropy::seeded(seed))
                .disk_waits(DiskWaits::Inline { delay_ms: sync_delay_ms })
                .memory(memory)
                .datagrams(datagrams);
            let node = match guest {
                Some(guest) => guest.install(node),
                None => node,
            };
            node.start().await.map_err(|error| error.to_string())
        }
    }

    /// Ends the process without a word. With `loses_power` what was not synced is gone, but for some of the
    /// first batches and pieces of files that may have reached the disk; how many batches are gone.
    pub(crate) fn kill(&mut self, network: &Network, loses_power: bool) -> usize {
        let Some(process) = self.process.take() else { return 0 };
        let mut rng = Rng::with_seed(self.seed ^ self.lives << 40);
        let mut torn = |_: usize, bytes: usize| if rng.bool() { rng.usize(..=bytes) } else { 0 };
        // The files are those of this moment: what is taken apart now writes to the old ones in vain.
        self.file = match loses_power {
            true => self.file.after_power_loss_keeping(&mut torn),
            false => self.file.after_death(),
        };
        network.detach(self.index, !loses_power);
        drop(process);
        self.is_paused = false;
        self.missed = Duration::ZERO;
        if !loses_power {
            return 0;
        }
        let kept = if rng.bool() { rng.usize(..=self.disk.unsynced()) } else { 0 };
        self.disk.lose_power(kept)
    }

    /// Keeps a copy of the disks, to come back to.
    pub(crate) fn copy_disks(&mut self) {
        let Some(incarnation) = self.node().map(|node| node.incarnation()) else { return };
        self.copy = Some((self.disk.copy(), self.file.after_death(), incarnation));
    }

    /// The incarnation of which there is a copy.
    pub(crate) fn copied_incarnation(&self) -> Option<u64> {
        self.copy.as_ref().map(|(.., incarnation)| *incarnation)
    }

    /// Puts the copy in the place of the disks.
    pub(crate) fn roll_back(&mut self) {
        if let Some((disk, file, _)) = self.copy.take() {
            (self.disk, self.file) = (disk, file);
        }
    }

    /// Puts empty disks in the place of the old ones.
    pub(crate) fn lose_disks(&mut self) {
        (self.disk, self.file) = (FaultyEngine::new(), FaultyFile::new());
        self.times_new += 1;
    }

    /// What it knows of its cluster while no process runs.
    pub(crate) fn remains(&self) -> Result<Remains, RecoverError> {
        Remains::read(&self.meta()?)
    }

    /// Lets it go on without a lost majority, while no process runs.
    pub(crate) fn recover(&self, lost: &[NodeId]) -> Result<Layout, RecoverError> {
        slipring_node::recover(&self.meta()?, lost)
    }

    fn meta(&self) -> Result<MetaStore, RecoverError> {
        Ok(MetaStore::with_backend(self.file.clone()).map_err(StartError::from)?)
    }

    /// Makes every sync take so much longer.
    pub(crate) fn delay_syncs(&self, by_ms: u64) {
        self.sync_delay_ms.store(by_ms, Ordering::Relaxed);
    }

    /// The node, once it has started.
    pub(crate) fn node(&self) -> Option<Node> {
        self.process.as_ref()?.started.lock().as_ref()?.as_ref().ok().cloned()
    }

    /// Why the process cannot go on, if so.
    pub(crate) fn failure(&self) -> Option<String> {
        match self.process.as_ref()?.started.lock().as_ref()? {
            Ok(node) => node.stopped().borrow().clone(),
            Err(error) => Some(error.clone()),
        }
    }

    /// Lets the process run for one tick, beginning with what has reached it.
    pub(crate) fn run(&mut self, network: &Network, tick: Duration) {
        let Some(process) = &self.process else { return };
        if self.is_paused {
            self.missed += tick;
            return;
        }
        let missed = std::mem::take(&mut self.missed);
        process.runtime.block_on(async {
            if !missed.is_zero() {
                tokio::time::advance(missed).await;
            }
            if let Some((inbox, deliveries)) = network.deliveries(self.index) {
                deliveries.into_iter().for_each(|delivery| deliver(&inbox, delivery));
            }
            tokio::time::sleep(tick).await;
        });
        network.flush(self.index);
    }
}

fn deliver(inbox: &Arc<dyn Inbox>, delivery: Delivery) {
    match delivery {
        Delivery::Dialled(hello) => inbox.dialled(&hello),
        Delivery::Connected(hello) => inbox.connected(&hello),
        Delivery::Disconnected(peer) => inbox.disconnected(peer, Default::default()),
        Delivery::Frame { from, bytes } => {
            let frame = Frame::decode(bytes).expect("a node's own frame");
            assert!(frame.unknown.is_empty(), "a node's own requests are known");
            inbox.messages(from, frame.messages);
        }
        Delivery::Question { asker, answerer, request, reply } => {
            let inbox = Arc::clone(inbox);
            tokio::spawn(async move {
                let answer = inbox.asked(&asker, request).await;
                // An asker that is gone needs no answer.
                let _ = reply.send((answerer, answer));
            });
        }
    }
}

/// Shorter intervals than a real cluster's, so that a run sees many of each.
fn settings() -> Settings {
    Settings {
        request_timeout_ms: 1_000,
        exchange_interval_ms: 1_000,
        expiry_interval_ms: 50,
        scrub_interval_ms: 50,
        partition_bits: PARTITION_BITS,
        membership: MembershipSettings::local(),
        ..Settings::default()
    }
}
