//! Nodes of different clusters do not talk: greetings, questions and frames name the cluster, and another's is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use slipring_model::{ClusterId, NodeId, StorageId};
use slipring_transport::{GrpcTransport, Identity, Inbox, NodeKey, Settings, Transport};
use slipring_wire::{Hello, Message, PROTOCOL_VERSIONS, Reply, Request};
use tokio::net::TcpListener;

const OURS: ClusterId = ClusterId([1; 16]);
const THEIRS: ClusterId = ClusterId([2; 16]);

/// Counts what comes.
#[derive(Default)]
struct Seen {
    connected: Mutex<u32>,
    disconnected: Mutex<u32>,
    messages: Mutex<usize>,
    questions: Mutex<u32>,
}

struct Counter(Arc<Seen>);

impl Inbox for Counter {
    fn connected(&self, _: &Hello) {
        *self.0.connected.lock() += 1;
    }

    fn disconnected(&self, _: NodeId, _: BTreeSet<u64>) {
        *self.0.disconnected.lock() += 1;
    }

    fn messages(&self, _: NodeId, messages: Vec<Message>) {
        *self.0.messages.lock() += messages.len();
    }

    fn asked(&self, _: &Hello, _: Request) -> BoxFuture<'static, Reply> {
        *self.0.questions.lock() += 1;
        Box::pin(std::future::ready(Reply::Done))
    }
}

struct Side {
    node: NodeId,
    address: String,
    transport: GrpcTransport,
    seen: Arc<Seen>,
}

async fn side(number: u8, cluster: Option<ClusterId>) -> Side {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let key = Arc::new(NodeKey::from_seed(&[number; 32]).expect("32 bytes"));
    let node = key.node();
    let hello = Hello {
        versions: PROTOCOL_VERSIONS,
        cluster,
        node,
        storage: StorageId::default(),
        incarnation: 1,
        boot: 1,
        peer_address: address.clone(),
        is_question: false,
        redis_cluster_address: String::new(),
    };
    let seen = Arc::new(Seen::default());
    let inbox = Arc::new(Counter(Arc::clone(&seen)));
    let drawn = Mutex::new(Rng::with_seed(number.into()));
    let nonces = Arc::new(move || std::array::from_fn(|_| drawn.lock().u8(..)));
    let identity = Identity { hello, key, nonces };
    Side {
        node,
        address,
        transport: GrpcTransport::start(Settings::default(), listener, identity, inbox),
        seen,
    }
}

fn meet(one: &Side, other: &Side) {
    one.transport.set_peers(BTreeMap::from([(other.node, other.address.clone())]));
}

async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

#[tokio::test]
async fn a_greeting_of_another_cluster_is_refused_by_both_sides() {
    let (one, other) = (side(1, Some(OURS)).await, side(2, Some(THEIRS)).await);
    meet(&one, &other);
    meet(&other, &one);
    let asked = one
        .transport
        .ask(other.address.clone(), Request::Status, Duration::from_secs(5))
        .await
        .expect_err("refused");
    assert!(asked.to_string().contains("belongs to cluster"), "{asked}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    for side in [&one, &other] {
        assert_eq!((*side.seen.connected.lock(), *side.seen.questions.lock()), (0, 0));
    }
    let friend = side(3, Some(OURS)).await;
    meet(&one, &friend);
    wait_until("a node of the same cluster is connected", || one.transport.is_connected(friend.node)).await;
}

#[tokio::test]
async fn a_frame_of_another_cluster_ends_the_connection_unread() {
    // When they greeted each other, one belonged to no cluster yet.
    let (one, other) = (side(1, Some(OURS)).await, side(2, None).await);
    meet(&other, &one);
    wait_until("they are connected", || {
        other.transport.is_connected(one.node) && one.transport.is_connected(other.node)
    })
    .await;
    other.transport.set_cluster(THEIRS);
    other.transport.send(one.node, Message::Request { id: 1, request: Request::Goodbye }).expect("connected");
    wait_until("the connection is over", || *one.seen.disconnected.lock() > 0).await;
    assert_eq!(*one.seen.messages.lock(), 0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*one.seen.connected.lock(), 1, "it does not come again");
}

#[tokio::test]
async fn a_node_may_ask_itself_without_knowing() {
    let one = side(1, None).await;
    let answer = one.transport.ask(one.address.clone(), Request::Status, Duration::from_secs(5)).await;
    assert!(matches!(answer, Ok((hello, Reply::Done)) if hello.node == one.node));
}
