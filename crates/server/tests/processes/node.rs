//! Real `slipring start` processes, and the little that a test asks of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One node, whose directory and ports outlive its process.
pub(crate) struct Node {
    folder: PathBuf,
    flags: Vec<String>,
    process: Option<Child>,
    redis: String,
    redis_cluster: String,
    http: String,
    pub(crate) peer: String,
}

/// Waits until something is so.
pub(crate) fn wait_until<T>(what: &str, mut is_so: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = is_so() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Node {
    /// A node that has not started yet; `address` is where it listens for peers, if that matters.
    pub(crate) fn new(folder: &Path, name: &str, address: Option<&str>, flags: &[&str]) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let any = "127.0.0.1:0".to_owned();
        let peer = address.map_or_else(|| any.clone(), str::to_owned);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self { folder, flags, process: None, redis: any.clone(), redis_cluster: any.clone(), http: any, peer }
    }

    /// Starts the process; [`wait`](Self::wait) tells when it serves.
    pub(crate) fn launch(&mut self) {
        let ready = self.folder.join("ready");
        // There is none before the first start.
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).expect("a log");
        let (bind, peer_port) = self.peer.rsplit_once(':').expect("an address");
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
        command.arg("start").arg("--data").arg(self.folder.join("data")).arg("--ready-file").arg(&ready);
        command.args(["--bind", bind, "--peer-port", peer_port]);
        command.args(["--redis-port", port(&self.redis), "--http-port", port(&self.http)]);
        command.args(["--redis-cluster-port", port(&self.redis_cluster)]);
        command.args(["--membership", "local", "--exit-with-stdin"]).args(&self.flags);
        // The pipe closes with this process, however that ends; the node stops then.
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("the binary"));
    }

    /// Waits until the node serves.
    pub(crate) fn wait(&mut self) {
        let ready = self.folder.join("ready");
        let text = wait_until("a node serves", || {
            let ended = self.process.as_mut().expect("launched").try_wait().expect("a child");
            assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.told());
            std::fs::read(&ready).ok()
        });
        let told: Value = serde_json::from_slice(&text).expect("JSON");
        let address = |name: &str| told.get(name).and_then(Value::as_str).expect("an address").to_owned();
        (self.redis, self.redis_cluster) = (address("redis"), address("redis_cluster"));
        (self.http, self.peer) = (address("http"), address("peer"));
    }

    /// Kills the process, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.folder.join("ready").exists()
    }

    /// How many members the node knows.
    pub(crate) fn members(&self) -> usize {
        let mut stream = TcpStream::connect(&self.http).expect("a connection");
        let request = format!("GET /v1/cluster HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let body = body.get(body.find('{').expect("an object")..=body.rfind('}').expect("an object"));
        let cluster: Value = serde_json::from_str(body.expect("JSON")).expect("JSON");
        cluster.get("nodes").and_then(Value::as_array).expect("nodes").len()
    }

    /// Writes a value, and waits until the node takes it.
    pub(crate) fn set(&self, key: &str, value: &str) {
        wait_until("a write is acknowledged", || (self.ask(&["SET", key, value])? == "OK").then_some(()));
    }

    /// Waits until the node reads this value.
    pub(crate) fn expect(&self, key: &str, value: &str) {
        wait_until("a value is read", || (self.ask(&["GET", key])? == value).then_some(()));
    }

    /// One command; the value in its answer, nothing if it is an error or there is none.
    fn ask(&self, words: &[&str]) -> Option<String> {
        let mut stream = BufReader::new(TcpStream::connect(&self.redis).ok()?);
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.get_mut().write_all(request.as_bytes()).ok()?;
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        match line.split_at_checked(1)? {
            ("+", rest) => Some(rest.trim_end().to_owned()),
            ("$", length) if length.trim_end() != "-1" => {
                let mut value = String::new();
                stream.read_line(&mut value).ok()?;
                Some(value.trim_end().to_owned())
            }
            _ => None,
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The log so far.
    pub(crate) fn told(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.folder.display(), self.told());
        }
    }
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').expect("an address").1
}
