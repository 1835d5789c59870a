//! Putting a node together and starting it: found a cluster, join one, or go on in the one it belongs to.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use slipring_discovery::{Discovery, StaticSeeds};
use slipring_membership::ClusterKey;
use slipring_model::{ClusterId, StorageId};
use slipring_ring::Addresses;
use slipring_service::Service;
use slipring_storage::{Engine, MemoryEngine, MetaStore};
use slipring_transport::{Identity as TransportIdentity, Inbox, Transport};
use slipring_wire::Hello;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::budget::Budget;
use crate::clients::{ClientLimits, Clients};
use crate::clock::{Clock, Entropy, SystemClock};
use crate::clocks::AgreedTime;
use crate::core::Core;
use crate::forming::{Acquaintance, Means as FormingMeans, Rival, Rivals};
use crate::gossip::{ClusterSecret, Datagrams, Gossip, Means};
use crate::handler::{Erased, Handler};
use crate::health::Health;
use crate::hearsay::Hearsay;
use crate::hints::HintLog;
use crate::identity::{Identity, Membership};
use crate::inbox::Receiver;
use crate::metrics::Metrics;
use crate::moving::Moving;
use crate::muster::Muster;
use crate::node::Node;
use crate::recovery::Recovery;
use crate::requests::Requests;
use crate::room::Rooms;
use crate::settings::Settings;
use crate::sync::{DiskWaits, Syncer};
use crate::whereabouts::Whereabouts;

/// The incarnation of a directory that held nothing before.
const FIRST_START: u64 = 1;

/// How often requests' timers are looked at: the grain of every time-out.
const TICK: Duration = Duration::from_millis(10);

/// Why a node did not start. Nothing of it is left running.
#[derive(Debug, Error)]
pub enum StartError {
    /// A setting is out of its range.
    #[error("the settings are wrong: {0}")]
    Settings(String),
    /// The data directory cannot be used.
    #[error(transparent)]
    Storage(#[from] slipring_storage::Error),
    /// What is stored of the node's identity cannot be read.
    #[error(
        "the identity in the data directory is damaged; restore the directory, or remove it and join as a new node"
    )]
    DamagedIdentity,
    /// The layout group cannot start.
    #[error("the layout group cannot start: {0}")]
    Group(String),
    /// The directory was refused before.
    #[error(
        "the cluster has found this data directory to be an older copy; remove it and join as a new node"
    )]
    RolledBack,
    /// A stored bucket cannot be opened.
    #[error("{0}")]
    Buckets(#[from] slipring_model::Error),
    /// Every member that answered refused this node.
    #[error("the cluster at {address} refused this node: {reason}")]
    Refused {
        /// Whom was asked.
        address: String,
        /// What it said.
        reason: String,
    },
    /// Nodes that start at once expect different numbers of each other.
    #[error(
        "{other} expects {theirs} nodes and this node {ours}: start all nodes with the same number, or join a cluster \
         that is there"
    )]
    Mismatch {
        /// Who does.
        other: String,
        /// How many it expects.
        theirs: u32,
        /// How many this one expects.
        ours: u32,
    },
    /// Members of two clusters were found; this node has joined neither.
    #[error("{first} and {second} are not of one cluster: name only nodes of the cluster to join")]
    TwoClusters {
        /// A member of one.
        first: String,
        /// A member of the other.
        second: String,
    },
    /// Records are there, and nothing says which cluster they belong to.
    #[error(
        "the data directory holds records and belongs to no cluster, so its identity was lost or put back to an older \
         state; move the directory away and join as a new node with an empty one"
    )]
    RecordsWithoutCluster,
    /// This node was to found a cluster, and one that it was told of is there.
    #[error(
        "{address} is a member of cluster {cluster}, so no other one is founded; start without found to join it"
    )]
    ClusterThere {
        /// A member.
        address: String,
        /// Its cluster.
        cluster: String,
    },
    /// This node was to found a cluster, and a living one counts on its address.
    #[error("no cluster is founded: {0}")]
    AddressTaken(Rival),
    /// The transport cannot start.
    #[error("peers cannot be reached: {0}")]
    Transport(String),
}

/// Starts a node's transport: gets what the node says of itself and proves it with, and where to hand what arrives.
pub type TransportFactory =
    Box<dyn FnOnce(TransportIdentity, Arc<dyn Inbox>) -> Result<Arc<dyn Transport>, StartError> + Send>;

/// A node in the making.
pub struct Builder {
    settings: Settings,
    meta: MetaStore,
    disk: Arc<dyn Engine>,
    memory: Arc<dyn Engine>,
    transport: TransportFactory,
    addresses: Addresses,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    disk_waits: DiskWaits,
    seeds: Arc<dyn Discovery>,
    expected: Option<NonZeroU32>,
    is_founder: bool,
    handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
    group: slipring_consensus::Settings,
    datagrams: Option<Arc<dyn Datagrams>>,
    secret: Option<ClusterSecret>,
    clients: ClientLimits,
}

