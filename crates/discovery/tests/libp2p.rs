//! Nodes that find each other in a Kademlia table, with real connections of libp2p on loopback.

#[path = "servers/announced.rs"]
mod announced;
#[path = "servers/expect.rs"]
mod expect;
#[path = "servers/peer.rs"]
mod peer;
#[path = "servers/port.rs"]
mod port;

use std::path::Path;
use std::time::{Duration, Instant};

use announced::announced;
use expect::{expect, sources};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use peer::{Peer, place};
use port::free_port;
use slipring_discovery::{Discovery, Sources};

/// How soon who is gone is seen to be gone: well before the table forgets it, which takes a minute.
const SOON: Duration = Duration::from_secs(15);

/// Looks for a ring, beginning at these ports.
fn watcher(ring: &str, bootstrap: &[u16]) -> Sources {
    sources(&format!("libp2p://{ring}?bootstrap={}", places(bootstrap)))
}

/// A node that takes part at a port.
fn node(ring: &str, port: u16, bootstrap: &[u16], address: &str) -> Sources {
    announced(&format!("libp2p://{ring}?listen={}&bootstrap={}", place(port), places(bootstrap)), address)
}

fn places(ports: &[u16]) -> String {
    ports.iter().map(|port| place(*port)).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn nodes_make_up_a_table_by_themselves_and_need_no_certain_one() {
    let ports = [free_port(), free_port(), free_port()];
    let first = node("ring", ports[0], &[], "10.0.0.1:1");
    let second = node("ring", ports[1], &ports[..1], "[fd00::1]:2");
    let _third = node("ring", ports[2], &ports[..1], "10.0.0.3:3");
    let _other = node("ring-2", free_port(), &ports[..1], "10.0.0.9:9");
    let early = watcher("ring", &ports[..1]);
    expect(&early, &["10.0.0.1:1", "10.0.0.3:3", "[fd00::1]:2"]).await;
    // A node finds itself too, also one that nobody was named to.
    expect(&second, &["10.0.0.1:1", "10.0.0.3:3", "[fd00::1]:2"]).await;
    expect(&first, &["10.0.0.1:1", "10.0.0.3:3", "[fd00::1]:2"]).await;
    expect(&watcher("ring-2", &ports[1..2]), &["10.0.0.9:9"]).await;

    let began = Instant::now();
    second.withdraw().await;
    expect(&early, &["10.0.0.1:1", "10.0.0.3:3"]).await;
    assert!(began.elapsed() < SOON);

    drop(first);
    let late = watcher("ring", &ports);
    expect(&late, &["10.0.0.3:3"]).await;
    // The table has no way in through the first one any more; what was heard last is kept.
    assert!(early.candidates().await.contains(&"10.0.0.3:3".to_owned()));
}

#[tokio::test]
async fn a_peer_that_is_no_node_leads_to_nodes_and_who_dies_vanishes() {
    let port = free_port();
    let _peer = Peer::new("some/1.0").run(port, &[], None);
    let watcher = watcher("ring", &[port]);
    expect(&watcher, &[]).await;
    let dying = node("ring", free_port(), &[port], "10.0.0.1:1");
    let _alive = node("ring", free_port(), &[port], "10.0.0.2:1");
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
    let began = Instant::now();
    drop(dying);
    expect(&watcher, &["10.0.0.2:1"]).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_first_peer_that_is_down_is_called_until_it_comes_and_told_again_when_it_has_forgotten() {
    let port = free_port();
    let watcher = watcher("ring", &[port]);
    assert!(watcher.candidates().await.is_empty());
    let _node = node("ring", free_port(), &[port], "10.0.0.1:1");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let peer = Peer::new("some/1.0").run(port, &[], None);
    expect(&watcher, &["10.0.0.1:1"]).await;

    peer.end().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(watcher.candidates().await, ["10.0.0.1:1"], "the last answer stays while there is no way in");
    // Another process in its place: another key, and nothing in its memory.
    let _peer = Peer::new("some/1.0").run(port, &[], None);
    let _other = node("ring", free_port(), &[port], "10.0.0.2:1");
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
}

#[tokio::test]
async fn who_lies_is_not_believed_and_hides_nobody() {
    let (liar, honest) = (free_port(), free_port());
    // A port that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = silent.local_addr().map(|address| (address.port(), silent)).expect("an address");
    let other_port = free_port();
    let other = Peer::new("slipring ring-2 10.9.9.1:1").run(other_port, &[], None);
    let mut peer = Peer::new("slipring ring 10.9.9.9:9 and more");
    // Nodes of another ring, peers that are not there, and peers that are somebody else.
    peer.claim("ring", other.id, other_port);
    for index in 0..150 {
        peer.claim("ring", PeerId::random(), [silent.0, other_port, free_port()][index % 3]);
    }
    let _liar = peer.run(liar, &[], Some("ring"));
    let _honest = Peer::new("some/1.0").run(honest, &[liar], None);
    let (noise, long) = ("slipring ring no\u{7}address", format!("slipring ring {}:1", "a".repeat(3000)));
    let mut liars = Vec::new();
    for introduction in [noise, &long, "slipring ring", "slipring", ""] {
        liars.push(Peer::new(introduction).run(free_port(), &[liar, honest], Some("ring")));
    }
    let _node = node("ring", free_port(), &[honest], "10.0.0.1:1");
    let watcher = watcher("ring", &[liar, honest]);
    expect(&watcher, &["10.0.0.1:1"]).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(watcher.candidates().await, ["10.0.0.1:1"]);
    }
}

#[tokio::test]
async fn a_node_is_the_same_to_others_after_a_restart_and_can_be_told_from_an_impostor() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let begin = |folder: &Path| {
        let text = format!("libp2p://ring?listen={}", place(port));
        let node = Sources::read_for_announcing(&[text], Some(folder)).expect("sources");
        node.announce("10.0.0.1:1");
        node
    };
    let first = begin(folder.path());
    expect(&watcher("ring", &[port]), &["10.0.0.1:1"]).await;
    let key = std::fs::read(folder.path().join("libp2p-ring.key")).expect("a key");
    let id = Keypair::from_protobuf_encoding(&key).expect("a key").public().to_peer_id();
    let strict = || sources(&format!("libp2p://ring?bootstrap={}/p2p/{id}", place(port)));
    expect(&strict(), &["10.0.0.1:1"]).await;
    first.withdraw().await;
    drop(first);

    let again = begin(folder.path());
    expect(&strict(), &["10.0.0.1:1"]).await;
    again.withdraw().await;
    drop(again);

    let elsewhere = tempfile::tempdir().expect("a folder");
    let _impostor = begin(elsewhere.path());
    expect(&watcher("ring", &[port]), &["10.0.0.1:1"]).await;
    let strict = strict();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(strict.candidates().await.is_empty());
}

#[tokio::test]
async fn a_port_that_somebody_has_is_not_shared_and_taken_when_it_is_free() {
    let port = free_port();
    let first = node("ring", port, &[], "10.0.0.1:1");
    let watcher = watcher("ring", &[port]);
    expect(&watcher, &["10.0.0.1:1"]).await;
    let _second = node("ring", port, &[], "10.0.0.2:1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    expect(&watcher, &["10.0.0.1:1"]).await;
    drop(first);
    expect(&watcher, &["10.0.0.2:1"]).await;
}
