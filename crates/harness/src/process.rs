//! One node: a real process that can be started, killed, stopped for a while, and asked to end.
//!
//! Invariant: a process ends with this value, and with the harness, whose end it sees on its standard input.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::disk::SmallDisk;
use crate::place::Place;

/// How long a process may take to end by itself when asked to.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of a log that are worth showing.
const TAIL_LINES: usize = 15;

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) redis: SocketAddr,
    pub(crate) redis_cluster: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// What a node is told when it starts.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) binary: PathBuf,
    /// Where its peers reach it.
    pub(crate) advertise: SocketAddr,
    /// Whom it asks to let it in.
    pub(crate) join: Option<SocketAddr>,
}

/// A node's process, and what it needs to be started again.
#[derive(Debug)]
pub(crate) struct Process {
    node: usize,
    /// Its log, its ready file and its disk lie here.
    home: PathBuf,
    orders: Orders,
    pub(crate) disk: SmallDisk,
    /// Chosen by the system at the first start and kept.
    addresses: Option<Addresses>,
    child: Option<Child>,
    is_ready: bool,
}

impl Process {
    pub(crate) fn new(node: usize, home: PathBuf, orders: Orders) -> anyhow::Result<Self> {
        let disk = SmallDisk::new(&home.join("disk"))?;
        Ok(Self { node, home, orders, disk, addresses: None, child: None, is_ready: false })
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self, place: &Place) -> anyhow::Result<()> {
        let ready = self.home.join("ready");
        if ready.exists() {
            std::fs::remove_file(&ready)?;
        }
        let mut command = if self.disk.is_limited() {
            // A write beyond a limit raises a signal. One that the shell ignores, the program ignores as well.
            let mut shell = place.command(self.node, Path::new("/bin/sh"));
            shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(&self.orders.binary);
            shell
        } else {
            place.command(self.node, &self.orders.binary)
        };
        let port = |of: fn(&Addresses) -> SocketAddr| {
            self.addresses.as_ref().map_or(0, |known| of(known).port()).to_string()
        };
        // Clients reach the node itself; only peers go through the proxy.
        let own = place.node(self.node).to_string();
        command.args(["start", "--exit-with-stdin", "--bind", &own]);
        command.args(["--advertise-redis", &own, "--advertise-http", &own]);
        command.args(place.flags()).arg("--data").arg(self.data()).arg("--ready-file").arg(&ready);
        command.args(["--redis-port", &port(|known| known.redis), "--http-port", &port(|known| known.http)]);
        command.args(["--redis-cluster-port", &port(|known| known.redis_cluster)]);
        command.args([
            "--peer-port",
            &port(|known| known.peer),
            "--advertise",
            &self.orders.advertise.to_string(),
        ]);
        command.args(["--exchange-interval-ms", "500", "--request-timeout-ms", "1500", "--workers", "2"]);
        command.args(["--partition-bits", "5", "--log", "info,openraft=error"]).env("NO_COLOR", "1");
        if let Some(join) = self.orders.join {
            command.args(["--join", &join.to_string()]);
        }
        // Logs go through a pipe: a full disk or a limit must not touch them.
        let (mut reader, writer) = std::io::pipe()?;
        let mut log = File::options().create(true).append(true).open(self.log())?;
        std::thread::spawn(move || std::io::copy(&mut reader, &mut log));
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer).process_group(0);
        self.is_ready = false;
        self.child = Some(command.spawn().with_context(|| self.orders.binary.display().to_string())?);
        Ok(())
    }

    /// Whether it serves.
    pub(crate) fn is_ready(&mut self) -> anyhow::Result<bool> {
        if self.child.is_none() || self.is_ready {
            return Ok(self.child.is_some());
        }
        let Ok(text) = std::fs::read(self.home.join("ready")) else { return Ok(false) };
        let ready: Value = serde_json::from_slice(&text).context("the ready file")?;
        let address = |name: &str| -> anyhow::Result<SocketAddr> {
            let text = ready.get(name).and_then(Value::as_str).context("an address is missing")?;
            text.parse().with_context(|| text.to_owned())
        };
        let (redis, redis_cluster) = (address("redis")?, address("redis_cluster")?);
        let (http, peer) = (address("http")?, address("peer_listens")?);
        self.addresses = Some(Addresses { redis, redis_cluster, http, peer });
        self.is_ready = true;
        Ok(true)
    }

    /// Where it listens, once it has served.
    pub(crate) fn addresses(&self) -> anyhow::Result<Addresses> {
        self.addresses.with_context(|| format!("node {} has never served", self.node))
    }

    pub(crate) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn pid(&self) -> Option<Pid> {
        Some(Pid::from_child(self.child.as_ref()?))
    }

    /// How it ended, if it did so by itself since it was last asked.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.child = None;
        }
        Ok(status)
    }

    /// Kills it; `false` when it was not up.
    pub(crate) fn kill(&mut self) -> anyhow::Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(false) };
        child.kill()?;
        child.wait()?;
        Ok(true)
    }

    /// Stops it where it is; `false` when it is not up.
    pub(crate) fn pause(&self) -> anyhow::Result<bool> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) -> anyhow::Result<bool> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("node {} did not end within {END_TIMEOUT:?} of being asked to", self.node)
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("disk/data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)).map(|line| format!("  {line}\n")).collect()
    }

    /// The first panic in its log.
    pub(crate) fn panic(&self) -> Option<String> {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().skip_while(|line| !line.contains("panicked at")).take(3).collect();
        (!lines.is_empty()).then(|| lines.join(" "))
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        let Some(pid) = self.pid() else { return Ok(false) };
        kill_process(pid, signal).with_context(|| format!("node {} cannot be signalled", self.node))?;
        Ok(true)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that is gone already needs nothing.
        let _ = self.kill();
    }
}
