//! Real nodes that find each other by the sources that need a feature, and go on when the source is dead.
//!
//! The servers are real ones, except that of Kubernetes, which speaks its wire format.

#![expect(clippy::indexing_slicing, reason = "a test that panics says what is wrong")]

#[path = "../../discovery/tests/servers/etcd.rs"]
mod etcd;
#[expect(dead_code, reason = "what breaks watches is not needed here")]
#[path = "../../discovery/tests/servers/kube.rs"]
mod kube;
#[path = "processes/node.rs"]
mod node;
#[path = "../../discovery/tests/servers/port.rs"]
mod port;
#[path = "../../discovery/tests/servers/process.rs"]
mod process;
#[path = "../../discovery/tests/servers/zookeeper.rs"]
mod zookeeper;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use node::{Node, wait_until};
use port::free_port;
use process::text;
use serde_json::json;

/// Starts all, and waits until they serve as one cluster.
fn form(nodes: &mut [Node]) {
    nodes.iter_mut().for_each(Node::launch);
    nodes.iter_mut().for_each(Node::wait);
    for node in nodes.iter() {
        wait_until("the node knows all others", || (node.members() == nodes.len()).then_some(()));
    }
}

/// What one node writes, all read.
fn write_and_read(nodes: &[Node], writer: usize, key: &str) {
    nodes[writer].set(key, "value");
    nodes.iter().for_each(|node| node.expect(key, "value"));
}

/// Three nodes find each other by a source, whose server `kill` then kills.
fn outlive(mut nodes: Vec<Node>, kill: impl FnOnce()) {
    form(&mut nodes);
    write_and_read(&nodes, 0, "before");
    kill();
    write_and_read(&nodes, 1, "after");
    // Who has joined once needs no source any more, not even to start again.
    nodes[2].kill();
    nodes[0].set("without", "value");
    nodes[2].launch();
    nodes[2].wait();
    for key in ["before", "after", "without"] {
        nodes[2].expect(key, "value");
    }
    assert_eq!(nodes[2].members(), 3);
    write_and_read(&nodes, 2, "again");
}

fn three(folder: &tempfile::TempDir, source: &str) -> Vec<Node> {
    let flags = ["--expect", "3", "--join", source];
    ["a", "b", "c"].map(|name| Node::new(folder.path(), name, None, &flags)).into()
}

#[test]
fn three_nodes_find_each_other_by_etcd_and_outlive_it() {
    let (folder, mut etcd) = (tempfile::tempdir().expect("a folder"), etcd::Etcd::start());
    let nodes = three(&folder, &format!("etcd://127.0.0.1:{}/ring", etcd.port));
    outlive(nodes, || etcd.process = None);
}

#[test]
fn three_nodes_find_each_other_by_zookeeper_and_outlive_it() {
    let (folder, mut server) = (tempfile::tempdir().expect("a folder"), zookeeper::ZooKeeper::start());
    let nodes = three(&folder, &format!("zookeeper://127.0.0.1:{}/ring", server.port));
    outlive(nodes, || server.process = None);
}

#[test]
fn three_nodes_find_each_other_by_kubernetes_and_outlive_it() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let kube = runtime.block_on(kube::Kube::start());
    let folder = tempfile::tempdir().expect("a folder");
    let url = format!("http://127.0.0.1:{}", kube.port);
    let config = folder.path().join("config");
    let settings = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "ring",
        "clusters": [{ "name": "ring", "cluster": { "server": url } }],
        "users": [{ "name": "ring", "user": { "token": "a-token" } }],
        "contexts": [{ "name": "ring", "context": { "cluster": "ring", "user": "ring", "namespace": "blue" } }],
    });
    std::fs::write(&config, settings.to_string()).expect("written");
    // As pods have it: an address for each, and the same port.
    let hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let port = port_of(&hosts);
    let source = format!("kubernetes://blue/?selector=app=ring&kubeconfig={}", text(&config));
    let flags = ["--expect", "3", "--join", &source];
    let node = |host: &&str| Node::new(folder.path(), host, Some(&format!("{host}:{port}")), &flags);
    let mut nodes: Vec<Node> = hosts.iter().map(node).collect();
    // Who starts before anybody is listed waits.
    nodes[0].launch();
    std::thread::sleep(Duration::from_secs(2));
    assert!(!nodes[0].is_serving());
    nodes[0].kill();
    list(&url, &hosts, port);
    outlive(nodes, || drop((kube, runtime)));
}

/// A port that is free on all of these.
fn port_of(hosts: &[&str]) -> u16 {
    wait_until("a port is free on all", || {
        let port = free_port();
        hosts.iter().all(|host| TcpListener::bind((*host, port)).is_ok()).then_some(port)
    })
}

/// Makes the slice that a headless service would have.
fn list(url: &str, hosts: &[&str], port: u16) {
    let endpoints: Vec<_> = hosts.iter().map(|host| json!({ "addresses": [host] })).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "ring-a", "namespace": "blue", "labels": { "app": "ring" } },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{ "name": "peer", "port": port, "protocol": "TCP" }],
    });
    let url = format!("{url}/apis/discovery.k8s.io/v1/namespaces/blue/endpointslices");
    let done = Command::new("curl").args(["-sf", "-d", &slice.to_string(), &url]).output().expect("curl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn three_nodes_find_each_other_in_a_table_of_their_own_and_outlive_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}");
    let ports = [free_port(), free_port(), free_port(), free_port()];
    // All are told of the first alone, which is told of itself: the same line everywhere, but for the port.
    let source =
        |port: u16, first: u16| format!("libp2p://ring?listen={}&bootstrap={}", place(port), place(first));
    let node = |name: &str, port: u16| {
        Node::new(folder.path(), name, None, &["--expect", "3", "--join", &source(port, ports[0])])
    };
    let mut nodes = vec![node("a", ports[0]), node("b", ports[1]), node("c", ports[2])];
    form(&mut nodes);
    write_and_read(&nodes, 0, "before");

    nodes[0].kill();
    nodes[1].set("without", "value");
    nodes[2].expect("without", "value");
    // The table is there without the one that all had been told of.
    let mut late = Node::new(folder.path(), "d", None, &["--join", &source(ports[3], ports[1])]);
    late.launch();
    late.wait();
    late.expect("before", "value");
    assert_eq!(late.members(), 4);
    nodes[0].launch();
    nodes[0].wait();
    nodes[0].expect("without", "value");
    nodes.push(late);
    write_and_read(&nodes, 3, "again");
    nodes.iter().for_each(|node| assert_eq!(node.members(), 4));
}
