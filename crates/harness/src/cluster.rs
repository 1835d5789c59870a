//! All nodes of a run, behind their proxies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use slipring_node::Status;
use slipring_ring::Layout;
use slipring_sim::{BucketKind, Violation};

use crate::place::Place;
use crate::process::{Orders, Process};
use crate::proxy::Proxies;
use crate::story::Story;
use crate::wait::wait;

/// How long a question over HTTP may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a cluster may take to form.
const FORMING: Duration = Duration::from_secs(60);
/// How a process ends that cannot go on and says so.
const GAVE_UP: i32 = 1;

/// The nodes, and what stands between them.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Process>,
    pub(crate) proxies: Proxies,
    agent: ureq::Agent,
    pub(crate) place: Place,
}

impl Cluster {
    /// Founds a cluster on node 0, lets the others join in turn, and makes the third bucket.
    pub(crate) fn form(
        place: Place,
        count: usize,
        binary: &Path,
        folder: &Path,
        story: &Story,
    ) -> anyhow::Result<Self> {
        let addresses = (0..count).map(|node| place.node(node)).collect();
        let proxies = Proxies::start(place.host(), addresses)?;
        let agent = ureq::Agent::config_builder().timeout_global(Some(HTTP_TIMEOUT)).build().into();
        let mut nodes = Vec::new();
        for node in 0..count {
            let join = (node > 0).then(|| proxies.address(0));
            let orders = Orders { binary: binary.to_owned(), advertise: proxies.address(node), join };
            nodes.push(Process::new(node, folder.join(format!("node-{node}")), orders)?);
        }
        let mut cluster = Self { nodes, proxies, agent, place };
        for node in 0..count {
            cluster.start(node, story)?;
            cluster.wait_until_ready(node)?;
            cluster.proxies.set_target(node, cluster.node(node)?.addresses()?.peer);
        }
        cluster.wait_until_whole(FORMING)?;
        cluster.make_bucket()?;
        story.note("every node reaches every other");
        Ok(cluster)
    }

    pub(crate) fn node(&self, node: usize) -> anyhow::Result<&Process> {
        self.nodes.get(node).with_context(|| format!("there is no node {node}"))
    }

    pub(crate) fn node_mut(&mut self, node: usize) -> anyhow::Result<&mut Process> {
        self.nodes.get_mut(node).with_context(|| format!("there is no node {node}"))
    }

    /// Starts a node that is not up; does not wait.
    pub(crate) fn start(&mut self, node: usize, story: &Story) -> anyhow::Result<()> {
        let process = self.nodes.get_mut(node).context("there is no such node")?;
        if process.is_up() {
            return Ok(());
        }
        process.spawn(&self.place)?;
        story.note_node(node, "started");
        Ok(())
    }

    fn wait_until_ready(&mut self, node: usize) -> anyhow::Result<()> {
        wait(FORMING, || {
            let process = self.nodes.get_mut(node).context("there is no such node")?;
            if let Some(status) = process.ended()? {
                bail!("node {node} ended at its start, {status}:\n{}", process.log_tail());
            }
            process.is_ready()
        })?
        .then_some(())
        .with_context(|| format!("node {node} does not serve after {FORMING:?}"))
    }

    /// Whether every node is up and says that it reaches every other.
    pub(crate) fn is_whole(&mut self) -> anyhow::Result<bool> {
        for process in &mut self.nodes {
            if !process.is_ready()? {
                return Ok(false);
            }
        }
        let count = self.nodes.len();
        let meets_all = |status: &Status| {
            status.nodes.len() == count
                && status.nodes.iter().all(|node| node.is_connected && node.own.is_some())
        };
        Ok((0..count).all(|node| self.status(node).is_ok_and(|status| meets_all(&status))))
    }

    /// Waits until every node is up and reaches every other.
    pub(crate) fn wait_until_whole(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let is_whole = wait(timeout, || self.is_whole())?;
        is_whole
            .then_some(())
            .with_context(|| format!("not every node reaches every other after {timeout:?}"))
    }

    /// What a node says of the cluster.
    pub(crate) fn status(&self, node: usize) -> anyhow::Result<Status> {
        self.ask(node, "/v1/cluster")?.body_mut().read_json().context("the status")
    }

    pub(crate) fn layout(&self) -> anyhow::Result<Layout> {
        self.ask(0, "/v1/layout")?.body_mut().read_json().context("the layout")
    }

    /// One of a node's numbers; 0 when it does not have it.
    pub(crate) fn metric(&self, node: usize, name: &str) -> anyhow::Result<u64> {
        let text = self.ask(node, "/metrics")?.body_mut().read_to_string()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        Ok(value.unwrap_or(0.0) as u64)
    }

    fn ask(&self, node: usize, path: &str) -> anyhow::Result<ureq::http::Response<ureq::Body>> {
        let http = self.node(node)?.addresses()?.http;
        Ok(self.agent.get(format!("http://{http}{path}")).call()?)
    }

    fn make_bucket(&self) -> anyhow::Result<()> {
        let http = self.node(0)?.addresses()?.http;
        let wish = json!({
            "name": BucketKind::Fsync.name(),
            "preset": "durable",
            "policy": { "durability": "fsync" },
        });
        let made: Value =
            self.agent.post(format!("http://{http}/v1/buckets")).send_json(&wish)?.body_mut().read_json()?;
        let number = made.get("number").and_then(Value::as_u64);
        if number != Some(u64::from(BucketKind::Fsync.id().0)) {
            bail!("the third bucket was made, but as {made}");
        }
        Ok(())
    }

    /// Which processes ended by themselves since they were last looked at. `may_end` says of which that is no wonder;
    /// any other is a violation, as is an end other than giving up in good order.
    pub(crate) fn ended(
        &mut self,
        story: &Story,
        may_end: impl Fn(usize) -> bool,
    ) -> anyhow::Result<Result<Vec<usize>, Violation>> {
        let mut ended = Vec::new();
        for (node, process) in self.nodes.iter_mut().enumerate() {
            let Some(status) = process.ended()? else { continue };
            story.note_node(node, &format!("ended by itself, {status}"));
            if !may_end(node) || status.code() != Some(GAVE_UP) {
                let told = format!("node {node} ended by itself, {status}:\n{}", process.log_tail());
                return Ok(Err(Violation::new("staying_up", told)));
            }
            ended.push(node);
        }
        Ok(Ok(ended))
    }

    /// The first panic that a node wrote down.
    pub(crate) fn panic(&self) -> Option<Violation> {
        let found = self.nodes.iter().enumerate().find_map(|(node, process)| Some((node, process.panic()?)));
        found.map(|(node, panic)| Violation::new("no_panic", format!("node {node}: {panic}")))
    }

    /// The nodes' data directories.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(Process::data).collect()
    }
}
