//! The Redis protocol over streams in memory, on a clock that stands still while there is work.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use slipring_apps::KV;
use slipring_gateway::resp::{Port, View};
use slipring_model::{ClusterId, NodeId};
use slipring_node::{ClientLimits, DiskWaits, Entropy, Node, Settings};
use slipring_ring::Addresses;
use slipring_storage::faults::FaultyFile;
use slipring_storage::{MemoryEngine, MetaStore};
use slipring_transport::{AskError, SendError, Transport};
use slipring_wire::{Hello, Message, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a reply may take on the clock of the test, which only moves while nobody has work.
const PATIENCE: Duration = Duration::from_secs(5);

/// A transport of a node that knows no other.
struct Nobody;

impl Transport for Nobody {
    fn send(&self, _: NodeId, _: Message) -> Result<(), SendError> {
        Err(SendError::NotConnected)
    }

    fn set_peers(&self, _: BTreeMap<NodeId, String>) {}

    fn set_cluster(&self, _: ClusterId) {}

    fn is_connected(&self, _: NodeId) -> bool {
        false
    }

    fn ask(
        &self,
        address: String,
        _: Request,
        _: Duration,
    ) -> BoxFuture<'static, Result<(Hello, Reply), AskError>> {
        Box::pin(async move { Err(AskError::TimedOut { address }) })
    }

    fn shutdown(&self) {}
}

/// A port of a node that is alone and keeps everything in memory, and the switch that stops the port.
async fn port() -> (Port, watch::Sender<bool>) {
    port_of(ClientLimits::default()).await
}

async fn port_of(limits: ClientLimits) -> (Port, watch::Sender<bool>) {
    let meta = MetaStore::with_backend(FaultyFile::new()).expect("a new file");
    let transport: Arc<dyn Transport> = Arc::new(Nobody);
    let builder = Node::builder(
        Settings::default(),
        meta,
        Arc::new(MemoryEngine::new()),
        Addresses {
            peer: "a:1".into(),
            redis: "a:2".into(),
            http: "a:3".into(),
            redis_cluster: "a:4".into(),
        },
        Box::new(move |_, _| Ok(transport)),
    );
    let builder = builder
        .service(&KV)
        .clients(limits)
        .entropy(Entropy::seeded(1))
        .disk_waits(DiskWaits::Inline { delay_ms: Default::default() });
    let node = builder.start().await.expect("a node alone starts");
    let (stopping, is_stopping) = watch::channel(false);
    (Port::new(node, is_stopping), stopping)
}

/// The client's end of a new connection on which so many bytes may be under way.
fn connect(port: &Port, bytes: usize) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(bytes);
    assert!(port.open(theirs, "memory:1".to_owned()).is_ok());
    ours
}

async fn exchange(stream: &mut DuplexStream, sent: &str, expected: &str) {
    let mut answer = vec![0; expected.len()];
    let exchanging = async {
        stream.write_all(sent.as_bytes()).await?;
        stream.read_exact(&mut answer).await
    };
    let exchanged = timeout(PATIENCE, exchanging).await;
    assert!(matches!(exchanged, Ok(Ok(_))), "{sent}: {exchanged:?}, {}", String::from_utf8_lossy(&answer));
    assert_eq!(String::from_utf8(answer).as_deref(), Ok(expected));
}

async fn rest(stream: &mut DuplexStream) -> String {
    let mut rest = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut rest)).await;
    assert!(matches!(read, Ok(Ok(_))), "{read:?}, {rest}");
    rest
}

