//! EndpointSlices of a server that speaks the wire format, and of a real API server.
//!
//! With the feature `kube-apiserver-test` the same scenario runs on the `kube-apiserver` whose path
//! `SLIPRING_KUBE_APISERVER` tells.

#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/etcd.rs"]
mod etcd;
#[path = "servers/expect.rs"]
mod expect;
#[path = "servers/kube.rs"]
mod kube;
#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/port.rs"]
mod port;
#[cfg(feature = "kube-apiserver-test")]
#[path = "servers/process.rs"]
mod process;

use std::time::Duration;

use expect::{expect, sources};
use kube::Kube;
use serde_json::{Value, json};
use slipring_discovery::{Discovery, Sources};
use tokio::process::Command;

const TOKEN: &str = "a-token-of-the-tests";

/// A server's place, and the file that tells of it.
struct Server {
    url: String,
    folder: tempfile::TempDir,
}

impl Server {
    fn new(url: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "ring",
            "clusters": [{ "name": "ring", "cluster": { "server": url, "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "ring", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "ring", "context": { "cluster": "ring", "user": "ring", "namespace": "blue" } }],
        });
        std::fs::write(folder.path().join("config"), config.to_string()).expect("written");
        Self { url, folder }
    }

    fn source(&self, namespace: &str, more: &str) -> Sources {
        let config = self.folder.path().join("config");
        sources(&format!("kubernetes://{namespace}/?selector=app=ring&kubeconfig={}{more}", config.display()))
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) {
        let url = format!("{}{path}", self.url);
        let token = format!("authorization: Bearer {TOKEN}");
        let body = body.to_string();
        let arguments =
            ["-ksS", "--fail-with-body", "-X", method, "-H", &token, "-H", "content-type: application/json"];
        let done =
            Command::new("curl").args(arguments).args(["-d", &body, &url]).output().await.expect("curl");
        assert!(done.status.success(), "{method} {path}: {}", String::from_utf8_lossy(&done.stdout));
    }

    async fn create(&self, name: &str, app: &str, hosts: &[&str]) {
        self.ask(
            "POST",
            "/apis/discovery.k8s.io/v1/namespaces/blue/endpointslices",
            &slice(name, app, hosts),
        )
        .await;
    }

    async fn replace(&self, name: &str, hosts: &[&str]) {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/blue/endpointslices/{name}");
        self.ask("PUT", &path, &slice(name, "ring", hosts)).await;
    }

    async fn delete(&self, name: &str) {
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/blue/endpointslices/{name}");
        self.ask("DELETE", &path, &json!({})).await;
    }
}

fn slice(name: &str, app: &str, hosts: &[&str]) -> Value {
    let endpoints: Vec<Value> = hosts.iter().map(|host| json!({ "addresses": [host] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "blue", "labels": { "app": app } },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "peer", "port": 7946, "protocol": "TCP" }, { "name": "redis", "port": 6379, "protocol": "TCP" }],
    })
}

/// What any server must show: lists in full, then each change as it happens.
async fn appear_change_and_go(server: &Server) {
    server.ask("POST", "/api/v1/namespaces", &json!({ "metadata": { "name": "blue" } })).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &[]).await;
    server.create("ring-a", "ring", &["10.0.0.1", "10.0.0.2"]).await;
    server.create("other", "other", &["10.0.0.9"]).await;
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
    server.create("ring-b", "ring", &["10.0.0.3"]).await;
    server.create("ring-c", "ring", &["10.0.0.4"]).await;
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946", "10.0.0.4:7946"]).await;
    server.replace("ring-a", &["10.0.0.5"]).await;
    server.delete("ring-c").await;
    expect(&watcher, &["10.0.0.3:7946", "10.0.0.5:7946"]).await;
    // Who begins now lists what has been there; without a namespace, that of the file is meant.
    expect(&server.source("", "&port=redis"), &["10.0.0.3:6379", "10.0.0.5:6379"]).await;
    expect(&server.source("green", ""), &[]).await;
}

#[tokio::test]
async fn slices_appear_change_and_go() {
    let kube = Kube::start().await;
    appear_change_and_go(&Server::new(format!("http://127.0.0.1:{}", kube.port))).await;
}

