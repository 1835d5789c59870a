//! Starting a node: claim the directory, bind the ports, join the cluster, serve until told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use slipring_apps::KV;
use slipring_discovery::{Discovery, Sources};
use slipring_gateway::http::Hosts;
use slipring_gateway::resp;
use slipring_node::{Node, StartError, TransportFactory, UdpDatagrams};
use slipring_ring::NodeState;
use slipring_storage::{DataDir, DiskEngine, MemoryEngine, MetaStore};
use slipring_transport::GrpcTransport;
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::announced::{self, Listens};
use crate::give_back;
use crate::open_files::{self, Connections};
use crate::output::{note, say};
use crate::settings::{Origin, Settings};

/// How long a start waits for the cluster to agree to it, and how often it looks.
const AGREEMENT_PATIENCE: Duration = Duration::from_secs(5);
const AGREEMENT_INTERVAL: Duration = Duration::from_millis(5);
/// How long a node that has just joined waits for its share before it serves.
const SHARE_PATIENCE: Duration = Duration::from_secs(5);

/// How many free ports are tried until one is free for datagrams as well.
const FREE_PORT_TRIES: u32 = 16;

/// How a start is watched over by whoever started it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Watching {
    /// Write a JSON file with the node's addresses once it serves.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Stop when standard input closes: when whoever started this process is gone.
    #[arg(long)]
    exit_with_stdin: bool,
}

/// The ports, bound before anything else happens.
struct Ports {
    redis: TcpListener,
    redis_cluster: TcpListener,
    http: TcpListener,
    peer: TcpListener,
    /// Of the same number as the port for peers.
    gossip: UdpSocket,
}

impl Ports {
    fn listens(&self) -> std::io::Result<Listens> {
        Ok(Listens {
            peer: self.peer.local_addr()?,
            redis: self.redis.local_addr()?,
            http: self.http.local_addr()?,
            redis_cluster: self.redis_cluster.local_addr()?,
        })
    }
}

/// Runs a node to its end.
pub(crate) fn run(settings: &Settings, origins: &[Origin], watching: &Watching) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if settings.workers > 0 {
        runtime.worker_threads(settings.workers);
    }
    runtime.enable_all().build()?.block_on(serve(settings, origins, watching))
}

async fn serve(settings: &Settings, origins: &[Origin], watching: &Watching) -> anyhow::Result<()> {
    let secret = settings.cluster_secret()?;
    let connections = connections(settings)?;
    let directory = claim(&settings.data)?;
    let ports = bind(settings).await?;
    let addresses = announced::addresses(settings, &ports.listens()?)?;
    let keys = Some(directory.path());
    let seeds = Arc::new(Sources::read(&settings.join, keys).context("join")?);
    let boards = Sources::read_for_announcing(&settings.announce, keys).context("announce")?;
    let Stores { disk, memory, meta } = Stores::open(settings, &directory)?;
    say_where(settings, &seeds, &meta)?;
    let mut stop = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listens = ports.peer.local_addr()?;
    let transport = transport(ports.peer, connections.peers);
    let builder = Node::builder(settings.node()?, meta, disk, addresses, transport)
        .memory(memory)
        .datagrams(Arc::new(UdpDatagrams::new(ports.gossip)?))
        .clients(settings.clients(connections))
        .secret(secret);
    let starting = async {
        let builder = builder.service(&KV).join(Arc::clone(&seeds)).expect(settings.expect.0);
        let node = builder.found(settings.found).start().await?;
        await_agreement(&node).await;
        await_share(&node).await;
        Ok::<_, StartError>(node)
    };
    let started = tokio::select! {
        started = starting => started.map(Some),
        _ = stop.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    };
    let Ok(Some(node)) = started else {
        // Nodes that expect each other are announced before they start to serve.
        seeds.withdraw().await;
        return started.map(drop).map_err(Into::into);
    };
    let (stopping, is_stopping) = watch::channel(false);
    let giving_back = tokio::spawn(give_back::run(node.client_memory().clone()));
    let plain = resp::Port::new(node.clone(), is_stopping.clone());
    let cluster = plain.with_view(resp::View::Cluster);
    let redis = [(ports.redis, plain), (ports.redis_cluster, cluster)]
        .map(|(listener, port)| tokio::spawn(resp::serve(listener, port)));
    let announced = [node.addresses().peer.as_str(), &node.addresses().http];
    let hosts = Hosts::new(ports.http.local_addr()?.ip(), &announced, settings.http_hosts()?);
    let http = tokio::spawn(slipring_gateway::http::serve(ports.http, node.clone(), hosts, is_stopping));
    for sources in [seeds.as_ref(), &boards] {
        sources.announce(&node.addresses().peer);
    }
    say_what_does_not_count(settings, origins, &node);
    say_if_no_spare(settings, &node);
    announce(&node, settings, watching, listens)?;
    let mut failed = node.stopped();
    let reason = tokio::select! {
        _ = stop.recv() => None,
        _ = interrupt.recv() => None,
        () = stdin_closed(), if watching.exit_with_stdin => None,
        reason = failed.wait_for(Option::is_some) => reason.ok().and_then(|reason| reason.clone()),
    };
    note!("slipring: stopping; a second signal ends the process at once");
    stopping.send_replace(true);
    tokio::select! {
        _ = stop.recv() => anyhow::bail!("stopped before everything was finished"),
        _ = interrupt.recv() => anyhow::bail!("stopped before everything was finished"),
        ended = async { tokio::join!(seeds.withdraw(), boards.withdraw()); node.shutdown().await } => ended?,
    }
    redis.iter().for_each(JoinHandle::abort);
    http.abort();
    giving_back.abort();
    reason.map_or(Ok(()), |reason| ended(reason, node.has_left()))
}

