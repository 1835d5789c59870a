//! Keys and leases in a real etcd on loopback.

#[path = "servers/announced.rs"]
mod announced;
#[path = "servers/etcd.rs"]
mod etcd;
#[path = "servers/expect.rs"]
mod expect;
#[path = "servers/port.rs"]
mod port;
#[path = "servers/process.rs"]
mod process;

use std::process::Command;
use std::time::{Duration, Instant};

use announced::announced;
use etcd::Etcd;
use expect::{expect, sources};
use port::free_port;
use slipring_discovery::Discovery;

impl Etcd {
    fn source(&self, prefix: &str) -> String {
        format!("etcd://127.0.0.1:{}/{prefix}", self.port)
    }

    /// One request to its JSON interface, by another client.
    fn ask(&self, method: &str, body: &str) -> String {
        let url = format!("http://127.0.0.1:{}/v3/{method}", self.port);
        let done = Command::new("curl").args(["-sf", "-d", body, &url]).output().expect("curl");
        assert!(done.status.success(), "{method}: {}", String::from_utf8_lossy(&done.stdout));
        String::from_utf8(done.stdout).expect("text")
    }

    fn put(&self, key: &str, value: &[u8]) {
        self.ask("kv/put", &format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key.as_bytes()), base64(value)));
    }

    fn delete(&self, key: &str) {
        self.ask("kv/deleterange", &format!(r#"{{"key":"{}"}}"#, base64(key.as_bytes())));
    }
}

fn base64(bytes: &[u8]) -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let whole =
            chunk.iter().fold(0_u32, |whole, byte| whole << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = letters.get((whole >> (18 - 6 * index) & 63) as usize).expect("one of 64");
            text.push(if index <= chunk.len() { char::from(*letter) } else { '=' });
        }
    }
    text
}

#[tokio::test]
async fn who_announces_is_found_and_who_withdraws_is_gone_at_once() {
    let etcd = Etcd::start();
    let watcher = sources(&etcd.source("ring/blue"));
    expect(&watcher, &[]).await;
    let first = announced(&etcd.source("ring/blue"), "10.0.0.1:1");
    let second = announced(&etcd.source("ring/blue"), "[fd00::1]:2");
    let _other = announced(&etcd.source("ring/blues"), "10.0.0.3:3");
    expect(&watcher, &["10.0.0.1:1", "[fd00::1]:2"]).await;
    // A node finds itself too.
    expect(&first, &["10.0.0.1:1", "[fd00::1]:2"]).await;
    let began = Instant::now();
    second.withdraw().await;
    expect(&watcher, &["10.0.0.1:1"]).await;
    assert!(began.elapsed() < Duration::from_secs(2), "well before the lease is over");
}

#[tokio::test]
async fn who_dies_lapses_with_its_lease() {
    let etcd = Etcd::start();
    let watcher = sources(&etcd.source("ring"));
    let dying = announced(&etcd.source("ring"), "10.0.0.1:1");
    let _alive = announced(&etcd.source("ring"), "10.0.0.2:1");
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
    drop(dying);
    let died = Instant::now();
    expect(&watcher, &["10.0.0.2:1"]).await;
    assert!(died.elapsed() > Duration::from_secs(3));
    // The other is there beyond the life of one lease: it renews.
    tokio::time::sleep(Duration::from_secs(8)).await;
    expect(&watcher, &["10.0.0.2:1"]).await;
}

#[tokio::test]
async fn a_server_that_restarts_is_followed_and_told_again() {
    let mut etcd = Etcd::start();
    let watcher = sources(&etcd.source("ring"));
    let _node = announced(&etcd.source("ring"), "10.0.0.1:1");
    expect(&watcher, &["10.0.0.1:1"]).await;
    etcd.process = None;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(watcher.candidates().await, ["10.0.0.1:1"], "the last answer stays while the server is away");
    etcd.revive();
    etcd.put("ring/x", b"10.0.0.9:1");
    expect(&watcher, &["10.0.0.1:1", "10.0.0.9:1"]).await;
    // One that has lost all its data is told everything anew.
    etcd.process = None;
    etcd.folder = tempfile::tempdir().expect("a folder");
    etcd.revive();
    expect(&watcher, &["10.0.0.1:1"]).await;
}

#[tokio::test]
async fn a_key_that_somebody_deletes_comes_back_and_values_that_are_no_addresses_are_left_out() {
    let etcd = Etcd::start();
    let watcher = sources(&etcd.source("ring"));
    let _node = announced(&etcd.source("ring"), "10.0.0.1:1");
    expect(&watcher, &["10.0.0.1:1"]).await;
    etcd.put("ring/noise", b"\xff\xfe\x00 no address");
    etcd.put("ring/empty", b"");
    etcd.put("ring/long", &[b'a'; 10_000]);
    etcd.put("ring/good", b"10.0.0.2:1");
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
    etcd.delete("ring/10.0.0.1:1");
    expect(&watcher, &["10.0.0.2:1"]).await;
    expect(&watcher, &["10.0.0.1:1", "10.0.0.2:1"]).await;
}

#[tokio::test]
async fn changes_that_were_compacted_away_are_read_anew() {
    let mut etcd = Etcd::start();
    let watcher = sources(&etcd.source("ring"));
    etcd.put("ring/a", b"10.0.0.1:1");
    expect(&watcher, &["10.0.0.1:1"]).await;
    // The watch ends with the server, and what happens next is compacted before the watcher is back.
    etcd.process = None;
    etcd.revive();
    etcd.delete("ring/a");
    etcd.put("ring/b", b"10.0.0.2:1");
    etcd.ask("kv/compaction", r#"{"revision":"4"}"#);
    expect(&watcher, &["10.0.0.2:1"]).await;
}

#[tokio::test]
async fn of_several_servers_one_that_lives_is_found() {
    let etcd = Etcd::start();
    etcd.put("ring/a", b"10.0.0.1:1");
    let (dead, alive) = (free_port(), etcd.port);
    let watcher = sources(&format!("etcd://127.0.0.1:{dead},127.0.0.1:{alive}/ring"));
    expect(&watcher, &["10.0.0.1:1"]).await;
}
