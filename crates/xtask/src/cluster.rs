//! A cluster on this machine, to try things on.
//!
//! Nodes end with this process however it ends: they watch their standard input, which is ours to close.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{binary, root};

/// How long a node may take until it serves.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts the nodes, prints where they are, and stays until all of them have ended.
pub(crate) fn run(nodes: usize) -> Result<()> {
    crate::release()?;
    let folder = root().join("target").join(format!("cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut running: Vec<Child> = Vec::new();
    let mut seed: Option<String> = None;
    println!(
        "\n{:<5} {:<22} {:<22} {:<22} {:<22} process",
        "node", "redis", "redis cluster", "http", "peers"
    );
    for index in 1..=nodes {
        let (child, addresses) = start(&folder, index, seed.as_deref())?;
        let text = |name| addresses.get(name).and_then(Value::as_str).unwrap_or_default();
        let process = child.id();
        let [redis, cluster, http, peer] = ["redis", "redis_cluster", "http", "peer"].map(text);
        println!("{index:<5} {redis:<22} {cluster:<22} {http:<22} {peer:<22} {process}");
        seed.get_or_insert_with(|| text("peer").to_owned());
        running.push(child);
    }
    println!("\nData and logs are in {}. Ctrl-C ends the cluster.", folder.display());
    // Waiting for a process closes its standard input, which would end it.
    let _inputs: Vec<_> = running.iter_mut().map(|child| child.stdin.take()).collect();
    for child in &mut running {
        // A node that was killed on purpose is no reason to end the others.
        child.wait()?;
    }
    Ok(())
}

/// Starts one node with its files in `folder`; its process and the addresses it tells.
pub(crate) fn start(folder: &Path, index: usize, seed: Option<&str>) -> Result<(Child, Value)> {
    let ready = folder.join(format!("ready-{index}"));
    let log = std::fs::File::create(folder.join(format!("log-{index}")))?;
    let mut command = Command::new(binary());
    command.args(["start", "--redis-port", "0", "--http-port", "0", "--peer-port", "0", "--exit-with-stdin"]);
    command.arg("--data").arg(folder.join(format!("data-{index}"))).arg("--ready-file").arg(&ready);
    if let Some(seed) = seed {
        command.args(["--join", seed]);
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn();
    let mut child = child.context("the node cannot be started")?;
    let deadline = Instant::now() + START_TIMEOUT;
    while Instant::now() < deadline {
        if let Ok(text) = std::fs::read(&ready) {
            return Ok((child, serde_json::from_slice(&text)?));
        }
        if let Some(status) = child.try_wait()? {
            bail!("node {index} ended, {status}; its log is in {}", folder.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("node {index} does not serve; its log is in {}", folder.display())
}
