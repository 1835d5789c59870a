//! Every message that there is, with a valid body, from nodes that are no members and from members in every state, to real
//! nodes over real connections: nothing changes, no node ends, and every directory can be used again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::BoxFuture;
use slipring_apps::KV;
use slipring_apps::kv;
use slipring_discovery::StaticSeeds;
use slipring_model::{BucketId, ClusterId, ErrorKind, NodeId, Position, Room, Signature, StorageId};
use slipring_node::{CallOptions, Node, Settings};
use slipring_ring::{Addresses, Change, Command, NodeChange, NodeState};
use slipring_service::Service;
use slipring_storage::faults::FaultyFile;
use slipring_storage::{MemoryEngine, MetaStore};
use slipring_transport::{GrpcTransport, Identity, Inbox, NodeKey, Transport};
use slipring_wire::{Hello, Message, PROTOCOL_VERSIONS, Reply, Request};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(30);
const BUCKET: BucketId = BucketId(0);
const KEYS: usize = 20;
/// The ids of requests that a node has under way begin with its incarnation.
const IDS_GUESSED: u64 = 400;

/// Where a node runs: what outlives its process.
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

    async fn start(&self, join: Option<&Self>, spare: bool) -> Node {
        let listener = self.bind().await;
        let addresses = Addresses { peer: self.address.clone(), ..Addresses::default() };
        let settings = Settings { partition_bits: 4, spare, ..Settings::default() };
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
        builder.service(&KV).join(seeds).start().await.expect("it starts")
    }

    fn key(&self) -> Arc<NodeKey> {
        let seed = self.meta.get("identity/key").expect("readable").expect("it has begun");
        Arc::new(NodeKey::from_seed(&seed).expect("32 bytes"))
    }
}

async fn wait_until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Hears nothing of what it is answered.
struct Deaf;

impl Inbox for Deaf {
    fn connected(&self, _: &Hello) {}

    fn disconnected(&self, _: NodeId, _: BTreeSet<u64>) {}

    fn messages(&self, _: NodeId, _: Vec<Message>) {}

    fn asked(&self, _: &Hello, _: Request) -> BoxFuture<'static, Reply> {
        Box::pin(std::future::ready(Reply::RolledBack))
    }
}

/// One that speaks under the id `claimed`, with a key.
struct Speaker {
    transport: GrpcTransport,
}

impl Speaker {
    async fn new(cluster: ClusterId, claimed: NodeId, key: Arc<NodeKey>, start: (u64, u64)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let peer_address = listener.local_addr().expect("it is bound").to_string();
        let hello = Hello {
            versions: PROTOCOL_VERSIONS,
            cluster: Some(cluster),
            node: claimed,
            storage: StorageId::default(),
            incarnation: start.0,
            boot: start.1,
            peer_address,
            is_question: false,
            redis_cluster_address: String::new(),
        };
        let drawn = std::sync::Mutex::new(fastrand::Rng::new());
        let nonces = Arc::new(move || std::array::from_fn(|_| drawn.lock().expect("one thread").u8(..)));
        let settings = slipring_transport::Settings::default();
        let identity = Identity { hello, key, nonces };
        Self { transport: GrpcTransport::start(settings, listener, identity, Arc::new(Deaf)) }
    }

    /// Says all of it to each node, over a connection where it gets one, and as questions.
    async fn say(&self, nodes: &[(&Home, &Node)], messages: impl Fn(&Node) -> Vec<Message>, is_heard: bool) {
        let peers = nodes.iter().map(|(home, node)| (node.id(), home.address.clone()));
        self.transport.set_peers(peers.collect::<BTreeMap<_, _>>());
        for (home, node) in nodes {
            if is_heard {
                wait_until("it is connected", async || self.transport.is_connected(node.id())).await;
            }
            for message in messages(node) {
                let question = match &message {
                    Message::Request { request, .. } if !matches!(request, Request::Join(_)) => {
                        Some(request.clone())
                    }
                    _ => None,
                };
                // A connection that is refused, or that was ended, takes nothing.
                let _ = self.transport.send(node.id(), message);
                if let Some(question) = question {
                    let asked = self.transport.ask(home.address.clone(), question, Duration::from_secs(2));
                    assert!(!matches!(
                        asked.await,
                        Ok((_, Reply::Executed(_) | Reply::Stored | Reply::Page { .. }))
                    ));
                }
            }
        }
        // What was queued has been handled once a question after it is answered.
        tokio::time::sleep(Duration::from_millis(100)).await;
        self.transport.shutdown();
    }
}