impl Node {
    /// The cluster that the node with this store belongs to already, if it does. Nothing begins.
    ///
    /// # Errors
    /// [`StartError::Storage`] and [`StartError::DamagedIdentity`].
    pub fn cluster_in(meta: &MetaStore) -> Result<Option<ClusterId>, StartError> {
        Ok(Membership::read(meta)?.map(|membership| membership.cluster))
    }

    /// The identity of the data directory with this store; makes it in an empty store. No start begins.
    ///
    /// # Errors
    /// [`StartError::Storage`] and [`StartError::DamagedIdentity`].
    pub fn storage_in(meta: &MetaStore) -> Result<StorageId, StartError> {
        Identity::storage(meta)
    }

    /// A node on these stores, reached through this transport at `addresses`.
    #[must_use]
    pub fn builder(
        settings: Settings,
        meta: MetaStore,
        disk: Arc<dyn Engine>,
        addresses: Addresses,
        transport: TransportFactory,
    ) -> Builder {
        Builder {
            settings,
            meta,
            disk,
            memory: Arc::new(MemoryEngine::new()),
            transport,
            addresses,
            clock: Arc::new(SystemClock),
            entropy: Entropy::System,
            disk_waits: DiskWaits::OnThread,
            seeds: Arc::new(StaticSeeds::default()),
            expected: None,
            is_founder: false,
            handlers: BTreeMap::new(),
            group: slipring_consensus::Settings::default(),
            datagrams: None,
            secret: None,
            clients: ClientLimits::default(),
        }
    }
}

impl Builder {
    /// Runs `service` on the buckets that name it.
    #[must_use]
    pub fn service<S: Service>(mut self, service: &'static S) -> Self {
        self.handlers.insert(S::NAME, Arc::new(Erased(service)));
        self
    }

    /// Joins the cluster of one of the nodes found here, unless this is empty: then it founds one. Once it has joined,
    /// the node looks here for members that it misses: they may have moved.
    #[must_use]
    pub fn join(mut self, seeds: impl Discovery) -> Self {
        self.seeds = Arc::new(seeds);
        self
    }

    /// Expects so many nodes to start at once, this one included: unless one of those that it finds is a member of a
    /// cluster already, one founds when all of them are there, and the others join it. At most one does as long as
    /// fewer than twice as many start. Announces this node where it joins. Without meaning once it has joined.
    #[must_use]
    pub fn expect(mut self, nodes: Option<NonZeroU32>) -> Self {
        self.expected = nodes;
        self
    }

    /// Lets clients take so much of the node.
    #[must_use]
    pub fn clients(mut self, limits: ClientLimits) -> Self {
        self.clients = limits;
        self
    }

    /// Founds a cluster although it names nodes to join, unless one of those is a member of a cluster. Without meaning
    /// once it has joined.
    #[must_use]
    pub fn found(mut self, is_founder: bool) -> Self {
        self.is_founder = is_founder;
        self
    }

    /// Takes wall-clock time from `clock`.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws ids from `entropy`.
    #[must_use]
    pub fn entropy(mut self, entropy: Entropy) -> Self {
        self.entropy = entropy;
        self
    }

    /// Waits for the disk in this way.
    #[must_use]
    pub fn disk_waits(mut self, waits: DiskWaits) -> Self {
        self.disk_waits = waits;
        self
    }

    /// Keeps memory buckets in this engine.
    #[must_use]
    pub fn memory(mut self, memory: Arc<dyn Engine>) -> Self {
        self.memory = memory;
        self
    }

    /// Runs the layout group with these settings.
    #[must_use]
    pub fn group(mut self, group: slipring_consensus::Settings) -> Self {
        self.group = group;
        self
    }

    /// Gossips through these; without any, this node takes no part in gossip.
    #[must_use]
    pub fn datagrams(mut self, datagrams: Arc<dyn Datagrams>) -> Self {
        self.datagrams = Some(datagrams);
        self
    }

    /// Uses this secret of the cluster's, which all of its nodes must have, instead of the key its founder drew.
    #[must_use]
    pub fn secret(mut self, secret: Option<ClusterSecret>) -> Self {
        self.secret = secret;
        self
    }

