//! The command line as scripts and newcomers use it: what it writes, where, and with which exit code.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Flags of a node that takes whichever ports are free.
const ANY_PORTS: [&str; 6] = ["--redis-port", "0", "--http-port", "0", "--peer-port", "0"];

fn slipring(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// A pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts a node, asks something of it once it serves, and stops it; what it wrote.
fn with_node<T>(folder: &Path, flags: &[&str], ask: impl FnOnce(&Value) -> T) -> (String, T) {
    let (ready, log) = (folder.join("ready"), folder.join("log"));
    // There is none before the first start.
    let _ = std::fs::remove_file(&ready);
    let file = File::create(&log).expect("a log");
    let mut command = slipring(&["start", "--exit-with-stdin", "--membership", "local"]);
    command
        .args(ANY_PORTS)
        .arg("--data")
        .arg(folder.join("data"))
        .arg("--ready-file")
        .arg(&ready)
        .args(flags);
    command.stdin(Stdio::piped()).stdout(file.try_clone().expect("a log")).stderr(file);
    let mut node = command.spawn().expect("the binary");
    let until = Instant::now() + PATIENCE;
    while !ready.exists() {
        let ended = node.try_wait().expect("a child");
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        assert!(ended.is_none() && Instant::now() < until, "it does not serve: {ended:?}\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let place = serde_json::from_slice(&std::fs::read(&ready).expect("read")).expect("JSON");
    let answer = ask(&place);
    drop(node.stdin.take());
    let status = node.wait().expect("a child");
    let log = std::fs::read_to_string(&log).expect("a log");
    assert!(status.success(), "{log}");
    (log, answer)
}

fn address(place: &Value, name: &str) -> String {
    place.get(name).and_then(Value::as_str).expect("an address").to_owned()
}

#[test]
fn who_stops_reading_ends_a_command_in_silence() {
    let commands: [&[&str]; 4] =
        [&["config"], &["config", "--json"], &["completions", "bash"], &["recover", "--help"]];
    for arguments in commands {
        let output = slipring(arguments).stdout(unread()).output().expect("the binary");
        assert_eq!((output.status.code(), told(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
    let nobody = ["--node", "127.0.0.1:1", "status"];
    let failed = slipring(&nobody).stderr(unread()).output().expect("the binary");
    assert_eq!(failed.status.code(), Some(1), "it fails for what it was asked, not for who reads");
}

#[test]
fn what_cannot_be_written_is_said() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let output = slipring(&["config"]).stdout(full).output().expect("the binary");
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("standard output cannot be written"), "{}", told(&output));
}

#[test]
fn a_node_serves_where_nobody_reads_and_is_asked_without_a_scheme() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, asked) = with_node(folder.path(), &[], |place| {
        let http = address(place, "http");
        ["status", "ok-to-stop"].map(|command| {
            let output = slipring(&["--node", &http, command]).stdout(unread()).output().expect("the binary");
            (output.status.code(), told(&output))
        })
    });
    assert_eq!(asked, [(Some(0), String::new()), (Some(0), String::new())]);
}

#[test]
fn a_member_says_which_flags_do_not_count_any_more() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, node) = with_node(folder.path(), &["--zone", "a"], |place| address(place, "node"));
    assert!(!first.contains("counts only"), "{first}");
    let node: String = node.chars().take(8).collect();
    let flags = ["--join", "127.0.0.1:1", "--zone", "b", "--weight", "300"];
    let (second, ()) = with_node(folder.path(), &flags, |_| ());
    assert!(second.contains("belongs to cluster") && second.contains("--join only helps"), "{second}");
    assert!(second.contains(&format!("slipring layout commit --zone {node}=b")), "{second}");
    assert!(second.contains(&format!("slipring layout commit --weight {node}=300")), "{second}");
    let (third, ()) = with_node(folder.path(), &["--zone", "a"], |_| ());
    assert!(!third.contains("counts only") && !third.contains("--join"), "{third}");
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let folder = tempfile::tempdir().expect("a folder");
    let (log, ()) = with_node(folder.path(), &["--log", "debug"], |_| ());
    assert!(log.contains("DEBUG") || log.contains("INFO"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
}

#[test]
fn who_joins_at_a_port_for_clients_is_told_so() {
    let folder = tempfile::tempdir().expect("a folder");
    with_node(folder.path(), &[], |place| {
        for port in ["http", "redis"] {
            let data = folder.path().join(port);
            let mut command = slipring(&["start", "--join", &address(place, port), "--data"]);
            let mut joiner =
                command.arg(data).args(ANY_PORTS).stderr(Stdio::piped()).spawn().expect("the binary");
            let said = read_until(joiner.stderr.take().expect("a pipe"), "waiting:");
            joiner.kill().expect("killed");
            joiner.wait().expect("a child");
            assert!(
                said.contains("port for peers (7946") || said.contains("no port for peers"),
                "{port}: {said}"
            );
        }
    });
}

/// All that comes up to the line with this in it, whole.
fn read_until(mut pipe: impl Read, sign: &str) -> String {
    let (mut said, mut byte) = (Vec::new(), [0]);
    loop {
        let is_over = pipe.read(&mut byte).expect("read") == 0;
        said.extend(byte);
        let line = said.rsplit(|byte| *byte == b'\n').nth(1).unwrap_or_default();
        if is_over || byte == *b"\n" && String::from_utf8_lossy(line).contains(sign) {
            return String::from_utf8_lossy(&said).into_owned();
        }
    }
}

#[test]
fn a_data_directory_that_is_a_file_is_called_one() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display().to_string();
    let output = slipring(&["start", "--data", &path]).args(ANY_PORTS).output().expect("the binary");
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains(&format!("the data directory {path} is a file")), "{}", told(&output));
}

#[test]
fn recovering_is_explained_without_the_settings_of_a_start() {
    let output = slipring(&["recover", "--help"]).output().expect("the binary");
    let help = String::from_utf8_lossy(&output.stdout);
    let at = |flag: &str| help.find(&format!("      {flag}"));
    assert!(at("--lost").is_some() && at("--lost") < at("--data"), "{help}");
    assert!(!help.contains("--redis-port") && !help.contains("--membership"), "{help}");
}

#[test]
fn a_file_says_where_to_recover_as_it_says_where_to_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("nowhere");
    let config = folder.path().join("slipring.toml");
    std::fs::write(&config, format!("data = {:?}\nredis_port = 1\n", data.display().to_string()))
        .expect("written");
    let output = slipring(&["recover", "--config"]).arg(&config).output().expect("the binary");
    assert!(told(&output).contains(&format!("no data directory at {}", data.display())), "{}", told(&output));
}
