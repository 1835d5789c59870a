//! How long a command keeps its thread from others, in the thread's own time: what grows with arguments or data is done
//! in short stretches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use slipring_apps::KV;
use slipring_gateway::resp::Port;
use slipring_model::{ClusterId, NodeId};
use slipring_node::{DiskWaits, Entropy, Node, Settings};
use slipring_ring::Addresses;
use slipring_storage::faults::FaultyFile;
use slipring_storage::{MemoryEngine, MetaStore};
use slipring_transport::{AskError, SendError, Transport};
use slipring_wire::{Hello, Message, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// What is promised.
const STRETCH_MAX: Duration = Duration::from_millis(10);
/// Keys of one command, near the most that a command may have.
const KEYS: usize = 65_000;

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

/// What the one thread has worked.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs all the time, and notes how long it is not let through.
async fn watch_thread(longest: Arc<Mutex<Duration>>) {
    let mut last = worked();
    loop {
        tokio::task::yield_now().await;
        let now = worked();
        let mut longest = longest.lock();
        *longest = (*longest).max(now - last);
        last = now;
    }
}

async fn node() -> Node {
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
        .entropy(Entropy::seeded(1))
        .disk_waits(DiskWaits::Inline { delay_ms: Default::default() });
    builder.start().await.expect("a node alone starts")
}

/// A command as clients send it.
fn command(words: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let (mut count, mut rest) = (0, Vec::new());
    for word in words {
        count += 1;
        rest.extend(format!("${}\r\n", word.len()).bytes());
        rest.extend(word);
        rest.extend(b"\r\n");
    }
    [format!("*{count}\r\n").as_bytes(), &rest].concat()
}

fn keyed(name: &str, keys: usize, has_values: bool) -> Vec<u8> {
    let words = (0..keys).flat_map(|key| {
        let value = has_values.then(|| b"value".to_vec());
        [Some(format!("key:{key}").into_bytes()), value].into_iter().flatten()
    });
    command(std::iter::once(name.as_bytes().to_vec()).chain(words))
}

/// Sends a command and one more, and reads until that is answered.
async fn run(port: &Port, command: &[u8]) {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    assert!(port.open(theirs, "memory:1".to_owned()).is_ok());
    let (mut reading, mut writing) = tokio::io::split(&mut ours);
    let send = async {
        writing.write_all(command).await.expect("sent");
        writing.write_all(b"ECHO the-end\r\n").await.expect("sent");
    };
    let receive = async {
        let (mut tail, mut part) = (Vec::new(), vec![0; 16 * 1024]);
        while !tail.ends_with(b"the-end\r\n") {
            let read = reading.read(&mut part).await.expect("read");
            assert!(read > 0, "the connection ended");
            tail.extend_from_slice(part.get(..read).expect("so many"));
            tail.drain(..tail.len().saturating_sub(64));
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn commands_let_others_through_every_few_milliseconds() {
    let (stopping, is_stopping) = watch::channel(false);
    let port = Port::new(node().await, is_stopping);
    for key in 0..200 {
        let long = format!("{}{key}", "a".repeat(4000)).into_bytes();
        run(&port, &command([b"SET".to_vec(), long, b"v".to_vec()].into_iter())).await;
    }
    let pattern = |text: String| command([b"KEYS".to_vec(), text.into_bytes()].into_iter());
    let plain = |words: &str| command(words.split(' ').map(|word| word.as_bytes().to_vec()));
    let set_large = command([b"SET".to_vec(), b"large".to_vec(), vec![b'v'; 2_000_000]].into_iter());
    let commands = [
        ("MSET", keyed("MSET", KEYS / 2, true)),
        ("MGET", keyed("MGET", KEYS, false)),
        ("EXISTS", keyed("EXISTS", KEYS, false)),
        ("KEYS", plain("KEYS *")),
        ("KEYS with stars", pattern("*a".repeat(2000) + "b")),
        ("KEYS with a class", pattern(format!("*[{}]", "b".repeat(4000)))),
        ("KEYS with gaps", pattern(format!("*{}*b", "?".repeat(4000)))),
        ("SCAN", plain("SCAN 0 COUNT 1000000 MATCH *a*a*a*b")),
        ("COMMAND", plain("COMMAND")),
        ("DBSIZE", plain("DBSIZE")),
        ("CLUSTER SLOTS", plain("CLUSTER SLOTS")),
        ("PINGs", b"PING\r\n".repeat(100_000)),
        ("DEL", keyed("DEL", KEYS / 4, false)),
        ("SET of 2 MB", set_large),
        ("GET of 2 MB", plain("GET large")),
        ("APPEND to 2 MB", plain("APPEND large value")),
        ("SETRANGE in 2 MB", plain("SETRANGE large 5 value")),
        ("FLUSHALL", plain("FLUSHALL")),
    ];
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let watching = tokio::spawn(watch_thread(Arc::clone(&longest)));
    let mut too_long = Vec::new();
    for (name, command) in commands {
        tokio::task::yield_now().await;
        *longest.lock() = Duration::ZERO;
        run(&port, &command).await;
        tokio::task::yield_now().await;
        let stretch = *longest.lock();
        println!("{name}: {stretch:?} at most");
        if stretch > STRETCH_MAX {
            too_long.push((name, stretch));
        }
    }
    watching.abort();
    stopping.send_replace(true);
    assert!(too_long.is_empty(), "{too_long:?}");
}
