//! Names, asked of a real server on loopback.

#[path = "servers/expect.rs"]
mod expect;
#[path = "servers/port.rs"]
mod port;
#[path = "servers/process.rs"]
mod process;

use std::fmt::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use expect::{expect, expect_that, sources};
use port::free_port;
use process::{Process, text};
use slipring_discovery::Discovery;

/// A dnsmasq that knows the hosts in a file, and nobody else to ask.
struct Dns {
    folder: tempfile::TempDir,
    process: Option<Process>,
    port: u16,
    extra: Vec<String>,
}

impl Dns {
    fn start(hosts: &str, extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let extra = extra.iter().map(|argument| (*argument).to_owned()).collect();
        let mut dns = Self { folder, process: None, port: free_port(), extra };
        dns.say(hosts);
        dns.revive();
        dns
    }

    fn say(&self, hosts: &str) {
        std::fs::write(self.folder.path().join("hosts"), hosts).expect("written");
    }

    fn revive(&mut self) {
        let (port, hosts) = (format!("--port={}", self.port), self.folder.path().join("hosts"));
        let hosts = format!("--addn-hosts={}", text(&hosts));
        let mut arguments = vec![
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--no-daemon",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
            "--local=/test/",
            "--user=root",
            "--pid-file",
            "--domain-needed",
            "--local-ttl=1",
            &port,
            &hosts,
        ];
        arguments.extend(self.extra.iter().map(String::as_str));
        self.process = Some(Process::start("dnsmasq", &arguments, self.port));
    }

    /// Makes it read the hosts again.
    fn hang_up(&self) {
        let id = self.process.as_ref().expect("it runs").child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &id]).status().expect("kill").success());
    }

    /// A source that asks this server.
    fn source(&self, location: &str) -> String {
        format!("{location}?server=127.0.0.1:{}", self.port)
    }
}

#[tokio::test]
async fn a_name_stands_for_its_addresses_of_both_families() {
    let dns = Dns::start(
        "10.0.0.1 peers.test\n10.0.0.2 peers.test\nfd00::1 peers.test\n10.0.0.9 other.test\n",
        &[],
    );
    let found = sources(&dns.source("dns://peers.test:7946"));
    expect(&found, &["10.0.0.1:7946", "10.0.0.2:7946", "[fd00::1]:7946"]).await;
}

#[tokio::test]
async fn a_record_that_changes_is_seen_and_a_name_that_goes_is_an_empty_list() {
    let dns = Dns::start("10.0.0.1 peers.test\n", &[]);
    let found = sources(&dns.source("dns://peers.test:1"));
    expect(&found, &["10.0.0.1:1"]).await;
    for (hosts, expected) in
        [("10.0.0.7 peers.test\n10.0.0.8 peers.test\n", &["10.0.0.7:1", "10.0.0.8:1"][..]), ("", &[])]
    {
        dns.say(hosts);
        dns.hang_up();
        expect(&found, expected).await;
    }
}

#[tokio::test]
async fn services_bring_their_ports_and_those_without_an_address_are_left_out() {
    let services = ["a.test,7001,1", "b.test,7002,2", "nobody.test,7003,0", ",0"];
    let records = services.map(|service| format!("--srv-host=_peer._tcp.ring.test,{service}"));
    let dns = Dns::start(
        "10.0.0.1 a.test\n10.0.0.2 b.test\nfd00::2 b.test\n",
        &records.each_ref().map(String::as_str),
    );
    let found = sources(&dns.source("dns+srv://_peer._tcp.ring.test"));
    expect(&found, &["10.0.0.1:7001", "10.0.0.2:7002", "[fd00::2]:7002"]).await;
    assert_eq!(found.candidates().await[0], "10.0.0.1:7001");
}

#[tokio::test]
async fn a_server_that_dies_leaves_what_it_said_and_one_that_comes_back_is_heard() {
    let mut dns = Dns::start("10.0.0.1 peers.test\n", &[]);
    let found = sources(&dns.source("dns://peers.test:1"));
    expect(&found, &["10.0.0.1:1"]).await;
    dns.process = None;
    dns.say("10.0.0.2 peers.test\n");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        assert_eq!(found.candidates().await, ["10.0.0.1:1"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    dns.revive();
    expect(&found, &["10.0.0.2:1"]).await;
}

#[tokio::test]
async fn a_server_that_was_never_there_says_nobody_and_holds_others_up_for_the_first_answer_only() {
    let dead = free_port();
    let found = sources(&format!("dns://peers.test:1?server=127.0.0.1:{dead} 10.0.0.5:1"));
    let began = Instant::now();
    // It might be of another cluster than the rest, so it is waited for once.
    expect(&found, &["10.0.0.5:1"]).await;
    assert!(began.elapsed() < Duration::from_secs(8));
    let again = Instant::now();
    assert_eq!(found.candidates().await, ["10.0.0.5:1"]);
    assert!(again.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_liar_is_believed_so_many_addresses_and_crowds_out_nobody() {
    let mut hosts = String::new();
    for index in 0..1000 {
        writeln!(hosts, "10.1.{}.{} peers.test", index / 250, index % 250 + 1).expect("text");
    }
    let dns = Dns::start(&hosts, &[]);
    let found = sources(&format!("{} 10.0.0.5:1", dns.source("dns://peers.test:1")));
    let is_bounded = |all: &[String]| all.len() == 129 && all.contains(&"10.0.0.5:1".to_owned());
    expect_that(&found, "128 of 1000, and one of another source", is_bounded).await;
    assert!(found.candidates().await[..2].contains(&"10.0.0.5:1".to_owned()));
    let first = found.candidates().await;
    expect_that(&found, "others of the 1000", |all| all.iter().any(|address| !first.contains(address))).await;
}

#[tokio::test]
async fn a_server_that_answers_with_noise_is_a_server_that_is_away() {
    let noise = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let port = noise.local_addr().expect("an address").port();
    let stream = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the same port");
    let talk = tokio::spawn(async move {
        let mut question = [0; 2048];
        loop {
            let (length, from) = noise.recv_from(&mut question).await.expect("a question");
            // The question as it came, marked as an answer with 65,535 records that are not there.
            let mut answer = question[..length].to_vec();
            answer[2] |= 0x80;
            answer[6..8].fill(0xff);
            noise.send_to(&answer, from).await.expect("sent");
            noise.send_to(&[0xc0; 512], from).await.expect("sent");
            drop(tokio::time::timeout(Duration::from_millis(1), stream.accept()).await);
        }
    });
    let found = sources(&format!("dns://peers.test:1?server=127.0.0.1:{port} 10.0.0.5:1"));
    for _ in 0..20 {
        assert_eq!(found.candidates().await, ["10.0.0.5:1"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!talk.is_finished());
    talk.abort();
}
