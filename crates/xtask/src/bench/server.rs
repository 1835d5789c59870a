//! The servers under measurement: started on ports of their own, filled, watched from outside, ended.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell::binary;

/// Clock ticks of /proc/PID/stat in one second, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const REDIS_PORT: u16 = 16_379;
const SLIPRING_PORT: u16 = 16_380;
/// How long a server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server under measurement; killed when dropped.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) port: u16,
    /// The number that `SELECT` takes.
    pub(super) database: &'static str,
    child: Child,
    folder: Folder,
}

struct Folder(PathBuf);

impl Server {
    /// A redis-server that keeps nothing on disk.
    pub(super) fn redis() -> Result<Self> {
        let folder = Folder::new("redis")?;
        let child = Command::new("redis-server")
            .args([
                "--port",
                &REDIS_PORT.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(&folder.0)
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server cannot be run; is it installed?")?;
        let server = Self { name: "redis", child, port: REDIS_PORT, database: "0", folder };
        server.wait()?;
        Ok(server)
    }

    /// One node, measured in its memory bucket or in its disk bucket.
    pub(super) fn slipring(is_durable: bool) -> Result<Self> {
        let folder = Folder::new(if is_durable { "durable" } else { "memory" })?;
        let child = start_slipring(&folder.0)?;
        let database = if is_durable { "0" } else { "1" };
        let server = Self { name: "slipring", child, port: SLIPRING_PORT, database, folder };
        server.wait()?;
        Ok(server)
    }

    /// Kills a node and starts it on the same data; the time until it answers.
    pub(super) fn restart(&mut self) -> Result<Duration> {
        self.child.kill()?;
        self.child.wait()?;
        let began = Instant::now();
        self.child = start_slipring(&self.folder.0)?;
        self.wait()?;
        Ok(began.elapsed())
    }

    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let mut answer = [0; 7];
                stream.write_all(b"PING\r\n")?;
                if stream.read_exact(&mut answer).is_ok() && &answer == b"+PONG\r\n" {
                    return Ok(());
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("{} does not serve on port {}", self.name, self.port)
    }

    pub(super) fn fill(&self, keys: usize) -> Result<()> {
        fill(self.port, self.database, keys)
    }

    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.child)
    }

    /// Memory in use.
    pub(super) fn resident_bytes(&self) -> Result<i64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes: i64 =
            line.context("/proc/PID/status has no VmRSS")?.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes * 1024)
    }
}

/// Writes `keys` keys of 16 bytes with values of 100, a thousand at a time.
pub(super) fn fill(port: u16, database: &str, keys: usize) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = vec![0; 5 * 1000];
    stream.write_all(format!("SELECT {database}\r\n").as_bytes())?;
    stream.read_exact(answers.get_mut(..5).unwrap_or_default())?;
    let value = "v".repeat(100);
    for first in (0..keys).step_by(1000) {
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

/// A process's time on processors so far, user and system.
pub(super) fn cpu_seconds(child: &Child) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |at: usize| {
        fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("/proc/PID/stat is short")
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("slipring-bench-{name}-{}", std::process::id()));
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start_slipring(folder: &Path) -> Result<Child> {
    Command::new(binary())
        .args(["start", "--redis-port", &SLIPRING_PORT.to_string(), "--redis-cluster-port", "0"])
        .args(["--http-port", "0", "--peer-port", "0"])
        .args(["--log", "warn", "--data"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .context("slipring cannot be run")
}
