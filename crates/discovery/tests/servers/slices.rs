//! EndpointSlices on an API server, made by curl, and sources that follow them.

use serde_json::{Value, json};
use slipring_discovery::Sources;
use tokio::process::Command;

use crate::expect::sources;

/// Where the slices of the namespace are.
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/blue/endpointslices";
/// The token of who may do everything.
pub(crate) const ADMIN: &str = "a-token-of-the-tests";

/// A server's place, and the file that tells nodes of it.
pub(crate) struct Server {
    pub(crate) url: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// Nodes show `token`.
    pub(crate) fn new(url: String, token: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "ring",
            "clusters": [{ "name": "ring", "cluster": { "server": url, "insecure-skip-tls-verify": true } }],
            "users": [{ "name": "ring", "user": { "token": token } }],
            "contexts": [{ "name": "ring", "context": { "cluster": "ring", "user": "ring", "namespace": "blue" } }],
        });
        std::fs::write(folder.path().join("config"), config.to_string()).expect("written");
        Self { url, folder }
    }

    /// The slices of one app.
    pub(crate) fn source(&self, namespace: &str, more: &str) -> Sources {
        self.selecting(namespace, "app=ring", more)
    }

    pub(crate) fn selecting(&self, namespace: &str, selector: &str, more: &str) -> Sources {
        let config = self.folder.path().join("config");
        sources(&format!(
            "kubernetes://{namespace}/?selector={selector}&kubeconfig={}{more}",
            config.display()
        ))
    }

    /// Asks as the one who may do everything, for what has to succeed.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &Value) {
        self.say(ADMIN, method, path, &body.to_string()).await.expect(path);
    }

    /// Asks as anybody; JSON and YAML are told apart. An error is what the server says when it refuses.
    pub(crate) async fn say(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<String, String> {
        let url = format!("{}{path}", self.url);
        let kind = if body.starts_with('{') { "json" } else { "yaml" };
        let (token, kind) =
            (format!("authorization: Bearer {token}"), format!("content-type: application/{kind}"));
        let mut curl = Command::new("curl");
        curl.args(["-ksS", "--fail-with-body", "-X", method, "-H", &token, "-H", &kind]);
        if !body.is_empty() {
            curl.args(["--data-binary", body]);
        }
        let done = curl.arg(&url).output().await.expect("curl");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if done.status.success() { Ok(said) } else { Err(said) }
    }

    pub(crate) async fn create(&self, name: &str, app: &str, hosts: &[&str]) {
        self.ask("POST", SLICES, &slice(name, &json!({ "app": app }), hosts)).await;
    }

    pub(crate) async fn create_labelled(&self, name: &str, labels: &Value, hosts: &[&str]) {
        self.ask("POST", SLICES, &slice(name, labels, hosts)).await;
    }

    pub(crate) async fn replace(&self, name: &str, app: &str, hosts: &[&str]) {
        self.ask("PUT", &format!("{SLICES}/{name}"), &slice(name, &json!({ "app": app }), hosts)).await;
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.ask("DELETE", &format!("{SLICES}/{name}"), &json!({})).await;
    }
}

fn slice(name: &str, labels: &Value, hosts: &[&str]) -> Value {
    let endpoints: Vec<Value> = hosts.iter().map(|host| json!({ "addresses": [host] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "namespace": "blue", "labels": labels },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "peer", "port": 7946, "protocol": "TCP" }, { "name": "redis", "port": 6379, "protocol": "TCP" }],
    })
}