/// What a node keeps.
struct Stores {
    disk: Arc<DiskEngine>,
    memory: Arc<MemoryEngine>,
    meta: MetaStore,
}

impl Stores {
    fn open(settings: &Settings, directory: &DataDir) -> anyhow::Result<Self> {
        // In this order: a meta store without records is a directory that has lost them.
        let (disk, meta) = (Arc::new(directory.disk()?), directory.meta()?);
        directory.settle(&Node::storage_in(&meta)?.0)?;
        disk.set_reserve(settings.disk_reserve.0);
        let memory = Arc::new(MemoryEngine::new());
        memory.set_limit(settings.bucket_memory_bytes());
        Ok(Self { disk, memory, meta })
    }
}

/// The port for peers, with so many places.
fn transport(port: TcpListener, connections_max: usize) -> TransportFactory {
    Box::new(move |identity, inbox| {
        let settings = slipring_transport::Settings { connections_max, ..Default::default() };
        Ok(Arc::new(GrpcTransport::start(settings, port, identity, inbox)))
    })
}

/// Tells why the node has ended by itself.
fn ended(reason: String, has_left: bool) -> anyhow::Result<()> {
    if !has_left {
        anyhow::bail!(reason);
    }
    note!("slipring: {reason}");
    Ok(())
}

/// How many connections each port accepts, once the process may open as many files as it can.
fn connections(settings: &Settings) -> anyhow::Result<Connections> {
    let limit = open_files::raise()?;
    let connections = open_files::share_out(limit, settings.connections)?;
    let Connections { redis, http, peers } = connections;
    tracing::info!(limit, redis, http, peers, "open files and the connections that each port accepts");
    if redis.min(http) < settings.connections {
        let set = settings.connections;
        note!(
            "slipring: this process may have {limit} files open, so the ports accept {redis} Redis and {http} HTTP \
             connections in place of {set}; raise its limit for more"
        );
    }
    Ok(connections)
}

fn claim(path: &Path) -> anyhow::Result<DataDir> {
    if path.is_file() {
        anyhow::bail!("the data directory {} is a file; name a directory with --data", path.display());
    }
    Ok(DataDir::claim(path)?)
}

/// Says whom this node will ask, if anybody can be asked.
fn say_where(settings: &Settings, seeds: &Sources, meta: &MetaStore) -> anyhow::Result<()> {
    if seeds.is_empty() {
        return Ok(());
    }
    let places = settings.join.join(" ");
    match (Node::cluster_in(meta)?, settings.expect.0) {
        (Some(cluster), _) => note!(
            "slipring: this data directory belongs to cluster {} already; --join only helps to find its members if they have \
             moved",
            cluster.short()
        ),
        (None, _) if settings.found => {
            note!("slipring: founds a cluster, unless a member of one answers at {places}")
        }
        (None, Some(expected)) => note!("slipring: looking for {expected} nodes, or a cluster, at {places}"),
        (None, None) => note!("slipring: asking {places} to join their cluster"),
    }
    Ok(())
}

/// What was set of the node's role and is not so, because a role is changed by agreement alone once a node has joined.
fn say_what_does_not_count(settings: &Settings, origins: &[Origin], node: &Node) {
    let (id, layout) = (node.id(), node.layout());
    let Some(role) = layout.nodes().get(&id).map(|entry| &entry.role) else { return };
    let settled = [
        ("zone", settings.zone.clone(), role.zone.clone()),
        ("weight", settings.weight.to_string(), role.weight.to_string()),
    ];
    let is_set = |name: &str| origins.iter().any(|origin| origin.name == name && origin.source != "default");
    for (name, set, own) in settled.into_iter().filter(|(name, set, own)| is_set(name) && set != own) {
        note!(
            "slipring: {name} = {set} counts only when a node first joins, and this one has {own}; \
             to change it: slipring layout commit --{name} {}={set}",
            id.short()
        );
    }
}

/// Members of releases that know no spares take each node that joins for one that is to hold its share.
fn say_if_no_spare(settings: &Settings, node: &Node) {
    let (id, layout) = (node.id(), node.layout());
    let is_active = layout.nodes().get(&id).is_some_and(|entry| entry.role.state == NodeState::Active);
    if settings.spare && node.incarnation() == 1 && is_active {
        note!(
            "slipring: spare = true was not understood by the member that let this node in, so it takes a share; to \
             give that away: slipring drain {}",
            id.short()
        );
    }
}