fn set(key: &str, value: &'static str) -> kv::Request {
    let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(value.as_bytes()));
    let (expiry, condition) = (kv::Expiry::Default, kv::Condition::Always);
    kv::Request::Set { key, value, expiry, condition, returns_previous: false, seen: None }
}

/// What changes data when it counts.
fn changes() -> Vec<Request> {
    let (bucket, key) = (BUCKET, Bytes::from_static(b"key-0"));
    let request = KV.encode_request(&set("key-0", "forged"));
    let (read_acks, write_acks, deadline_ms) = (0, 0, 500);
    vec![
        Request::Store { bucket, epoch: u64::MAX, key: key.clone(), cell: Bytes::new() },
        Request::Store { bucket, epoch: 1, key: key.clone(), cell: Bytes::new() },
        Request::Overwrite { bucket, epoch: 1, key, cell: Bytes::new() },
        Request::Clear { bucket, from: Position(0), to: Position(u64::MAX) },
        Request::MergeCleared {
            bucket,
            epoch: 1,
            from: Position(0),
            to: Position(u64::MAX),
            cells: Vec::new(),
        },
        Request::Execute { bucket, epoch: 1, read_acks, write_acks, deadline_ms, request },
    ]
}

/// Every other request.
fn questions() -> Vec<Request> {
    let (bucket, epoch, key) = (BUCKET, u64::MAX, Bytes::from_static(b"key-0"));
    let (from, to, partitions) = (Position(0), Position(u64::MAX), vec![0, 1]);
    let roots = vec![(0, Bytes::from_static(&[7; 16]))];
    let entries = vec![(key.clone(), 1)];
    let words = Bytes::from_static(
        b"\x01{\"lineage\":[],\"call\":{\"Propose\":{\"command\":\"Revert\",\"deadline_ms\":9}}}",
    );
    vec![
        Request::Fetch { bucket, epoch, key: key.clone() },
        Request::Digest { bucket, epoch, key },
        Request::Scan { bucket, from, to, limit: 9 },
        Request::Count { bucket, partitions: partitions.clone() },
        Request::CountOfCut { bucket, bits: 4, partitions: partitions.clone() },
        Request::CountEnding { bucket, bits: 4, partitions },
        Request::Roots { bucket, roots: roots.clone() },
        Request::RootsOfCut { bucket, bits: 4, roots },
        Request::Digests { bucket, from, to: Position(9), entries: entries.clone() },
        Request::Pull { bucket, epoch, from, to: Position(9), entries },
        Request::Layout(words),
        Request::Join(Bytes::from_static(b"{}")),
        Request::Introduce(Bytes::from_static(b"{}")),
        Request::Status,
        Request::Goodbye,
        Request::Moves,
        Request::Members,
        Request::Clock,
        Request::Room { disk: Room::Ample, memory: Room::Ample },
    ]
}

/// A claim that the node has started since.
fn claim(node: &Node) -> Request {
    let storage = node.layout().nodes().get(&node.id()).map(|entry| entry.storage).unwrap_or_default();
    Request::LaterStart {
        storage,
        incarnation: node.incarnation() + 1,
        boot: 1,
        signature: Signature([7; 64]),
    }
}

fn replies() -> Vec<Reply> {
    let bytes = Bytes::from_static(b"bytes");
    vec![
        Reply::RolledBack,
        Reply::Removed,
        Reply::Stored,
        Reply::Cell(None),
        Reply::Digest(None),
        Reply::Executed(bytes.clone()),
        Reply::Keys { keys: vec![bytes.clone()], next: None },
        Reply::Count(9),
        Reply::Roots(vec![1]),
        Reply::Digests { missing: vec![bytes.clone()], cells: Vec::new(), next: None },
        Reply::Layout(bytes.clone()),
        Reply::Joined(bytes.clone()),
        Reply::Status(bytes.clone()),
        Reply::Done,
        Reply::Failed { kind: ErrorKind::Invalid, message: "no".to_owned() },
        Reply::Stale { epoch: u64::MAX },
        Reply::Page { cells: Vec::new(), next: None },
        Reply::TakenOver(vec![(0, 0, 0)]),
        Reply::Introduced(bytes.clone()),
        Reply::Clock { wall_us: u64::MAX },
        Reply::Overtaken { cell: bytes },
        Reply::Members { epoch: u64::MAX, nodes: vec![(NodeId([9; 32]), "127.0.0.1:1".to_owned())] },
    ]
}