#[tokio::test]
async fn a_list_of_several_pages_is_read_to_its_end() {
    let kube = Kube::start().await;
    let server = Server::new(format!("http://127.0.0.1:{}", kube.port));
    for index in 1..=5 {
        server.create(&format!("ring-{index}"), "ring", &[&format!("10.0.0.{index}")]).await;
    }
    let expected = (1..=5).map(|index| format!("10.0.0.{index}:7946")).collect::<Vec<_>>();
    expect(&server.source("blue", ""), &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(kube.counts().1, 1);
}

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was_and_one_that_is_too_old_lists_anew() {
    let kube = Kube::start().await;
    let server = Server::new(format!("http://127.0.0.1:{}", kube.port));
    server.create("ring-a", "ring", &["10.0.0.1"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    let begun = kube.counts();
    assert_eq!(begun.0, 0);

    kube.close_watches();
    server.create("ring-b", "ring", &["10.0.0.2"]).await;
    kube.open_watches();
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
    assert_eq!(kube.counts(), begun, "no list is needed");

    kube.close_watches();
    server.delete("ring-a").await;
    server.create("ring-c", "ring", &["10.0.0.3"]).await;
    kube.compact();
    kube.open_watches();
    expect(&watcher, &["10.0.0.2:7946", "10.0.0.3:7946"]).await;
    assert_eq!(kube.counts(), (1, begun.1 + 1), "refused once, listed once more");
}

#[tokio::test]
async fn a_slice_that_is_none_says_nothing_and_harms_no_other() {
    let kube = Kube::start().await;
    let server = Server::new(format!("http://127.0.0.1:{}", kube.port));
    let path = "/apis/discovery.k8s.io/v1/namespaces/blue/endpointslices";
    let wrong = |name: &str, port: Value| {
        let metadata = json!({ "name": name, "namespace": "blue", "labels": { "app": "ring" } });
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "endpoints": 5, "ports": port })
    };
    server.ask("POST", path, &wrong("bad-1", json!(null))).await;
    server.create("ring-a", "ring", &["10.0.0.1", "no address", "\u{7}"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    server.ask("POST", path, &wrong("bad-2", json!([{ "port": -1 }]))).await;
    server.create("ring-b", "ring", &["10.0.0.2"]).await;
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
}

#[tokio::test]
async fn a_server_that_is_away_leaves_what_it_said() {
    let kube = Kube::start().await;
    let server = Server::new(format!("http://127.0.0.1:{}", kube.port));
    server.create("ring-a", "ring", &["10.0.0.1"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    drop(kube);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(watcher.candidates().await, ["10.0.0.1:7946"]);
}

#[cfg(feature = "kube-apiserver-test")]
mod a_real_server {
    use super::etcd::Etcd;
    use super::port::free_port;
    use super::process::{Process, text};
    use super::*;

    /// A kube-apiserver and the etcd beneath it.
    struct RealServer {
        folder: tempfile::TempDir,
        port: u16,
        etcd: Etcd,
        process: Option<Process>,
    }

    impl RealServer {
        fn start(program: &str) -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let etcd = Etcd::start();
            let key = folder.path().join("key");
            let made =
                std::process::Command::new("openssl").args(["genrsa", "-out", text(&key), "2048"]).output();
            assert!(made.expect("openssl").status.success());
            std::fs::write(folder.path().join("tokens"), format!("{TOKEN},tests,1,system:masters\n"))
                .expect("written");
            let mut server = Self { folder, port: free_port(), etcd, process: None };
            server.revive(program);
            server
        }

        fn revive(&mut self, program: &str) {
            let file = |name: &str| format!("{}/{name}", text(self.folder.path()));
            let arguments = [
                format!("--etcd-servers=http://127.0.0.1:{}", self.etcd.port),
                format!("--secure-port={}", self.port),
                format!("--cert-dir={}", file("certs")),
                format!("--service-account-key-file={}", file("key")),
                format!("--service-account-signing-key-file={}", file("key")),
                format!("--token-auth-file={}", file("tokens")),
                "--bind-address=127.0.0.1".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                "--disable-admission-plugins=ServiceAccount".to_owned(),
                "--authorization-mode=RBAC".to_owned(),
            ];
            self.process =
                Some(Process::start(program, &arguments.each_ref().map(String::as_str), self.port));
        }

        async fn until_ready(&self) {
            let url = format!("https://127.0.0.1:{}/readyz", self.port);
            let token = format!("authorization: Bearer {TOKEN}");
            let arguments =
                ["-ksf", "--retry", "60", "--retry-all-errors", "--retry-delay", "1", "-H", &token, &url];
            assert!(Command::new("curl").args(arguments).output().await.expect("curl").status.success());
        }
    }

    #[tokio::test]
    async fn the_same_holds_for_a_real_server() {
        let program = std::env::var("SLIPRING_KUBE_APISERVER").expect("SLIPRING_KUBE_APISERVER");
        assert!(std::path::Path::new(&program).exists(), "{program}");
        let mut real = RealServer::start(&program);
        real.until_ready().await;
        let server = Server::new(format!("https://127.0.0.1:{}", real.port));
        appear_change_and_go(&server).await;
        // A server that restarts is followed, and what happened meanwhile is seen.
        let watcher = server.source("blue", "");
        expect(&watcher, &["10.0.0.3:7946", "10.0.0.5:7946"]).await;
        real.process = None;
        real.revive(&program);
        real.until_ready().await;
        server.delete("ring-b").await;
        expect(&watcher, &["10.0.0.5:7946"]).await;
    }
}
