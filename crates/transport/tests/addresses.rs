//! Whatever answers at the address of a member that is gone, the dial ends alone: connections of others stay.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use slipring_model::{ClusterId, NodeId, StorageId, Versions};
use slipring_transport::{GrpcTransport, Identity, Inbox, NodeKey, Settings, Transport};
use slipring_wire::{Hello, Message, PROTOCOL_VERSIONS, Reply, Request};
use tokio::net::{TcpListener, TcpStream};

const CLUSTER: ClusterId = ClusterId([1; 16]);

/// Connections that began and ended, and messages.
#[derive(Default)]
struct Seen {
    connected: AtomicUsize,
    disconnected: AtomicUsize,
    messages: AtomicUsize,
}

struct Counter(Arc<Seen>);

impl Inbox for Counter {
    fn connected(&self, _: &Hello) {
        self.0.connected.fetch_add(1, Ordering::SeqCst);
    }

    fn disconnected(&self, _: NodeId, _: BTreeSet<u64>) {
        self.0.disconnected.fetch_add(1, Ordering::SeqCst);
    }

    fn messages(&self, _: NodeId, messages: Vec<Message>) {
        self.0.messages.fetch_add(messages.len(), Ordering::SeqCst);
    }

    fn asked(&self, _: &Hello, _: Request) -> BoxFuture<'static, Reply> {
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

/// A node that calls itself by the key of `claimed`, has that of `number` and speaks `versions`.
async fn side(claimed: u8, number: u8, versions: Versions) -> Side {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let node = key(claimed).node();
    let hello = Hello {
        versions,
        cluster: Some(CLUSTER),
        node,
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
    let inbox = Arc::new(Counter(Arc::clone(&seen)));
    Side {
        node,
        address,
        transport: GrpcTransport::start(Settings::default(), listener, identity, inbox),
        seen,
    }
}

async fn member(number: u8) -> Side {
    side(number, number, PROTOCOL_VERSIONS).await
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

/// A port in front of another one, and when each connection was passed on.
async fn port_before(target: String) -> (String, Arc<Mutex<Vec<Instant>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let dials = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&dials);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            noted.lock().push(Instant::now());
            let Ok(mut far) = TcpStream::connect(&target).await else { continue };
            tokio::spawn(async move {
                // Either side may end it.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, dials)
}

/// Two members that are connected: the first dialled the second.
async fn pair() -> (Side, Side) {
    let (one, other) = (member(1).await, member(2).await);
    one.transport.set_peers(BTreeMap::from([(other.node, other.address.clone())]));
    wait_until("both are connected", || {
        one.transport.is_connected(other.node) && other.transport.is_connected(one.node)
    })
    .await;
    (one, other)
}

/// Lets one member dial a third node at an address where something else answers, several times, and hands back the
/// moments of those dials; the pair's own connection must be the one it was, and work.
async fn dial_in_vain(one: &Side, other: &Side, address: String, times: usize) -> Vec<Instant> {
    let (wire, dials) = port_before(address).await;
    let gone = key(3).node();
    one.transport.set_peers(BTreeMap::from([(other.node, other.address.clone()), (gone, wire)]));
    wait_until("the address was dialled several times", || dials.lock().len() >= times).await;
    other.transport.send(one.node, Message::Reply { id: 1, reply: Reply::Done }).expect("it is connected");
    one.transport.send(other.node, Message::Reply { id: 1, reply: Reply::Done }).expect("it is connected");
    for side in [one, other] {
        wait_until("a message comes through", || side.seen.messages.load(Ordering::SeqCst) == 1).await;
        assert_eq!(side.seen.connected.load(Ordering::SeqCst), 1);
        assert_eq!(side.seen.disconnected.load(Ordering::SeqCst), 0);
    }
    assert!(!one.transport.is_connected(gone));
    dials.lock().clone()
}

#[tokio::test]
async fn connection_stays_when_another_dial_meets_its_peer() {
    let (one, other) = pair().await;
    let dials = dial_in_vain(&one, &other, other.address.clone(), 6).await;
    let [first, .., last] = dials.as_slice() else { panic!("it was dialled") };
    // Rests of 0.1, 0.2, 0.4, 0.5 and 0.5 s, each a quarter shorter at most.
    assert!(last.duration_since(*first) >= Duration::from_millis(1_270), "{dials:?}");
}

#[tokio::test]
async fn connection_stays_when_a_dial_meets_its_own_node() {
    let (one, other) = pair().await;
    dial_in_vain(&one, &other, one.address.clone(), 4).await;
}

#[tokio::test]
async fn connection_stays_when_a_dial_meets_an_unproven_id() {
    let (one, other) = pair().await;
    let impostor = side(3, 4, PROTOCOL_VERSIONS).await;
    dial_in_vain(&one, &other, impostor.address.clone(), 4).await;
}

#[tokio::test]
async fn connection_stays_when_a_dial_meets_an_older_version() {
    let (one, other) = pair().await;
    let old = side(3, 3, Versions { oldest: 1, newest: 2 }).await;
    dial_in_vain(&one, &other, old.address.clone(), 4).await;
    assert_eq!(old.seen.connected.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn peer_is_dialled_at_its_new_address_at_once() {
    let (one, other) = (member(1).await, member(2).await);
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = nobody.local_addr().expect("it is bound").to_string();
    drop(nobody);
    one.transport.set_peers(BTreeMap::from([(other.node, silent)]));
    tokio::task::yield_now().await;
    one.transport.set_peers(BTreeMap::from([(other.node, other.address.clone())]));
    wait_until("it is connected", || one.transport.is_connected(other.node)).await;
}