/// Replies with the ids of what the node may have under way, and with none.
fn unasked(node: &Node) -> impl Iterator<Item = Message> {
    let first = node.incarnation() << 40;
    let ids = std::iter::once(0).chain(first + 1..first + IDS_GUESSED);
    let replies = replies();
    ids.flat_map(move |id| {
        let count = if id == 0 { replies.len() } else { 2 };
        let start = id as usize % replies.len();
        let chosen: Vec<Reply> = replies.iter().cycle().skip(start).take(count).cloned().collect();
        chosen.into_iter().map(move |reply| Message::Reply { id, reply })
    })
}

fn requested(requests: impl IntoIterator<Item = Request>) -> impl Iterator<Item = Message> {
    (1..).zip(requests).map(|(id, request)| Message::Request { id, request })
}

fn everything(node: &Node) -> Vec<Message> {
    let requests = changes().into_iter().chain(questions()).chain([claim(node)]);
    unasked(node).chain(requested(requests)).collect()
}

/// What a member may say without changing anything.
fn harmless(node: &Node) -> Vec<Message> {
    let is_read = |request: &Request| !matches!(request, Request::Layout(_));
    let requests = questions().into_iter().filter(is_read).chain([claim(node)]);
    unasked(node).chain(requested(requests)).collect()
}

async fn call(node: &Node, request: kv::Request) -> kv::Response {
    node.call(&KV, BUCKET, request, CallOptions::default()).await.expect("a quorum serves")
}

struct Cluster {
    homes: Vec<Home>,
    nodes: Vec<Node>,
    id: ClusterId,
}

impl Cluster {
    async fn new(count: usize) -> Self {
        let (mut homes, mut nodes) = (Vec::<Home>::new(), Vec::new());
        for _ in 0..count {
            let home = Home::new().await;
            nodes.push(home.start(homes.first(), false).await);
            homes.push(home);
        }
        let id = nodes.first().map(|node: &Node| node.layout().cluster()).unwrap_or_default();
        let cluster = Self { id, homes, nodes };
        cluster.wait_until_whole(count).await;
        for index in 0..KEYS {
            call(cluster.first(), set(&format!("key-{index}"), "true")).await;
        }
        cluster
    }

    fn first(&self) -> &Node {
        self.nodes.first().expect("a cluster has nodes")
    }

    async fn wait_until_whole(&self, count: usize) {
        wait_until("nothing lacks a copy", async || {
            let status = self.first().status().await;
            status.is_ok_and(|status| status.nodes.len() == count && status.wholeness.is_whole)
        })
        .await;
    }

    fn pairs(&self) -> Vec<(&Home, &Node)> {
        self.homes.iter().zip(&self.nodes).take(3).collect()
    }

    /// All is as it was.
    async fn check(&self, epoch: u64, who: &str) {
        for (_, node) in self.pairs() {
            assert_eq!(*node.stopped().borrow(), None, "{who}");
            assert_eq!(node.layout().epoch(), epoch, "{who}");
            assert_eq!(node.is_ready(), Ok(()), "{who}");
            for index in 0..KEYS {
                let key = Bytes::from(format!("key-{index}"));
                let response = call(node, kv::Request::Get { key }).await;
                let kv::Response::Value(Some(found)) = response else { panic!("{who}: {response:?}") };
                assert_eq!(found.value, b"true"[..], "{who}");
            }
        }
    }

    async fn restart(&mut self) {
        for (home, node) in self.homes.iter().zip(&mut self.nodes) {
            node.shutdown().await.expect("it stops");
            *node = home.start(None, false).await;
        }
    }
}