#[tokio::test(start_paused = true)]
async fn each_view_of_a_node_is_true_in_itself() {
    let (port, _stopping) = port().await;
    let (mut plain, mut cluster) = (connect(&port, 1024), connect(&port.with_view(View::Cluster), 1024));
    let refusal =
        "-ERR This instance has cluster support disabled: this node serves cluster clients at a:4\r\n";
    for command in ["CLUSTER SLOTS\r\n", "READONLY\r\n", "READWRITE\r\n", "ASKING\r\n"] {
        exchange(&mut plain, command, refusal).await;
    }
    exchange(&mut cluster, "READONLY\r\nASKING\r\nCLUSTER KEYSLOT foo\r\n", "+OK\r\n+OK\r\n:12182\r\n").await;
    let refusal = "+OK\r\n-ERR SELECT is not allowed in cluster mode\r\n";
    exchange(&mut cluster, "SELECT 0\r\nSELECT 1\r\n", refusal).await;
    for (stream, told) in [(&mut plain, "$2\r\nno\r\n"), (&mut cluster, "$3\r\nyes\r\n")] {
        let expected = format!("*2\r\n$15\r\ncluster-enabled\r\n{told}");
        exchange(stream, "CONFIG GET cluster-enabled\r\n", &expected).await;
    }
    exchange(&mut cluster, "SET k v\r\nDBSIZE\r\nCLUSTER COUNTKEYSINSLOT 7629\r\n", "+OK\r\n:1\r\n:1\r\n")
        .await;
    exchange(&mut plain, "DBSIZE\r\nSELECT 1\r\nSET c v\r\n", ":1\r\n+OK\r\n+OK\r\n").await;
    exchange(&mut cluster, "FLUSHALL\r\nDBSIZE\r\n", "+OK\r\n:0\r\n").await;
    exchange(&mut plain, "DBSIZE\r\nFLUSHALL\r\nDBSIZE\r\n", ":1\r\n+OK\r\n:0\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn ports_of_both_views_share_their_places() {
    let (port, _stopping) = port_of(ClientLimits { redis_connections: 2, ..ClientLimits::default() }).await;
    let other = port.with_view(View::Cluster);
    let (_plain, _cluster) = (connect(&port, 16), connect(&other, 16));
    for port in [port, other] {
        assert!(port.open(tokio::io::duplex(16).1, "memory:1".to_owned()).is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn connections_in_memory_share_a_node_and_see_one_another() {
    let (port, _stopping) = port().await;
    let (mut one, mut two) = (connect(&port, 7), connect(&port, 1024));
    exchange(&mut one, "SET k v\r\nINCR n\r\n", "+OK\r\n:1\r\n").await;
    exchange(&mut two, "GET k\r\nINCR n\r\nCLIENT ID\r\n", "$1\r\nv\r\n:2\r\n:2\r\n").await;
    tokio::time::advance(Duration::from_secs(90)).await;
    two.write_all(b"CLIENT LIST ID 1\r\nCLIENT KILL ID 1\r\nQUIT\r\n").await.expect("the other end reads");
    let told = rest(&mut two).await;
    assert!(told.contains("id=1 addr=memory:1") && told.contains("age=90"), "{told}");
    assert!(told.ends_with(":1\r\n+OK\r\n"), "{told}");
    assert_eq!(rest(&mut one).await, "");
}

#[tokio::test(start_paused = true)]
async fn connections_end_when_the_port_stops_and_not_before() {
    let (port, stopping) = port().await;
    let (mut idle, mut busy) = (connect(&port, 64), connect(&port, 64));
    exchange(&mut busy, "SET k v\r\n", "+OK\r\n").await;
    let mut byte = [0];
    let waits = timeout(PATIENCE, idle.read(&mut byte)).await;
    assert!(waits.is_err(), "an idle connection stays open");
    stopping.send_replace(true);
    assert_eq!((rest(&mut idle).await, rest(&mut busy).await), (String::new(), String::new()));
}

/// Sends so many bytes of commands and reads nothing before all are sent; whether the connection took and answered them.
async fn sends_all_first(port: &Port, bytes: usize) -> bool {
    let mut stream = connect(port, 1024);
    let echo = format!("*2\r\n$4\r\nECHO\r\n$10000\r\n{}\r\n", "e".repeat(10_000));
    let sent = echo.repeat(bytes / echo.len()) + "ECHO the-end\r\n";
    let sending = timeout(Duration::from_secs(30), stream.write_all(sent.as_bytes())).await;
    assert!(sending.is_ok(), "the node neither reads on nor ends the connection");
    if !matches!(sending, Ok(Ok(()))) {
        return false;
    }
    stream.shutdown().await.expect("the other end reads");
    rest(&mut stream).await.ends_with("the-end\r\n")
}

#[tokio::test(start_paused = true)]
async fn client_that_reads_last_is_answered_up_to_its_share() {
    let memory_bytes = 8 * 1024 * 1024;
    let (port, _stopping) = port_of(ClientLimits { memory_bytes, ..ClientLimits::default() }).await;
    assert!(sends_all_first(&port, memory_bytes / 2).await, "replies of a reply's size are made before");
    assert!(!sends_all_first(&port, memory_bytes).await, "beyond its share the connection ends");
    assert!(sends_all_first(&port, memory_bytes / 2).await, "what the other took is given back");
}