/// Waits until the cluster has agreed to this start, so that "serves" is true when it is said. Without a
/// majority of the layout group it is said all the same after a while: this node can forward by then.
async fn await_agreement(node: &Node) {
    let mut stopped = node.stopped();
    let agreed = async {
        while !node.is_agreed() && stopped.borrow_and_update().is_none() {
            tokio::time::sleep(AGREEMENT_INTERVAL).await;
        }
    };
    if tokio::time::timeout(AGREEMENT_PATIENCE, agreed).await.is_err() {
        tracing::warn!(
            "no majority has agreed to this start yet; until then other nodes answer for its copies"
        );
    }
}

/// A node that has just joined waits a little for its share, so that a small cluster is whole when it serves.
async fn await_share(node: &Node) {
    let arriving = async {
        while node.layout().is_moving() {
            tokio::time::sleep(AGREEMENT_INTERVAL).await;
        }
    };
    let is_new = node.incarnation() == 1;
    if is_new && tokio::time::timeout(SHARE_PATIENCE, arriving).await.is_err() {
        tracing::info!("this node's share is still moving here; `slipring layout watch` shows how far it is");
    }
}

async fn bind(settings: &Settings) -> anyhow::Result<Ports> {
    let listen = |what: &'static str, flag: &'static str, port: u16| async move {
        let address: SocketAddr = SocketAddr::new(settings.bind.parse()?, port);
        TcpListener::bind(address).await.with_context(|| {
            format!("{address} cannot be used for {what}: is another process on it? choose another with --{flag}, or 0 for any")
        })
    };
    let address = SocketAddr::new(settings.bind.parse()?, settings.peer_port);
    let mut peer = listen("peers", "peer-port", settings.peer_port).await?;
    let mut gossip = UdpSocket::bind(peer.local_addr()?).await;
    for _ in 0..FREE_PORT_TRIES {
        if gossip.is_ok() || settings.peer_port != 0 {
            break;
        }
        peer = TcpListener::bind(address).await?;
        gossip = UdpSocket::bind(peer.local_addr()?).await;
    }
    let gossip = gossip.with_context(|| {
        format!("{address} cannot be used for datagrams: is another process on it? choose another with --peer-port")
    })?;
    Ok(Ports {
        redis: listen("Redis clients", "redis-port", settings.redis_port).await?,
        redis_cluster: listen("Redis Cluster clients", "redis-cluster-port", settings.redis_cluster_port()?)
            .await?,
        http: listen("HTTP clients", "http-port", settings.http_port).await?,
        peer,
        gossip,
    })
}

fn announce(
    node: &Node,
    settings: &Settings,
    watching: &Watching,
    listens: SocketAddr,
) -> anyhow::Result<()> {
    // It serves, whether or not anybody can be told.
    if let Err(error) = say_started(node, settings) {
        tracing::warn!("{error:#}");
    }
    match &watching.ready_file {
        Some(path) => write_ready_file(node, listens, path),
        None => Ok(()),
    }
}

fn say_started(node: &Node, settings: &Settings) -> anyhow::Result<()> {
    let addresses = node.addresses();
    if node.has_founded() {
        say!("slipring founded a new cluster {}", node.cluster());
    }
    say!("slipring {} serves", env!("CARGO_PKG_VERSION"));
    say!("  node     {} (start {})", node.id().short(), node.incarnation());
    say!("  cluster  {} of {} nodes", node.cluster().short(), node.layout().nodes().len());
    say!("  data     {}", settings.data.display());
    say!("  redis    {}; cluster clients: {}", addresses.redis, addresses.redis_cluster);
    say!("  http     http://{}", addresses.http);
    say!("  peers    {}", addresses.peer);
    Ok(())
}

/// Writes the file whole: whoever waits for it never reads half of it.
fn write_ready_file(node: &Node, listens: SocketAddr, path: &Path) -> anyhow::Result<()> {
    let addresses = node.addresses();
    let ready = serde_json::json!({
        "redis": addresses.redis,
        "redis_cluster": addresses.redis_cluster,
        "http": addresses.http,
        "peer": addresses.peer,
        "peer_listens": listens,
        "node": node.id(),
        "pid": std::process::id(),
    });
    let partial = path.with_extension("partial");
    std::fs::write(&partial, ready.to_string()).with_context(|| partial.display().to_string())?;
    std::fs::rename(&partial, path).with_context(|| path.display().to_string())
}

/// Waits for the end of standard input, on a thread that does not keep the process from ending.
async fn stdin_closed() {
    let (closed, is_closed) = oneshot::channel();
    std::thread::spawn(move || {
        // However it ends, it is over. Nobody may be waiting any more.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = closed.send(());
    });
    // A thread that is gone means the same as one that says so.
    let _ = is_closed.await;
}