    /// Starts the node: it serves when this returns.
    ///
    /// # Errors
    /// [`StartError`]; joining goes on trying while seeds cannot be reached, and ends when all that answer refuse.
    pub async fn start(self) -> Result<Node, StartError> {
        self.settings.validate().map_err(StartError::Settings)?;
        let identity = Identity::begin(&self.meta, &self.entropy)?;
        let moving = Moving::open(&self.meta)?;
        let (cluster, key) = (ClusterId(self.entropy.bytes()), ClusterKey(self.entropy.bytes()));
        let gossip_seed = u64::from_le_bytes(self.entropy.bytes());
        let (seeds, transport, datagrams) = (self.seeds, self.transport, self.datagrams);
        let group =
            slipring_consensus::Settings { seed: u64::from_le_bytes(self.entropy.bytes()), ..self.group };
        let means =
            FormingMeans { cluster, key, group, expected: self.expected, is_founder: self.is_founder };
        let core = Arc::new_cyclic(|handle| Core {
            handle: handle.clone(),
            me: identity.node,
            incarnation: identity.incarnation,
            boot: u64::from_le_bytes(self.entropy.bytes()),
            addresses: self.addresses,
            cluster: OnceLock::new(),
            time: AgreedTime::new(identity.node, identity.incarnation == FIRST_START, self.clock.wall_us()),
            clock: self.clock,
            began: Instant::now(),
            meta: self.meta,
            disk: self.disk,
            memory: self.memory,
            handlers: self.handlers,
            view: ArcSwapOption::empty(),
            adopted: watch::Sender::new(0),
            moving,
            acquaintance: Acquaintance::default(),
            rivals: Rivals::default(),
            muster: Muster::default(),
            hearsay: Hearsay::new(self.settings.follow),
            whereabouts: Whereabouts::default(),
            recovery: Recovery::default(),
            gossip: Gossip::default(),
            health: Health::default(),
            secret: self.secret,
            cluster_key: OnceLock::new(),
            transport: OnceLock::new(),
            group: OnceLock::new(),
            requests: Requests::new(identity.incarnation),
            rooms: Rooms::default(),
            syncer: Syncer::new(self.disk_waits),
            hints: HintLog::default(),
            budget: Budget::of_this_machine(self.settings.background_share),
            clients: Clients::new(self.clients),
            metrics: Metrics::new(),
            stop: watch::Sender::new(None),
            settings: self.settings,
            identity,
        });
        core.hints.take_stock(core.disk.as_ref())?;
        let receiver = Arc::new(Receiver(Arc::downgrade(&core)));
        let entropy = self.entropy;
        let nonces = Arc::new(move || entropy.bytes());
        let key = Arc::clone(&core.identity.key);
        let transport = transport(TransportIdentity { hello: core.hello(), key, nonces }, receiver)?;
        core.transport.get_or_init(|| Arc::clone(&transport));
        let mut tasks = vec![tokio::spawn(Arc::clone(&core).run_ticker())];
        let started = core.enter_cluster(seeds.as_ref(), means).await;
        tasks.extend(core.spawn_tasks(started.is_ok(), seeds));
        if let Some(datagrams) = datagrams.filter(|_| started.is_ok()) {
            tasks.extend(core.spawn_gossip(Means { datagrams, seed: gossip_seed }));
        }
        unless_failed(Node::new(core, tasks), started).await
    }
}

/// The node, if it has started; ends it otherwise.
async fn unless_failed(node: Node, started: Result<(), StartError>) -> Result<Node, StartError> {
    match started {
        Ok(()) => Ok(node),
        Err(error) => {
            // The reason for not starting is worth more to the caller than how the half-started node ended.
            let _ = node.shutdown().await;
            Err(error)
        }
    }
}

impl Core {
    fn hello(&self) -> Hello {
        Hello {
            versions: self.settings.versions,
            cluster: self.identity.membership.map(|membership| membership.cluster),
            node: self.me,
            storage: self.identity.storage,
            incarnation: self.incarnation,
            boot: self.boot,
            peer_address: self.addresses.peer.clone(),
            is_question: false,
            redis_cluster_address: self.addresses.redis_cluster.clone(),
        }
    }

    fn spawn_tasks(
        self: &Arc<Self>,
        is_started: bool,
        sources: Arc<dyn Discovery>,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        if !is_started {
            return Vec::new();
        }
        let core = || Arc::clone(self);
        vec![
            tokio::spawn(core().run_follower()),
            tokio::spawn(core().run_clocks()),
            tokio::spawn(core().run_group_watch()),
            tokio::spawn(core().run_registration()),
            tokio::spawn(core().run_syncer()),
            tokio::spawn(core().run_hint_delivery()),
            tokio::spawn(core().run_exchange()),
            tokio::spawn(core().run_recovery()),
            tokio::spawn(core().run_healer()),
            tokio::spawn(core().run_scrubber()),
            tokio::spawn(core().run_sweeper()),
            tokio::spawn(core().run_taking_over()),
            tokio::spawn(core().run_wiper()),
            tokio::spawn(core().run_move_driver()),
            tokio::spawn(core().run_replacing()),
            tokio::spawn(core().run_room_watch()),
            tokio::spawn(core().run_counter()),
            tokio::spawn(core().run_search(sources)),
        ]
    }

    async fn run_ticker(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.tick();
        }
    }
}
