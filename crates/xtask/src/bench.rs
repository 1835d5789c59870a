//! One node against redis-server: the same load in turns, throughput and processor time side by side.
//!
//! Timings drift from minute to minute, so only runs next to each other are compared, and medians of pairs
//! are what counts. Processor time is the server's own, user and system, divided by operations.

pub(crate) mod moving;
mod server;

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::root;
use server::Server;

/// Keys of the measurements of memory and of starting.
const KEYS: usize = 1_000_000;
/// Where the result is kept, and the lines between which it stands.
const DOCUMENT: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- written by cargo xtask bench --write -->\n";
const END: &str = "<!-- end -->\n";

/// One run's result.
#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    cpu_us: f64,
}

/// Runs the whole comparison, prints it, and keeps it if asked to.
pub(crate) fn run(pairs: usize, requests: usize, is_kept: bool) -> Result<()> {
    crate::release()?;
    let version = crate::shell::output("redis-server", &["--version"])?;
    let version =
        version.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism()?;
    let mut lines = vec![
        format!("{cores} cores, {pairs} pairs of runs, medians; Redis {version}.\n"),
        "| | Redis op/s | us/op | Slipring op/s | us/op | op/s ratio | us/op ratio |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for pipeline in [1, 16, 100] {
        let load = if pipeline == 1 { requests } else { requests * 4 };
        for command in ["GET", "SET"] {
            lines.push(row(command, pipeline, &compare(command, pipeline, pairs, load)?));
            println!("{}", lines.last().expect("one was pushed"));
        }
    }
    let (redis, slipring) = (memory(&Server::redis()?)?, memory(&Server::slipring(false)?)?);
    lines.push(format!("\nMemory per key at {KEYS} keys: Redis {redis:.0} B, Slipring {slipring:.0} B."));
    let seconds = starting()?;
    lines.push(format!("Killed with {KEYS} keys on disk, a node serves again after {seconds:.2} s."));
    let result = lines.join("\n") + "\n";
    println!("\n{result}");
    if is_kept { keep(&result) } else { Ok(()) }
}

fn compare(command: &str, pipeline: usize, pairs: usize, load: usize) -> Result<Vec<(Run, Run)>> {
    let (redis, slipring) = (Server::redis()?, Server::slipring(false)?);
    for server in [&redis, &slipring] {
        measure(server, "SET", 16, 200_000)?;
    }
    (0..pairs)
        .map(|_| {
            Ok((measure(&redis, command, pipeline, load)?, measure(&slipring, command, pipeline, load)?))
        })
        .collect()
}

fn row(command: &str, pipeline: usize, runs: &[(Run, Run)]) -> String {
    let median = |value: &dyn Fn(&(Run, Run)) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    format!(
        "| {command}, pipelines of {pipeline} | {:.0} | {:.2} | {:.0} | {:.2} | {:.2} | {:.2} |",
        median(&|run| run.0.per_second),
        median(&|run| run.0.cpu_us),
        median(&|run| run.1.per_second),
        median(&|run| run.1.cpu_us),
        median(&|run| run.1.per_second / run.0.per_second),
        median(&|run| run.1.cpu_us / run.0.cpu_us),
    )
}

/// 50 connections, random keys of 16 bytes, values of 100 bytes.
fn measure(server: &Server, command: &str, pipeline: usize, requests: usize) -> Result<Run> {
    let (port, pipeline) = (server.port.to_string(), pipeline.to_string());
    let before = server.cpu_seconds()?;
    let began = Instant::now();
    let output = Command::new("redis-benchmark")
        .args(["-p", &port, "--dbnum", server.database, "-c", "50", "-d", "100", "-r", "100000", "-q"])
        .args(["-n", &requests.to_string(), "-P", &pipeline, "-t", &command.to_lowercase()])
        .output()
        .context("redis-benchmark cannot be run; is it installed?")?;
    let took = began.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("redis-benchmark failed against {}: {}", server.name, String::from_utf8_lossy(&output.stderr));
    }
    let cpu = server.cpu_seconds()? - before;
    Ok(Run { per_second: requests as f64 / took, cpu_us: cpu * 1e6 / requests as f64 })
}

/// Bytes that a key costs.
fn memory(server: &Server) -> Result<f64> {
    let before = server.resident_bytes()?;
    server.fill(KEYS)?;
    Ok((server.resident_bytes()? - before) as f64 / KEYS as f64)
}

/// Seconds until a killed node serves again.
fn starting() -> Result<f64> {
    let mut server = Server::slipring(true)?;
    server.fill(KEYS)?;
    Ok(server.restart()?.as_secs_f64())
}

/// Replaces what stands between the marks of the document.
fn keep(result: &str) -> Result<()> {
    let path = root().join(DOCUMENT);
    let text = std::fs::read_to_string(&path).context(DOCUMENT)?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("{DOCUMENT} has no mark {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{DOCUMENT} has no mark {END}"))?;
    std::fs::write(path, [before, BEGIN, result, END, after].concat())?;
    Ok(())
}
