//! A fourth node joins three that hold many keys: how fast its share moves, what that costs, and what clients
//! feel of it.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::server::{cpu_seconds, fill};
use crate::cluster;

/// How often the move is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Requests of one measurement of what clients feel, from a few connections that wait for each answer.
const REQUESTS: usize = 20_000;
/// Measurements at rest, and at most as many while data moves.
const MEASUREMENTS: usize = 9;
const CONNECTIONS: &str = "4";

/// A node of the measured cluster.
struct Running {
    child: Child,
    redis_port: u16,
    http: String,
    peer: String,
}

/// The p99 of one measurement, in milliseconds.
struct Felt {
    set: f64,
    get: f64,
}

/// Runs the measurement and prints it.
pub(crate) fn run(keys: usize) -> Result<()> {
    crate::release()?;
    let folder = std::env::temp_dir().join(format!("slipring-bench-moving-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut nodes = Vec::new();
    let measured = measure(&folder, &mut nodes, keys);
    for node in &mut nodes {
        // It may have ended by itself.
        let _ = node.child.kill();
        let _ = node.child.wait();
    }
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &Path, nodes: &mut Vec<Running>, keys: usize) -> Result<()> {
    for index in 1..=3 {
        let node = start(folder, index, nodes.first())?;
        nodes.push(node);
    }
    wait_until_settled(nodes)?;
    let first = nodes.first().context("three were started")?;
    println!("filling three nodes with {keys} keys");
    fill(first.redis_port, "0", keys)?;
    wait_until_quiet(nodes)?;
    let port = first.redis_port;

    let before = total_cpu(nodes)?;
    let began = Instant::now();
    let joined = start(folder, 4, nodes.first())?;
    nodes.push(joined);
    wait_until_settled(nodes)?;
    let (took, cpu) = (began.elapsed(), total_cpu(nodes)? - before);
    let moved = metric(nodes, "slipring_moved_cells_total")?;
    let bytes = metric(nodes, "slipring_moved_bytes_total")?;
    println!(
        "{moved:.0} cells, {:.0} MB of keys and cells moved in {:.1} s",
        bytes / 1e6,
        took.as_secs_f64()
    );
    println!(
        "{:.1} MB/s, {:.1} us of processor a cell, all nodes together",
        bytes / 1e6 / took.as_secs_f64(),
        cpu * 1e6 / moved
    );

    wait_until_quiet(nodes)?;
    let idle: Vec<Felt> = (0..MEASUREMENTS).map(|_| felt(port, keys)).collect::<Result<_>>()?;
    let fourth = nodes.last().context("it joined")?.peer.clone();
    change(nodes, &fourth, "drain")?;
    let mut busy = Vec::new();
    while busy.len() < MEASUREMENTS && !is_settled(nodes)? {
        busy.push(felt(port, keys)?);
    }
    println!(
        "p99 of four nodes' clients in ms, median (most) of {} and {} measurements",
        idle.len(),
        busy.len()
    );
    for (name, of) in [("SET", (|felt| felt.set) as fn(&Felt) -> f64), ("GET", |felt| felt.get)] {
        let told = |all: &[Felt]| median_and_most(all.iter().map(of).collect());
        println!("{name}: {} at rest, {} while the fourth is drained", told(&idle), told(&busy));
    }
    Ok(())
}

fn median_and_most(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    format!("{:.2} ({:.2})", at(values.len() / 2), at(values.len().saturating_sub(1)))
}

fn start(folder: &Path, index: usize, seed: Option<&Running>) -> Result<Running> {
    let (child, told) = cluster::start(folder, index, seed.map(|node| node.peer.as_str()))?;
    let text = |name: &str| told.get(name).and_then(Value::as_str).map(str::to_owned).context("an address");
    let redis = text("redis")?;
    let redis_port = redis.rsplit(':').next().unwrap_or_default().parse()?;
    Ok(Running { child, redis_port, http: text("http")?, peer: text("peer")? })
}

fn wait_until_settled(nodes: &[Running]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if is_settled(nodes)? {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
    bail!("data still moves after {PATIENCE:?}")
}

fn is_settled(nodes: &[Running]) -> Result<bool> {
    for node in nodes {
        let status: Value = serde_json::from_str(&http(node, "/v1/cluster")?)?;
        let is_moving = status.get("moving").and_then(Value::as_u64) != Some(0);
        let members = status.get("nodes").and_then(Value::as_array).map_or(0, Vec::len);
        if is_moving || members != nodes.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until hints are delivered and nobody does much.
fn wait_until_quiet(nodes: &[Running]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let before = total_cpu(nodes)?;
        std::thread::sleep(Duration::from_secs(1));
        if total_cpu(nodes)? - before < 0.2 {
            return Ok(());
        }
    }
    bail!("the nodes do not come to rest")
}

fn total_cpu(nodes: &[Running]) -> Result<f64> {
    nodes.iter().map(|node| cpu_seconds(&node.child)).sum()
}

/// The sum of one metric over all nodes.
fn metric(nodes: &[Running], name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for node in nodes {
        let text = http(node, "/metrics")?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        sum += line.with_context(|| format!("no {name} among the metrics"))?;
    }
    Ok(sum)
}

fn http(node: &Running, path: &str) -> Result<String> {
    crate::shell::output("curl", &["-sf", &format!("http://{}{path}", node.http)])
}

fn change(nodes: &[Running], node: &str, what: &str) -> Result<()> {
    let first = nodes.first().context("there are nodes")?;
    let url = format!("http://{}", first.http);
    let done = Command::new(crate::shell::binary()).args([what, node, "--node", &url]).status()?;
    if done.success() { Ok(()) } else { bail!("slipring {what} failed") }
}

/// What clients that wait for each answer feel.
fn felt(port: u16, keys: usize) -> Result<Felt> {
    let output = Command::new("redis-benchmark")
        .args(["-p", &port.to_string(), "-c", CONNECTIONS, "-d", "100", "-r", &keys.to_string(), "--csv"])
        .args(["-n", &REQUESTS.to_string(), "-t", "set,get"])
        .output()
        .context("redis-benchmark cannot be run; is it installed?")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rows =
        text.lines().map(|line| line.split(',').map(|cell| cell.trim_matches('"')).collect::<Vec<_>>());
    let heads = rows.next().context("redis-benchmark said nothing")?;
    let p99 = heads.iter().position(|head| *head == "p99_latency_ms").context("no column of p99")?;
    let mut value = |name: &str| {
        let row =
            rows.next().filter(|row| row.first() == Some(&name)).with_context(|| format!("no {name}"))?;
        row.get(p99).and_then(|cell| cell.parse().ok()).context("a number")
    };
    Ok(Felt { set: value("SET")?, get: value("GET")? })
}
