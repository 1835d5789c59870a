//! Nobody speaks under an id whose key it does not have: not by saying so, not with what it overheard, not through another
//! node; and strangers keep no member out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use slipring_model::{ClusterId, NodeId, StorageId, limits};
use slipring_transport::{GrpcTransport, Identity, Inbox, NodeKey, Settings, Transport};
use slipring_wire::{Hello, Message, PROTOCOL_VERSIONS, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CLUSTER: ClusterId = ClusterId([1; 16]);

/// What has come.
#[derive(Default)]
struct Seen {
    connected: Mutex<Vec<NodeId>>,
    disconnected: Mutex<Vec<NodeId>>,
    messages: Mutex<Vec<NodeId>>,
    questions: Mutex<Vec<NodeId>>,
}

struct Ear(Arc<Seen>);

impl Inbox for Ear {
    fn connected(&self, peer: &Hello) {
        self.0.connected.lock().push(peer.node);
    }

    fn disconnected(&self, peer: NodeId, _: BTreeSet<u64>) {
        self.0.disconnected.lock().push(peer);
    }

    fn messages(&self, from: NodeId, messages: Vec<Message>) {
        self.0.messages.lock().extend(messages.iter().map(|_| from));
    }

    fn asked(&self, hello: &Hello, _: Request) -> BoxFuture<'static, Reply> {
        self.0.questions.lock().push(hello.node);
        Box::pin(std::future::ready(Reply::Done))
    }
}

struct Side {
    node: NodeId,
    address: String,
    transport: GrpcTransport,
    seen: Arc<Seen>,
}

fn key(number: u8) -> Arc<NodeKey> {
    Arc::new(NodeKey::from_seed(&[number; 32]).expect("32 bytes"))
}

/// A node that calls itself `claimed` and has the key of `number`.
async fn claiming(claimed: NodeId, number: u8) -> Side {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let hello = Hello {
        versions: PROTOCOL_VERSIONS,
        cluster: Some(CLUSTER),
        node: claimed,
        storage: StorageId::default(),
        incarnation: 1,
        boot: 1,
        peer_address: address.clone(),
        is_question: false,
        redis_cluster_address: String::new(),
    };
    let seen = Arc::new(Seen::default());
    let drawn = Mutex::new(Rng::new());
    let nonces = Arc::new(move || std::array::from_fn(|_| drawn.lock().u8(..)));
    let identity = Identity { hello, key: key(number), nonces };
    let inbox = Arc::new(Ear(Arc::clone(&seen)));
    let transport = GrpcTransport::start(Settings::default(), listener, identity, inbox);
    Side { node: claimed, address, transport, seen }
}

async fn honest(number: u8) -> Side {
    claiming(key(number).node(), number).await
}

/// Lets `one` dial `other`'s node at an address.
fn dial_at(one: &Side, other: NodeId, address: &str) {
    one.transport.set_peers(BTreeMap::from([(other, address.to_owned())]));
}

