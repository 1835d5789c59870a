//! EndpointSlices of a server that speaks the wire format, and of a real API server.
//!
//! With the feature `kube-apiserver-test` the same scenarios run on the `kube-apiserver` whose path
//! `SLIPRING_KUBE_APISERVER` tells, with the rights of `docs/kubernetes-role.yaml` and no others.

#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/apiserver.rs"]
mod apiserver;
#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/etcd.rs"]
mod etcd;
#[path = "servers/expect.rs"]
mod expect;
#[path = "servers/kube.rs"]
mod kube;
#[path = "servers/log.rs"]
mod log;
#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/port.rs"]
mod port;
#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/process.rs"]
mod process;
#[cfg(feature = "kube-apiserver-test")]
#[path = "kubernetes/real.rs"]
mod real;
#[path = "kubernetes/refused.rs"]
mod refused;
#[path = "servers/slices.rs"]
mod slices;
#[path = "kubernetes/watched.rs"]
mod watched;

use expect::expect;
use kube::Kube;
use serde_json::{Value, json};
use slices::{ADMIN, SLICES, Server};

/// The server that speaks the wire format.
async fn imitation() -> (Kube, Server) {
    let kube = Kube::start().await;
    let server = Server::new(format!("http://127.0.0.1:{}", kube.port), ADMIN);
    (kube, server)
}

/// What any server must show: lists in full, then each change as it happens.
async fn appear_change_and_go(server: &Server) {
    let watcher = server.source("blue", "");
    expect(&watcher, &[]).await;
    server.create("ring-a", "ring", &["10.0.0.1", "10.0.0.2"]).await;
    server.create("other", "other", &["10.0.0.9"]).await;
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
    server.create("ring-b", "ring", &["10.0.0.3"]).await;
    server.create("ring-c", "ring", &["10.0.0.4"]).await;
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946", "10.0.0.4:7946"]).await;
    server.replace("ring-a", "ring", &["10.0.0.5"]).await;
    server.delete("ring-c").await;
    expect(&watcher, &["10.0.0.3:7946", "10.0.0.5:7946"]).await;
    // What is labelled otherwise has gone, and comes with the label.
    server.replace("ring-b", "other", &["10.0.0.3"]).await;
    server.replace("other", "ring", &["10.0.0.9"]).await;
    expect(&watcher, &["10.0.0.5:7946", "10.0.0.9:7946"]).await;
    // Who begins now lists what has been there; without a namespace, that of the file is meant.
    expect(&server.source("", "&port=redis"), &["10.0.0.5:6379", "10.0.0.9:6379"]).await;
    server.delete("other").await;
    expect(&watcher, &["10.0.0.5:7946"]).await;
}

/// Selectors by equality and by sets, with what any server makes of them, at first and later on.
const SELECTED: [(&str, &[&str]); 9] = [
    ("tier=a", &["10.1.0.1"]),
    ("tier==a", &["10.1.0.1"]),
    ("tier!=a,app=chosen", &["10.1.0.2", "10.1.0.3", "10.1.0.4"]),
    ("tier+in+(a,b)", &["10.1.0.1", "10.1.0.2"]),
    ("tier+notin+(a,+b),app=chosen", &["10.1.0.3", "10.1.0.4"]),
    ("tier,app=chosen", &["10.1.0.1", "10.1.0.2", "10.1.0.4"]),
    ("!tier,app=chosen", &["10.1.0.3"]),
    ("app+in+(chosen),tier!=b,tier", &["10.1.0.1", "10.1.0.4"]),
    ("ring.example/zone=z-1,tier", &["10.1.0.4"]),
];

async fn selectors_choose(server: &Server) {
    let addresses =
        |hosts: &[&str]| -> Vec<String> { hosts.iter().map(|host| format!("{host}:7946")).collect() };
    let sources: Vec<_> =
        SELECTED.iter().map(|(selector, hosts)| (server.selecting("blue", selector, ""), hosts)).collect();
    for (source, _) in &sources {
        expect(source, &[]).await;
    }
    let make = async |index: u8, labels: Value| {
        server.create_labelled(&format!("chosen-{index}"), &labels, &[&format!("10.1.0.{index}")]).await;
    };
    make(1, json!({ "app": "chosen", "tier": "a" })).await;
    make(2, json!({ "app": "chosen", "tier": "b" })).await;
    make(3, json!({ "app": "chosen" })).await;
    make(4, json!({ "app": "chosen", "tier": "c", "ring.example/zone": "z-1" })).await;
    for ((source, hosts), (selector, _)) in sources.iter().zip(SELECTED) {
        let expected = addresses(hosts);
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        // Seen by the watch that was there before, and by one that lists.
        expect(source, &expected).await;
        expect(&server.selecting("blue", selector, ""), &expected).await;
    }
}

#[tokio::test]
async fn slices_appear_change_and_go() {
    let (_kube, server) = imitation().await;
    appear_change_and_go(&server).await;
    expect(&server.source("green", ""), &[]).await;
}

#[tokio::test]
async fn selectors_choose_by_equality_and_by_sets() {
    let (_kube, server) = imitation().await;
    selectors_choose(&server).await;
}

#[tokio::test]
async fn a_list_of_several_pages_is_read_to_its_end() {
    let (kube, server) = imitation().await;
    for index in 1..=5 {
        server.create(&format!("ring-{index}"), "ring", &[&format!("10.0.0.{index}")]).await;
    }
    let expected = (1..=5).map(|index| format!("10.0.0.{index}:7946")).collect::<Vec<_>>();
    expect(&server.source("blue", ""), &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(kube.counts().1, 1);
}

#[tokio::test]
async fn a_slice_that_is_none_says_nothing_and_harms_no_other() {
    let (_kube, server) = imitation().await;
    let wrong = |name: &str, port: Value| {
        let metadata = json!({ "name": name, "namespace": "blue", "labels": { "app": "ring" } });
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "endpoints": 5, "ports": port })
    };
    server.ask("POST", SLICES, &wrong("bad-1", json!(null))).await;
    server.create("ring-a", "ring", &["10.0.0.1", "no address", "\u{7}"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    server.ask("POST", SLICES, &wrong("bad-2", json!([{ "port": -1 }]))).await;
    server.create("ring-b", "ring", &["10.0.0.2"]).await;
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
}
