//! Ephemeral nodes in a real ZooKeeper on loopback.

#[path = "servers/announced.rs"]
mod announced;
#[path = "servers/expect.rs"]
mod expect;
#[path = "servers/port.rs"]
mod port;
#[path = "servers/process.rs"]
mod process;
#[path = "servers/way.rs"]
mod way;
#[path = "servers/zookeeper.rs"]
mod zookeeper;

use std::time::{Duration, Instant};

use announced::announced;
use expect::{expect, sources};
use slipring_discovery::Discovery;
use way::Way;
use zookeeper::ZooKeeper;

/// How long a session outlives its last sign of life, as the source asks for it.
const SESSION: Duration = Duration::from_secs(10);

impl ZooKeeper {
    fn source(&self, path: &str) -> String {
        format!("zookeeper://127.0.0.1:{}/{path}", self.port)
    }
}

#[tokio::test]
async fn who_announces_is_found_and_who_withdraws_is_gone_at_once() {
    let server = ZooKeeper::start();
    let watcher = sources(&server.source("ring/blue"));
    expect(&watcher, &[]).await;
    let first = announced(&server.source("ring/blue"), "10.0.0.1:1");
    let second = announced(&server.source("ring/blue"), "[fd00::1]:2");
    let _other = announced(&server.source("ring"), "10.0.0.3:3");
    expect(&watcher, &["10.0.0.1:1", "[fd00::1]:2"]).await;
    // A node finds itself too; and what lies beside it without being an address is left out.
    expect(&first, &["10.0.0.1:1", "[fd00::1]:2"]).await;
    expect(&sources(&server.source("ring")), &["10.0.0.3:3"]).await;
    let began = Instant::now();
    second.withdraw().await;
    expect(&watcher, &["10.0.0.1:1"]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "well before the session is over");
}

#[tokio::test]
async fn who_is_cut_off_lapses_with_its_session_and_comes_back_with_a_new_one() {
    let server = ZooKeeper::start();
    let watcher = sources(&server.source("ring"));
    let way = Way::to(server.port).await;
    let _node = announced(&format!("zookeeper://127.0.0.1:{}/ring", way.port), "10.0.0.1:1");
    expect(&watcher, &["10.0.0.1:1"]).await;
    let cut_off = sources(&format!("zookeeper://127.0.0.1:{}/ring", way.port));
    expect(&cut_off, &["10.0.0.1:1"]).await;
    way.cut();
    let began = Instant::now();
    expect(&watcher, &[]).await;
    assert!(began.elapsed() > SESSION / 2, "the node lasts as long as its session");
    let _other = announced(&server.source("ring"), "10.0.0.2:1");
    way.heal();
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
    expect(&cut_off, &["10.0.0.1:1", "10.0.0.2:1"]).await;
}

#[tokio::test]
async fn what_an_earlier_start_left_behind_is_replaced_and_does_not_vanish_with_its_session() {
    let server = ZooKeeper::start();
    let watcher = sources(&server.source("ring"));
    let way = Way::to(server.port).await;
    let killed = announced(&format!("zookeeper://127.0.0.1:{}/ring", way.port), "10.0.0.1:1");
    expect(&watcher, &["10.0.0.1:1"]).await;
    // Cut first: a session that ends in peace would take its node along.
    way.cut();
    drop(killed);
    let _again = announced(&server.source("ring"), "10.0.0.1:1");
    let until = Instant::now() + SESSION + SESSION / 2;
    let mut gone = Duration::ZERO;
    while Instant::now() < until {
        let began = Instant::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        if watcher.candidates().await.is_empty() {
            gone += began.elapsed();
        }
    }
    assert!(gone < Duration::from_secs(1), "the address was gone for {gone:?}");
    expect(&watcher, &["10.0.0.1:1"]).await;
}

#[tokio::test]
async fn a_server_that_restarts_is_followed_and_told_again() {
    let mut server = ZooKeeper::start();
    let watcher = sources(&server.source("ring"));
    let _first = announced(&server.source("ring"), "10.0.0.1:1");
    expect(&watcher, &["10.0.0.1:1"]).await;
    server.process = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(watcher.candidates().await, ["10.0.0.1:1"], "the last answer stays while the server is away");
    server.revive();
    let _second = announced(&server.source("ring"), "10.0.0.2:1");
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
    // One that has lost all its data is told everything anew.
    server.process = None;
    server.folder = tempfile::tempdir().expect("a folder");
    server.revive();
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
}
