//! A real kube-apiserver on loopback, with the etcd beneath it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::etcd::Etcd;
use crate::port::free_port;
use crate::process::{Process, text};
use crate::slices::{ADMIN, SLICES, Server};

/// What the documentation tells to apply, for the namespace of the tests.
const MANIFEST: &str = include_str!("../../../../docs/kubernetes-role.yaml");
/// The rights in it, all of them: each is taken away in turn.
const VERBS: &str = r#"verbs: ["list", "watch"]"#;
/// How long the server may take to act on a right that is given or taken.
const PATIENCE: Duration = Duration::from_secs(40);

/// A server whose data outlives its process.
pub(crate) struct ApiServer {
    program: String,
    folder: tempfile::TempDir,
    port: u16,
    etcd: Etcd,
    process: Option<Process>,
}

impl ApiServer {
    /// Starts the program that the variable names, with nothing but the namespace `blue` in it.
    pub(crate) async fn start() -> Self {
        let program = std::env::var("SLIPRING_KUBE_APISERVER").expect("SLIPRING_KUBE_APISERVER");
        assert!(std::path::Path::new(&program).exists(), "{program}");
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("key");
        let made =
            std::process::Command::new("openssl").args(["genrsa", "-out", text(&key), "2048"]).output();
        assert!(made.expect("openssl").status.success());
        std::fs::write(folder.path().join("tokens"), format!("{ADMIN},tests,1,system:masters\n"))
            .expect("written");
        let mut server = Self { program, folder, port: free_port(), etcd: Etcd::start(), process: None };
        server.revive().await;
        let namespace = json!({ "metadata": { "name": "blue" } });
        server.seen_by(ADMIN).ask("POST", "/api/v1/namespaces", &namespace).await;
        server
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again, and waits until it serves.
    pub(crate) async fn revive(&mut self) {
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
        let arguments = arguments.each_ref().map(String::as_str);
        self.process = Some(Process::start(&self.program, &arguments, self.port));
        let server = self.seen_by(ADMIN);
        let until = Instant::now() + 2 * PATIENCE;
        while server.say(ADMIN, "GET", "/readyz", "").await.is_err() {
            assert!(Instant::now() < until, "the server does not become ready");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The server as nodes with this token find it.
    pub(crate) fn seen_by(&self, token: &str) -> Server {
        Server::new(format!("https://127.0.0.1:{}", self.port), token)
    }

    /// Creates one of the objects that the documentation tells to apply.
    pub(crate) async fn apply(&self, kind: &str) {
        let path = match kind {
            "ServiceAccount" => "/api/v1/namespaces/blue/serviceaccounts",
            "Role" => "/apis/rbac.authorization.k8s.io/v1/namespaces/blue/roles",
            "RoleBinding" => "/apis/rbac.authorization.k8s.io/v1/namespaces/blue/rolebindings",
            other => panic!("the documentation has no {other}"),
        };
        self.seen_by(ADMIN).say(ADMIN, "POST", path, &documented(kind)).await.expect(kind);
    }

    /// A token of the account, as a pod is given one.
    pub(crate) async fn account(&self) -> String {
        let path = "/api/v1/namespaces/blue/serviceaccounts/slipring/token";
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
        let said = self.seen_by(ADMIN).say(ADMIN, "POST", path, &body.to_string()).await.expect("a token");
        let said: Value = serde_json::from_str(&said).expect("JSON");
        said.pointer("/status/token").and_then(Value::as_str).expect("a token").to_owned()
    }

    /// Leaves the role these verbs of those that are documented, and waits until the server acts on it.
    pub(crate) async fn allow(&self, token: &str, verbs: &[&str]) {
        let role = documented("Role");
        assert!(role.contains(VERBS) && role.matches("verbs").count() == 1, "{role}");
        let role = role.replace(VERBS, &format!("verbs: {verbs:?}"));
        let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/blue/roles/slipring-discovery";
        self.seen_by(ADMIN).say(ADMIN, "PUT", path, &role).await.expect("a role");
        for verb in ["list", "watch"] {
            self.until_allowed(token, verb, verbs.contains(&verb)).await;
        }
    }

    /// Waits until the holder of a token may do something, or may not.
    pub(crate) async fn until_allowed(&self, token: &str, verb: &str, is_allowed: bool) {
        let server = self.seen_by(token);
        let attributes = json!({
            "namespace": "blue", "verb": verb, "group": "discovery.k8s.io", "resource": "endpointslices",
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": attributes },
        });
        let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        let until = Instant::now() + PATIENCE;
        loop {
            let said = server.say(token, "POST", path, &review.to_string()).await.expect("a review");
            let said: Value = serde_json::from_str(&said).expect("JSON");
            if said.pointer("/status/allowed") == Some(&json!(is_allowed)) {
                return;
            }
            assert!(Instant::now() < until, "{verb} is to be {is_allowed}: {said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What the server answers a watch from a version on, at first.
    pub(crate) async fn watch(&self, token: &str, version: u64) -> Value {
        let path = format!("{SLICES}?watch=true&resourceVersion={version}&timeoutSeconds=1");
        let said = self.seen_by(token).say(token, "GET", &path, "").await.expect("a watch");
        serde_json::from_str(said.lines().next().expect("a line")).expect("JSON")
    }
}

/// One object of the manifest.
fn documented(kind: &str) -> String {
    let manifest = MANIFEST.replace("namespace: default", "namespace: blue");
    let mut objects = manifest.split("\n---\n");
    objects.find(|object| object.contains(&format!("\nkind: {kind}\n"))).expect(kind).to_owned()
}
