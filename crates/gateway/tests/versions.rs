//! Nodes that speak different versions of the protocol, over real connections: a cluster that is upgraded node by
//! node while it serves, and nodes that have no version in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use slipring_apps::KV;
use slipring_apps::kv::{Condition, Expiry, Request, Response};
use slipring_discovery::StaticSeeds;
use slipring_model::{BucketId, Versions};
use slipring_node::{CallOptions, Node, Settings, StartError};
use slipring_ring::Addresses;
use slipring_storage::faults::FaultyFile;
use slipring_storage::{MemoryEngine, MetaStore};
use slipring_transport::GrpcTransport;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);
const OLD: Versions = Versions { oldest: 5, newest: 5 };
const BOTH: Versions = Versions { oldest: 5, newest: 6 };
const NEW: Versions = Versions { oldest: 6, newest: 6 };

/// Where a node runs, whichever build of it: what outlives its process.
struct Home {
    meta: MetaStore,
    disk: Arc<MemoryEngine>,
    address: String,
}

impl Home {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let meta = MetaStore::with_backend(FaultyFile::new()).expect("a new file");
        Self { meta, disk: Arc::new(MemoryEngine::new()), address }
    }

    /// The port of before, once the node of before has let go of it.
    async fn bind(&self) -> TcpListener {
        let began = Instant::now();
        loop {
            match TcpListener::bind(&self.address).await {
                Ok(listener) => return listener,
                Err(error) => assert!(began.elapsed() < PATIENCE, "{}: {error}", self.address),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn start(&self, versions: Versions, join: Option<&Self>) -> Result<Node, StartError> {
        let listener = self.bind().await;
        let addresses = Addresses { peer: self.address.clone(), ..Addresses::default() };
        let settings = Settings { versions, partition_bits: 4, ..Settings::default() };
        let builder = Node::builder(
            settings,
            self.meta.clone(),
            self.disk.clone(),
            addresses,
            Box::new(move |identity, inbox| {
                let settings = slipring_transport::Settings::default();
                Ok(Arc::new(GrpcTransport::start(settings, listener, identity, inbox)))
            }),
        );
        let seeds = StaticSeeds::new(join.map(|home| home.address.clone())).expect("an address");
        builder.service(&KV).join(seeds).start().await
    }
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_until_whole(node: &Node, nodes: usize) {
    wait_until("nothing lacks a copy", async || {
        node.status().await.is_ok_and(|status| status.nodes.len() == nodes && status.wholeness.is_whole)
    })
    .await;
}

async fn call(node: &Node, request: Request) -> Response {
    node.call(&KV, BucketId(0), request, CallOptions::default()).await.expect("a quorum serves")
}

async fn write(node: &Node, key: &str) {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(b"value"));
    let (expiry, condition) = (Expiry::Default, Condition::Always);
    let request = Request::Set { key, value, expiry, condition, returns_previous: false, seen: None };
    assert!(matches!(call(node, request).await, Response::Written { done: true, .. }));
}

async fn has(node: &Node, key: &str) -> bool {
    let request = Request::Get { key: Bytes::copy_from_slice(key.as_bytes()) };
    matches!(call(node, request).await, Response::Value(Some(_)))
}

/// Three nodes of one build, whole.
async fn cluster(versions: Versions) -> (Vec<Home>, Vec<Node>) {
    let homes = vec![Home::new().await, Home::new().await, Home::new().await];
    let mut nodes = Vec::new();
    for home in &homes {
        let seed = homes.first().filter(|first| first.address != home.address);
        nodes.push(home.start(versions, seed).await.expect("it joins"));
    }
    wait_until_whole(nodes.first().expect("the founder"), 3).await;
    (homes, nodes)
}

async fn stop(nodes: &[Node]) {
    for node in nodes {
        node.shutdown().await.expect("it stops");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_node_by_node_and_rises_to_the_new_level_with_the_last() {
    let (homes, mut nodes) = cluster(OLD).await;
    let mut written = Vec::new();
    for (before, after, level_before, level_after) in [(OLD, BOTH, 5, 6), (BOTH, NEW, 6, 6)] {
        for turn in 0..homes.len() {
            let (home, node) = (homes.get(turn).expect("a home"), nodes.get_mut(turn).expect("a node"));
            node.shutdown().await.expect("it stops");
            *node = home.start(after, None).await.expect("it goes on in its cluster");
            wait_until_whole(node, 3).await;
            let is_last = turn + 1 == homes.len();
            let level = if is_last { level_after } else { level_before };
            for (index, node) in nodes.iter().enumerate() {
                wait_until("the level is known", async || node.layout().level() == level).await;
                let key = format!("{before} {after} {turn} {index}");
                write(node, &key).await;
                written.push(key);
            }
        }
    }
    for node in &nodes {
        for key in &written {
            assert!(has(node, key).await, "{key}");
        }
    }
    let status = nodes.first().expect("a node").status().await.expect("it is a member");
    assert_eq!(status.level, 6);
    assert!(status.nodes.iter().all(|node| node.versions == NEW));
    stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_a_common_version_refuse_each_other_and_say_why() {
    let (homes, mut nodes) = cluster(OLD).await;
    let stranger = Home::new().await.start(NEW, homes.first()).await;
    let reason = stranger.err().expect("nobody understands it").to_string();
    assert!(reason.contains("5 to 5") && reason.contains("6 to 6") && reason.contains("upgrade"), "{reason}");

    // A member that comes back without the step between is kept out, and harms nobody.
    let last = nodes.pop().expect("the third");
    let id = last.id();
    last.shutdown().await.expect("it stops");
    let home = homes.last().expect("the third's");
    let strange = home.start(NEW, None).await.expect("it goes on with what it knows");
    let first = nodes.first().expect("the founder").clone();
    write(&first, "meanwhile").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!first.is_connected(id) && !strange.is_agreed() && strange.is_ready().is_err());
    assert!(!first.status().await.expect("it serves").wholeness.is_whole);
    strange.shutdown().await.expect("it stops");

    let back = home.start(BOTH, None).await.expect("it goes on in its cluster");
    wait_until_whole(&back, 3).await;
    assert!(has(&back, "meanwhile").await);
    nodes.push(back);
    stop(&nodes).await;
}
