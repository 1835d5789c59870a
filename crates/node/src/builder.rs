//! Putting a node together and starting it: found a cluster, join one, or go on in the one it belongs to.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use slipring_consensus::LayoutGroup;
use slipring_discovery::{Discovery, StaticSeeds};
use slipring_membership::ClusterKey;
use slipring_model::ClusterId;
use slipring_ring::{Addresses, Layout};
use slipring_service::Service;
use slipring_storage::{Engine, MemoryEngine, MetaStore};
use slipring_transport::{AskError, Inbox, Transport};
use slipring_wire::{Hello, Reply, Request};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::clock::{Clock, Entropy, SystemClock};
use crate::core::Core;
use crate::follow::PeerCourier;
use crate::forming::{Admission, Descriptor};
use crate::gossip::{ClusterSecret, Datagrams, Gossip, Means};
use crate::handler::{Erased, Handler};
use crate::health::Health;
use crate::hints::HintLog;
use crate::identity::{Identity, Membership};
use crate::inbox::Receiver;
use crate::metrics::Metrics;
use crate::moving::Moving;
use crate::muster::Muster;
use crate::node::Node;
use crate::recovery::Recovery;
use crate::requests::Requests;
use crate::settings::Settings;
use crate::sync::{DiskWaits, Syncer};

/// How often requests' timers are looked at: the grain of every time-out.
const TICK: Duration = Duration::from_millis(10);
/// How long a seed has to answer one request to join.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Rests between rounds over the seeds, doubled from the first to the last.
const JOIN_RESTS_MS: (u64, u64) = (50, 1_000);

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
    /// A member refused this node.
    #[error("the cluster at {address} refused this node: {reason}")]
    Refused {
        /// Whom was asked.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The transport cannot start.
    #[error("peers cannot be reached: {0}")]
    Transport(String),
}

/// Starts a node's transport: told what to say of the node and where to hand what arrives.
pub type TransportFactory =
    Box<dyn FnOnce(Hello, Arc<dyn Inbox>) -> Result<Arc<dyn Transport>, StartError> + Send>;

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
    seeds: Box<dyn Discovery>,
    handlers: BTreeMap<&'static str, Arc<dyn Handler>>,
    group: slipring_consensus::Settings,
    datagrams: Option<Arc<dyn Datagrams>>,
    secret: Option<ClusterSecret>,
}

impl Node {
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
            seeds: Box::new(StaticSeeds::default()),
            handlers: BTreeMap::new(),
            group: slipring_consensus::Settings::default(),
            datagrams: None,
            secret: None,
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