fn meet(one: &Side, other: &Side) {
    dial_at(one, other.node, &other.address);
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

/// What lies between: passes bytes on, and keeps those of each connection that dials.
struct Wire {
    address: String,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Connections that were passed on and are over.
    over: Arc<AtomicUsize>,
}

async fn wire_to(target: String) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let (said, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    let (kept, ended) = (Arc::clone(&said), Arc::clone(&over));
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(&target).await else { continue };
            let number = {
                let mut kept = kept.lock();
                kept.push(Vec::new());
                kept.len() - 1
            };
            let (kept, ended) = (Arc::clone(&kept), Arc::clone(&ended));
            tokio::spawn(async move {
                let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                    (near.into_split(), far.into_split());
                let forth = async {
                    let mut buffer = vec![0; 4096];
                    while let Ok(bytes @ 1..) = near_in.read(&mut buffer).await {
                        let read = buffer.get(..bytes).unwrap_or_default();
                        if let Some(kept) = kept.lock().get_mut(number) {
                            kept.extend_from_slice(read);
                        }
                        if far_out.write_all(read).await.is_err() {
                            break;
                        }
                    }
                };
                let back = tokio::io::copy(&mut far_in, &mut near_out);
                tokio::select! { () = forth => {}, _ = back => {} }
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    Wire { address, said, over }
}

#[tokio::test]
async fn impostors_displace_no_connection_and_say_nothing() {
    let (node, member) = (honest(1).await, honest(2).await);
    meet(&node, &member);
    wait_until("the member is connected", || node.transport.is_connected(member.node)).await;
    let impostor = claiming(member.node, 3).await;
    let wire = wire_to(node.address.clone()).await;
    dial_at(&impostor, node.node, &wire.address);
    wait_until("the impostor has tried several times", || wire.over.load(Ordering::SeqCst) >= 3).await;
    let asked = impostor.transport.ask(node.address.clone(), Request::Status, Duration::from_secs(5)).await;
    let refusal = asked.expect_err("it has not the key").to_string();
    assert!(refusal.contains("does not have the key"), "{refusal}");
    assert_eq!(*node.seen.connected.lock(), [member.node]);
    assert!(node.seen.disconnected.lock().is_empty() && node.seen.questions.lock().is_empty());
    assert!(impostor.seen.connected.lock().is_empty());
    member.transport.send(node.node, Message::Reply { id: 1, reply: Reply::Done }).expect("it is connected");
    wait_until("the member is heard", || *node.seen.messages.lock() == [member.node]).await;
}

#[tokio::test]
async fn impostors_that_are_dialled_are_no_peers() {
    let (node, member) = (honest(1).await, key(2).node());
    let impostor = claiming(member, 3).await;
    let wire = wire_to(impostor.address.clone()).await;
    dial_at(&node, member, &wire.address);
    wait_until("the impostor was dialled several times", || wire.over.load(Ordering::SeqCst) >= 3).await;
    let asked = node.transport.ask(impostor.address.clone(), Request::Status, Duration::from_secs(5)).await;
    assert!(asked.is_err(), "{asked:?}");
    assert!(node.seen.connected.lock().is_empty() && impostor.seen.questions.lock().is_empty());
}

#[tokio::test]
async fn overheard_proofs_are_worth_nothing_on_another_connection() {
    let (node, member) = (honest(1).await, honest(2).await);
    let wire = wire_to(node.address.clone()).await;
    dial_at(&member, node.node, &wire.address);
    wait_until("the member is connected", || node.seen.connected.lock().len() == 1).await;
    member.transport.send(node.node, Message::Reply { id: 1, reply: Reply::Done }).expect("it is connected");
    wait_until("the member is heard", || node.seen.messages.lock().len() == 1).await;
    member.transport.shutdown();
    wait_until("the member is gone", || node.seen.disconnected.lock().len() == 1).await;
    let overheard = wire.said.lock().first().cloned().expect("the connection");
    for _ in 0..3 {
        let mut replay = TcpStream::connect(&node.address).await.expect("it listens");
        replay.write_all(&overheard).await.expect("it takes bytes");
        let mut answer = Vec::new();
        // Either it is closed, or the stream in it has ended and the connection is let go in time.
        let _ = tokio::time::timeout(Duration::from_secs(1), replay.read_to_end(&mut answer)).await;
        assert!(!answer.is_empty(), "it was greeted");
    }
    assert_eq!(node.seen.connected.lock().len(), 1);
    assert_eq!(node.seen.messages.lock().len(), 1);
}

#[tokio::test]
async fn proofs_for_one_node_cannot_be_passed_on_to_another() {
    // The member believes that another node is there; what it says is passed on to this one.
    let (node, member, other) = (honest(1).await, honest(2).await, key(3).node());
    let wire = wire_to(node.address.clone()).await;
    dial_at(&member, other, &wire.address);
    wait_until("it was tried several times", || wire.over.load(Ordering::SeqCst) >= 3).await;
    assert!(node.seen.connected.lock().is_empty() && member.seen.connected.lock().is_empty());
}

#[tokio::test]
async fn silent_strangers_keep_no_member_out_and_leave_in_time() {
    let (node, member) = (honest(1).await, honest(2).await);
    let mut silent = Vec::new();
    for _ in 0..limits::GUESTS_MAX + 44 {
        silent.push(TcpStream::connect(&node.address).await.expect("it listens"));
    }
    meet(&member, &node);
    wait_until("the member is connected", || member.transport.is_connected(node.node)).await;
    for stranger in &mut silent {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(8), stranger.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a silent connection stays open");
    }
}

#[tokio::test]
async fn proven_strangers_are_sent_away_and_members_stay() {
    let (node, member, stranger) = (honest(1).await, honest(2).await, honest(3).await);
    meet(&node, &member);
    meet(&member, &node);
    meet(&stranger, &node);
    wait_until("the stranger is connected", || node.seen.connected.lock().contains(&stranger.node)).await;
    wait_until("the member is connected", || node.transport.is_connected(member.node)).await;
    let before = node.seen.disconnected.lock().len();
    wait_until("the stranger is sent away", || node.seen.disconnected.lock().contains(&stranger.node)).await;
    assert!(node.transport.is_connected(member.node));
    assert_eq!(node.seen.disconnected.lock()[before..], [stranger.node]);
}
