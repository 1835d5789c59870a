//! A simulated machine: a runtime of its own, its disks, and a real node on them.

use std::sync::Arc;
use std::time::Duration;

use slipring_apps::KV;
use slipring_discovery::StaticSeeds;
use slipring_model::NodeId;
use slipring_node::{DiskWaits, Entropy, Node, Settings, StartError};
use slipring_ring::Addresses;
use slipring_storage::MetaStore;
use slipring_storage::faults::{FaultyEngine, FaultyFile};
use slipring_wire::Frame;
use tokio::runtime::{Builder, RngSeed, Runtime};

use crate::clock::SimClock;
use crate::network::{Delivery, Network, address};

/// A machine and what its disks hold.
pub(crate) struct Host {
    pub(crate) index: usize,
    pub(crate) node: Option<Node>,
    pub(crate) disk: FaultyEngine,
    meta: FaultyFile,
    network: Network,
    clock: SimClock,
    seed: u64,
    starts: u64,
    runtime: Option<Runtime>,
    starting: Option<tokio::task::JoinHandle<Result<Node, StartError>>>,
}

impl Host {
    pub(crate) fn new(index: usize, network: Network, clock: SimClock, seed: u64) -> Self {
        Self {
            index,
            node: None,
            disk: FaultyEngine::new(),
            meta: FaultyFile::new(),
            network,
            clock,
            seed,
            starts: 0,
            runtime: None,
            starting: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.runtime.is_some()
    }

    /// Starts the machine; its node serves some ticks later.
    pub(crate) fn start(&mut self, seed_host: Option<usize>) {
        self.starts += 1;
        let seed = self.seed ^ self.starts << 32 ^ (self.index as u64) << 48;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
            .build()
            .expect("a runtime without drivers can be built");
        let meta = MetaStore::with_backend(self.meta.clone()).expect("a sound file opens");
        let (network, index) = (self.network.clone(), self.index);
        let addresses = Addresses { peer: address(index), redis: String::new(), http: String::new() };
        let settings = Settings { partition_bits: 3, exchange_interval_ms: 2_000, ..Settings::default() };
        let factory = Box::new(move |hello, inbox| Ok(network.plug(index, hello, inbox)));
        let seeds = StaticSeeds::new(seed_host.map(address)).expect("an address");
        let builder = Node::builder(settings, meta, Arc::new(self.disk.clone()), addresses, factory)
            .service(&KV)
            .join(seeds)
            .clock(Arc::new(self.clock.clone()))
            .entropy(Entropy::seeded(seed))
            .disk_waits(DiskWaits::Inline);
        self.starting = Some(runtime.spawn(builder.start()));
        self.runtime = Some(runtime);
    }

    /// The process dies: its tasks vanish where they are.
    pub(crate) fn die(&mut self) {
        let meta = self.meta.after_death();
        self.vanish(meta);
    }

    /// The power fails; how many records were lost.
    pub(crate) fn lose_power(&mut self) -> usize {
        let meta = self.meta.after_power_loss();
        self.vanish(meta);
        self.disk.lose_power()
    }

    /// The files are those of the moment of death: what is dropped now may write to the old ones in vain.
    fn vanish(&mut self, meta: FaultyFile) {
        self.network.unplug(self.index);
        self.node = None;
        self.starting = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.meta = meta;
    }

    /// Lets the machine work for one tick.
    pub(crate) fn tick(&mut self, tick: Duration) {
        let Some(runtime) = &self.runtime else { return };
        let (network, index) = (self.network.clone(), self.index);
        runtime.block_on(async move {
            for delivery in network.arrived(index) {
                deliver(&network, index, delivery);
            }
            tokio::time::sleep(tick).await;
        });
        if self.starting.as_ref().is_some_and(tokio::task::JoinHandle::is_finished)
            && let Some(starting) = self.starting.take()
        {
            let started = runtime.block_on(starting).expect("starting does not panic");
            self.node = Some(started.unwrap_or_else(|error| panic!("host {index} cannot start: {error}")));
        }
    }

    /// Runs something in the machine's runtime.
    pub(crate) fn enter<R>(&self, run: impl FnOnce(&Node, &Runtime) -> R) -> Option<R> {
        let (node, runtime) = (self.node.as_ref()?, self.runtime.as_ref()?);
        let _entered = runtime.enter();
        Some(run(node, runtime))
    }

    pub(crate) fn id(&self) -> Option<NodeId> {
        self.node.as_ref().map(Node::id)
    }
}

fn deliver(network: &Network, host: usize, delivery: Delivery) {
    let Some(inbox) = network.inbox(host) else { return };
    match delivery {
        Delivery::Connected(hello) => inbox.connected(&hello),
        Delivery::Disconnected(peer) => inbox.disconnected(peer),
        Delivery::Frame { from, bytes } => {
            let frame = Frame::decode(bytes).expect("the network does not alter frames");
            inbox.messages(from, frame.messages);
        }
        Delivery::Question { hello, request, answer } => {
            let (network, asked) = (network.clone(), inbox.asked(&hello, request));
            tokio::spawn(async move {
                let reply = asked.await;
                if let Some(own) = network.hello(host) {
                    // Whoever asked may be gone.
                    let _ = answer.send((own, reply));
                }
            });
        }
    }
}