    /// Joins the cluster of one of the nodes found here, unless this is empty: then it founds one. Without
    /// meaning once it has joined.
    #[must_use]
    pub fn join(mut self, seeds: impl Discovery) -> Self {
        self.seeds = Box::new(seeds);
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
    /// [`StartError`]; joining goes on trying while seeds cannot be reached, and ends when one refuses.
    pub async fn start(self) -> Result<Node, StartError> {
        self.settings.validate().map_err(StartError::Settings)?;
        let identity = Identity::begin(&self.meta, &self.entropy)?;
        let moving = Moving::open(&self.meta)?;
        let new_cluster = ClusterId(self.entropy.bytes());
        let new_key = ClusterKey(self.entropy.bytes());
        let gossip_seed = u64::from_le_bytes(self.entropy.bytes());
        let (seeds, transport, datagrams) = (self.seeds, self.transport, self.datagrams);
        let group =
            slipring_consensus::Settings { seed: u64::from_le_bytes(self.entropy.bytes()), ..self.group };
        let core = Arc::new_cyclic(|handle| Core {
            handle: handle.clone(),
            me: identity.node,
            incarnation: identity.incarnation,
            boot: u64::from_le_bytes(self.entropy.bytes()),
            addresses: self.addresses,
            cluster: OnceLock::new(),
            clock: self.clock,
            began: Instant::now(),
            meta: self.meta,
            disk: self.disk,
            memory: self.memory,
            handlers: self.handlers,
            view: ArcSwapOption::empty(),
            adopted: watch::Sender::new(0),
            moving,
            muster: Muster::default(),
            recovery: Recovery::default(),
            gossip: Gossip::default(),
            health: Health::default(),
            secret: self.secret,
            cluster_key: OnceLock::new(),
            transport: OnceLock::new(),
            group: OnceLock::new(),
            requests: Requests::new(identity.incarnation),
            syncer: Syncer::new(self.disk_waits),
            hints: HintLog::default(),
            metrics: Metrics::new(),
            stop: watch::Sender::new(None),
            settings: self.settings,
            identity,
        });
        core.hints.take_stock(core.disk.as_ref())?;
        let receiver = Arc::new(Receiver(Arc::downgrade(&core)));
        let transport = transport(core.hello(), receiver)?;
        core.transport.get_or_init(|| Arc::clone(&transport));
        let mut tasks = vec![tokio::spawn(Arc::clone(&core).run_ticker())];
        let started = core.enter_cluster(seeds.as_ref(), (new_cluster, new_key), group).await;
        tasks.extend(core.spawn_tasks(started.is_ok()));
        if let Some(datagrams) = datagrams.filter(|_| started.is_ok()) {
            tasks.extend(core.spawn_gossip(Means { datagrams, seed: gossip_seed }));
        }
        let node = Node::new(core, tasks);
        match started {
            Ok(()) => Ok(node),
            Err(error) => {
                // The reason for not starting is worth more to the caller than how the half-started node ended.
                let _ = node.shutdown().await;
                Err(error)
            }
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
        }
    }

    fn descriptor(&self) -> Descriptor {
        Descriptor {
            node: self.me,
            storage: self.identity.storage,
            incarnation: self.incarnation,
            boot: self.boot,
            addresses: self.addresses.clone(),
            zone: self.settings.zone.clone(),
            weight: self.settings.weight,
            versions: self.settings.versions,
        }
    }

    /// Goes on in the node's cluster, joins one, or founds one; works with a layout when it returns.
    async fn enter_cluster(
        self: &Arc<Self>,
        seeds: &dyn Discovery,
        new: (ClusterId, ClusterKey),
        settings: slipring_consensus::Settings,
    ) -> Result<(), StartError> {
        let membership = match self.identity.membership {
            Some(membership) => membership,
            None if seeds.is_empty() => self.found(new)?,
            None => self.join(seeds).await?,
        };
        let known = Membership::admitted_to(&self.meta)?.ok_or(StartError::DamagedIdentity)?;
        self.cluster.get_or_init(|| membership.cluster);
        if let Some(key) = Membership::cluster_key(&self.meta)? {
            self.cluster_key.get_or_init(|| key);
        }
        if let Some(transport) = self.transport.get() {
            transport.set_cluster(membership.cluster);
        }
        let group = self.start_group(membership, &known, settings).await?;
        let agreed = group.layout().borrow().clone();
        self.group.get_or_init(|| group);
        self.adopt(&agreed.unwrap_or_else(|| Arc::new(known)));
        match self.stop.borrow().clone() {
            Some(reason) => Err(StartError::Group(reason)),
            None => Ok(()),
        }
    }

    fn found(&self, (cluster, key): (ClusterId, ClusterKey)) -> Result<Membership, StartError> {
        let membership = Membership { cluster, raft_id: FOUNDER };
        let founder = (self.me, self.descriptor().entry(FOUNDER));
        let key = Some(&key).filter(|_| self.secret.is_none());
        membership.keep(&self.meta, &Layout::found(cluster, self.settings.partition_bits, founder), key)?;
        Ok(membership)
    }

    async fn start_group(
        self: &Arc<Self>,
        membership: Membership,
        known: &Layout,
        settings: slipring_consensus::Settings,
    ) -> Result<LayoutGroup, StartError> {
        let database = self.meta.database();
        let me = (self.me, membership.raft_id);
        let courier = Arc::new(PeerCourier(Arc::downgrade(self)));
        let failed = |error: slipring_consensus::Error| StartError::Group(error.to_string());
        let is_agreed = LayoutGroup::has_state(&database).map_err(failed)?;
        if !is_agreed && membership.raft_id == FOUNDER {
            return LayoutGroup::found(database, settings, me, known.clone(), courier).await.map_err(failed);
        }
        LayoutGroup::resume(database, settings, me, courier).await.map_err(failed)
    }

    /// Asks the seeds in turn, those that there are in each round, until one admits this node or refuses it.
    async fn join(&self, seeds: &dyn Discovery) -> Result<Membership, StartError> {
        let descriptor = serde_json::to_vec(&self.descriptor()).expect("a descriptor is plain data");
        let mut rest_ms = JOIN_RESTS_MS.0;
        loop {
            for address in seeds.candidates().await {
                // Discovery may have heard of this node itself.
                if address == self.addresses.peer {
                    continue;
                }
                if let Some(admission) = self.ask_to_join(&address, descriptor.clone()).await? {
                    let membership = Membership { cluster: admission.cluster, raft_id: admission.raft_id };
                    let key = admission.cluster_key.map(ClusterKey);
                    membership.keep(&self.meta, &admission.layout, key.as_ref())?;
                    return Ok(membership);
                }
            }
            tokio::time::sleep(Duration::from_millis(rest_ms)).await;
            rest_ms = (rest_ms * 2).min(JOIN_RESTS_MS.1);
        }
    }

    /// One seed's answer; `None` when it should be asked again later.
    async fn ask_to_join(&self, address: &str, descriptor: Vec<u8>) -> Result<Option<Admission>, StartError> {
        let Some(transport) = self.transport.get() else { return Ok(None) };
        let refused = |reason: String| StartError::Refused { address: address.to_owned(), reason };
        match transport.ask(address.to_owned(), Request::Join(descriptor.into()), JOIN_TIMEOUT).await {
            Ok((_, Reply::Joined(json))) => serde_json::from_slice(&json)
                .map(Some)
                .map_err(|error| refused(format!("its answer cannot be read: {error}"))),
            Ok((_, Reply::Failed { kind, message })) => match kind {
                slipring_model::ErrorKind::Unavailable | slipring_model::ErrorKind::OutcomeUnknown => {
                    tracing::info!(address, message, "cannot join yet");
                    Ok(None)
                }
                _ => Err(refused(message)),
            },
            Ok(_) => Err(refused("it answered out of turn".to_owned())),
            Err(AskError::Refused { reason, .. }) => Err(refused(reason)),
            Err(error) => {
                tracing::info!(address, %error, "a seed cannot be reached yet");
                Ok(None)
            }
        }
    }

    fn spawn_tasks(self: &Arc<Self>, is_started: bool) -> Vec<tokio::task::JoinHandle<()>> {
        if !is_started {
            return Vec::new();
        }
        let core = || Arc::clone(self);
        vec![
            tokio::spawn(core().run_follower()),
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
        ]
    }

    async fn run_ticker(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TICK).await;
            self.tick();
        }
    }
}

/// The founder's number in the layout group.
const FOUNDER: u64 = 1;
