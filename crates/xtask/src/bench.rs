//! One node against redis-server: the same load in turns, throughput and processor time side by side.
//!
//! Timings drift from minute to minute, so only runs next to each other are compared, and medians of pairs
//! are what counts. Processor time is the server's own, user and system, divided by operations.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::{cargo, root};

/// Clock ticks of /proc/PID/stat in one second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const REDIS_PORT: u16 = 16_379;
const SLIPRING_PORT: u16 = 16_380;
/// Keys of the measurements of memory and of starting.
const KEYS: usize = 1_000_000;

/// A server under measurement; killed when dropped.
struct Server {
    name: &'static str,
    child: Child,
    port: u16,
    database: &'static str,
    _folder: Folder,
}

struct Folder(std::path::PathBuf);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One run's result.
#[derive(Clone, Copy)]
struct Run {
    per_second: f64,
    cpu_us: f64,
}

/// Runs the whole comparison and prints it.
pub(crate) fn run(pairs: usize, requests: usize) -> Result<()> {
    cargo(&["build", "--release", "--package", "slipring"])?;
    println!(
        "\n{:<10} {:>9} | {:>12} {:>9} | {:>12} {:>9} | {:>9} {:>9}",
        "", "", "redis op/s", "us/op", "slipring", "us/op", "op/s", "us/op"
    );
    for pipeline in [1, 16, 100] {
        let load = if pipeline == 1 { requests } else { requests * 4 };
        for command in ["get", "set"] {
            let redis = redis()?;
            let slipring = slipring("1", false)?;
            for server in [&redis, &slipring] {
                benchmark(server, "set", 16, 200_000)?;
            }
            let mut runs = Vec::new();
            for _ in 0..pairs {
                runs.push((
                    benchmark(&redis, command, pipeline, load)?,
                    benchmark(&slipring, command, pipeline, load)?,
                ));
            }
            print_row(command, pipeline, &runs);
        }
    }
    memory()?;
    starting()
}

fn print_row(command: &str, pipeline: usize, runs: &[(Run, Run)]) {
    let median = |value: &dyn Fn(&(Run, Run)) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    println!(
        "{:<10} {:>9} | {:>12.0} {:>9.2} | {:>12.0} {:>9.2} | {:>8.2}x {:>8.2}x",
        command.to_uppercase(),
        format!("P={pipeline}"),
        median(&|run| run.0.per_second),
        median(&|run| run.0.cpu_us),
        median(&|run| run.1.per_second),
        median(&|run| run.1.cpu_us),
        median(&|run| run.1.per_second / run.0.per_second),
        median(&|run| run.1.cpu_us / run.0.cpu_us),
    );
}

/// 50 connections, random keys of 16 bytes, values of 100 bytes.
fn benchmark(server: &Server, command: &str, pipeline: usize, requests: usize) -> Result<Run> {
    let before = cpu_seconds(&server.child)?;
    let began = Instant::now();
    let output = Command::new("redis-benchmark")
        .args([
            "-p",
            &server.port.to_string(),
            "--dbnum",
            server.database,
            "-c",
            "50",
            "-d",
            "100",
            "-r",
            "100000",
        ])
        .args(["-n", &requests.to_string(), "-P", &pipeline.to_string(), "-t", command, "-q"])
        .output()
        .context("redis-benchmark cannot be run; is it installed?")?;
    let took = began.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("redis-benchmark failed against {}: {}", server.name, String::from_utf8_lossy(&output.stderr));
    }
    let cpu = cpu_seconds(&server.child)? - before;
    Ok(Run { per_second: requests as f64 / took, cpu_us: cpu * 1e6 / requests as f64 })
}

fn memory() -> Result<()> {
    println!("\nmemory per key, {KEYS} keys of 16 B with 100 B values");
    for server in [redis()?, slipring("1", false)?] {
        let before = resident_bytes(&server.child)?;
        fill(server.port, server.database)?;
        let per_key = (resident_bytes(&server.child)? - before) as f64 / KEYS as f64;
        println!("  {:<10} {per_key:>7.1} B", server.name);
    }
    Ok(())
}

fn starting() -> Result<()> {
    let mut server = slipring("0", true)?;
    fill(server.port, "0")?;
    server.child.kill()?;
    server.child.wait()?;
    let began = Instant::now();
    server.child = start_slipring(&server._folder.0)?;
    wait_for(server.port)?;
    println!("\nkilled with {KEYS} keys on disk; serving again after {:.2} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn redis() -> Result<Server> {
    let folder = folder("redis")?;
    let child = Command::new("redis-server")
        .args(["--port", &REDIS_PORT.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(&folder.0)
        .stdout(Stdio::null())
        .spawn()
        .context("redis-server cannot be run; is it installed?")?;
    wait_for(REDIS_PORT)?;
    Ok(Server { name: "redis", child, port: REDIS_PORT, database: "0", _folder: folder })
}

fn slipring(database: &'static str, is_durable: bool) -> Result<Server> {
    let folder = folder(if is_durable { "durable" } else { "memory" })?;
    let child = start_slipring(&folder.0)?;
    wait_for(SLIPRING_PORT)?;
    Ok(Server { name: "slipring", child, port: SLIPRING_PORT, database, _folder: folder })
}

fn start_slipring(folder: &std::path::Path) -> Result<Child> {
    Command::new(root().join("target/release/slipring"))
        .args(["start", "--redis-port", &SLIPRING_PORT.to_string(), "--http-port", "0", "--peer-port", "0"])
        .args(["--log", "warn", "--data"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .context("slipring cannot be run")
}

fn folder(name: &str) -> Result<Folder> {
    let path = std::env::temp_dir().join(format!("slipring-bench-{name}-{}", std::process::id()));
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    std::fs::create_dir_all(&path)?;
    Ok(Folder(path))
}

fn wait_for(port: u16) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let mut answer = [0; 7];
            stream.write_all(b"PING\r\n")?;
            if stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG\r\n" {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("nothing serves on port {port}")
}

/// Writes the keys, a thousand at a time.
fn fill(port: u16, database: &str) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = vec![0; 5 * 1000];
    stream.write_all(format!("SELECT {database}\r\n").as_bytes())?;
    stream.read_exact(answers.get_mut(..5).unwrap_or_default())?;
    let value = "v".repeat(100);
    for first in (0..KEYS).step_by(1000) {
        let batch: String = (first..first + 1000)
            .map(|key| format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n$100\r\n{value}\r\n"))
            .collect();
        stream.write_all(batch.as_bytes())?;
        stream.read_exact(&mut answers)?;
        if answers.contains(&b'-') {
            bail!("a write was refused: {}", String::from_utf8_lossy(&answers));
        }
    }
    Ok(())
}

fn cpu_seconds(child: &Child) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |at: usize| {
        fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("/proc/PID/stat is short")
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn resident_bytes(child: &Child) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("/proc/PID/status has no VmRSS")?;
    let kilobytes: i64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes * 1024)
}
