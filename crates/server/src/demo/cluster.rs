//! Real node processes in a temporary directory; all of them end with the demonstration.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use slipring_node::Status;
use tempfile::TempDir;

/// How long a node may take to start, or to see the others.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The nodes.
pub(super) struct Cluster {
    folder: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    process: Child,
    redis: String,
    http: String,
    peer: String,
}

impl Cluster {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { folder: TempDir::with_prefix("slipring-demo-")?, nodes: Vec::new() })
    }

    pub(super) fn start_node(&mut self) -> anyhow::Result<()> {
        let node = self.launch(self.nodes.len())?;
        self.nodes.push(node);
        Ok(())
    }

    pub(super) fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        let node = self.nodes.get_mut(node).context("there is no such node")?;
        node.process.kill()?;
        node.process.wait()?;
        Ok(())
    }

    pub(super) fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        let started = self.launch(node)?;
        *self.nodes.get_mut(node).context("there is no such node")? = started;
        Ok(())
    }

    pub(super) fn redis_address(&self, node: usize) -> String {
        self.nodes.get(node).map(|node| node.redis.clone()).unwrap_or_default()
    }

    pub(super) fn http_address(&self, node: usize) -> String {
        self.nodes.get(node).map(|node| node.http.clone()).unwrap_or_default()
    }

    pub(super) fn redis_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.redis.clone()).collect()
    }

    /// Waits until every node that runs reaches every other.
    pub(super) fn wait_until_connected(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let is_connected = (0..self.nodes.len()).all(|node| {
                let status = self.status(node);
                status.is_ok_and(|status| {
                    status.nodes.len() == self.nodes.len()
                        && status.nodes.iter().all(|node| node.is_connected)
                })
            });
            if is_connected {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the nodes do not reach each other; the first one's log ends:\n{}", self.log_tail(0));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Hints that the nodes that run keep for others.
    pub(super) fn hints(&self) -> anyhow::Result<u64> {
        let status = self.status(0)?;
        Ok(status.nodes.iter().filter_map(|node| node.own.as_ref()).map(|own| own.hints).sum())
    }

    pub(super) fn log_tail(&self, node: usize) -> String {
        let log = std::fs::read_to_string(self.path(node, "log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(10)).map(|line| format!("  {line}\n")).collect()
    }

    /// Blocks until the process is interrupted; the nodes end with it.
    pub(super) fn wait_for_interrupt(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            // Without a signal to wait for there is nothing to wait for.
            let _ = runtime.block_on(tokio::signal::ctrl_c());
        }
    }

    fn status(&self, node: usize) -> anyhow::Result<Status> {
        let url = format!("http://{}/v1/cluster", self.http_address(node));
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(START_TIMEOUT)).build().into();
        Ok(agent.get(&url).call()?.body_mut().read_json()?)
    }

    fn path(&self, node: usize, name: &str) -> PathBuf {
        self.folder.path().join(format!("node-{}.{name}", node + 1))
    }

    fn launch(&self, index: usize) -> anyhow::Result<Node> {
        let ready = self.path(index, "ready");
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let log = File::options().create(true).append(true).open(self.path(index, "log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([
            "start",
            "--redis-port",
            "0",
            "--http-port",
            "0",
            "--peer-port",
            "0",
            "--exit-with-stdin",
            "--membership",
            "local",
        ]);
        command.arg("--data").arg(self.path(index, "data")).arg("--ready-file").arg(&ready);
        if let Some(first) = self.nodes.first() {
            command.args(["--join", &first.peer]);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let mut process = command.spawn().context("a node cannot be started")?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !ready.exists() {
            if let Some(status) = process.try_wait()? {
                bail!("node {} ended at once ({status}); its log ends:\n{}", index + 1, self.log_tail(index));
            }
            if Instant::now() > deadline {
                process.kill()?;
                bail!("node {} did not start in time; its log ends:\n{}", index + 1, self.log_tail(index));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let ready: Value = serde_json::from_slice(&std::fs::read(&ready)?)?;
        let address = |name: &str| ready.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Node { process, redis: address("redis"), http: address("http"), peer: address("peer") })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // One that was killed already is gone.
            let _ = node.process.kill();
            let _ = node.process.wait();
        }
    }
}