fn key() -> Arc<NodeKey> {
    let seed: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
    Arc::new(NodeKey::from_seed(&seed).expect("32 bytes"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_strangers_say_changes_anything() {
    let mut cluster = Cluster::new(3).await;
    let epoch = cluster.nodes[0].layout().epoch();
    let stranger = key();
    Speaker::new(cluster.id, stranger.node(), Arc::clone(&stranger), (1, 1))
        .await
        .say(&cluster.pairs(), everything, true)
        .await;
    cluster.check(epoch, "a stranger").await;
    let denied = cluster.nodes[0].metrics();
    assert!(!denied.contains("slipring_requests_denied_total 0"), "{denied}");
    // Under the id of each of them, one of which is the very node that is spoken to.
    for node in cluster.nodes.iter().map(Node::id) {
        let impostor = Speaker::new(cluster.id, node, Arc::clone(&stranger), (9, 9)).await;
        impostor.say(&cluster.pairs(), everything, false).await;
        cluster.check(epoch, "an impostor").await;
    }
    let foreign = Speaker::new(ClusterId([9; 16]), stranger.node(), stranger, (1, 1)).await;
    foreign.say(&cluster.pairs(), everything, false).await;
    cluster.check(epoch, "a node of another cluster").await;
    cluster.restart().await;
    cluster.wait_until_whole(3).await;
    for node in &cluster.nodes {
        node.shutdown().await.expect("it stops");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_members_say_unasked_changes_anything() {
    let mut cluster = Cluster::new(3).await;
    let home = Home::new().await;
    let spare = home.start(cluster.homes.first(), true).await;
    let id = spare.id();
    wait_until("all know it", async || {
        cluster
            .nodes
            .iter()
            .all(|node| node.layout().nodes().get(&id).is_some_and(|entry| entry.incarnation == 1))
    })
    .await;
    let boot = cluster.nodes[0].layout().nodes()[&id].boot;
    spare.shutdown().await.expect("it stops");
    let epoch = cluster.nodes[0].layout().epoch();
    let speaker = Speaker::new(cluster.id, id, home.key(), (1, boot)).await;
    speaker.say(&cluster.pairs(), harmless, true).await;
    cluster.check(epoch, "a spare").await;
    let outdated = Speaker::new(cluster.id, id, home.key(), (0, 1)).await;
    outdated.say(&cluster.pairs(), everything, true).await;
    cluster.check(epoch, "an older start").await;
    let changes = vec![Change { node: id, change: NodeChange::State(NodeState::Lost) }];
    cluster.nodes[0]
        .propose(Command::Change { changes, expected_epoch: None })
        .await
        .expect("the group agrees");
    wait_until("it is no member", async || {
        let first = cluster.nodes[0].layout().epoch();
        cluster.nodes.iter().all(|node| node.layout().nodes().len() == 3 && node.layout().epoch() == first)
    })
    .await;
    let epoch = cluster.nodes[0].layout().epoch();
    let removed = Speaker::new(cluster.id, id, home.key(), (1, boot)).await;
    removed.say(&cluster.pairs(), everything, true).await;
    cluster.check(epoch, "a removed member").await;
    cluster.restart().await;
    cluster.wait_until_whole(3).await;
    for node in &cluster.nodes {
        node.shutdown().await.expect("it stops");
    }
}

/// Writes one after the other for a while; how many.
async fn written(node: &Node, during: Duration) -> u32 {
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < during {
        call(node, set("busy", "value")).await;
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn impostors_do_not_slow_members_down() {
    let cluster = Cluster::new(3).await;
    let (mut quiet, mut loud) = (0, 0);
    let span = Duration::from_millis(700);
    // In turn, as the machine has other things to do as well.
    for _ in 0..4 {
        quiet += written(&cluster.nodes[0], span).await;
        let is_over = Arc::new(AtomicBool::new(false));
        let speaking = {
            let (is_over, id, key) = (Arc::clone(&is_over), cluster.id, key());
            let (address, node, member) =
                (cluster.homes[0].address.clone(), cluster.nodes[0].id(), cluster.nodes[1].id());
            tokio::spawn(async move {
                let mut tried = 0;
                while !is_over.load(Ordering::Acquire) {
                    let impostor = Speaker::new(id, member, Arc::clone(&key), (9, 9)).await;
                    impostor.transport.set_peers(BTreeMap::from([(node, address.clone())]));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    impostor.transport.shutdown();
                    tried += 1;
                }
                tried
            })
        };
        loud += written(&cluster.nodes[0], span).await;
        is_over.store(true, Ordering::Release);
        assert!(speaking.await.expect("it speaks") > 5);
    }
    println!("{quiet} writes alone, {loud} beside impostors");
    assert!(loud * 2 >= quiet, "{quiet} writes alone, {loud} beside impostors");
    for node in &cluster.nodes {
        node.shutdown().await.expect("it stops");
    }
}
