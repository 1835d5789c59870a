//! Where nodes stand: loopback addresses of their own, or network namespaces of their own.
//!
//! In a namespace a node has a network card of its own, joined to a bridge; the card can be unplugged, and where the
//! kernel has `netem` every packet of it is delayed a little, and one in a hundred lost.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::{Context, bail};

/// The host part of the first node's address.
const FIRST_HOST: u8 = 10;

/// The addresses of a run.
#[derive(Debug)]
pub(crate) struct Place {
    /// The first three bytes of every address.
    network: [u8; 3],
    namespaces: Option<Namespaces>,
}

#[derive(Debug)]
struct Namespaces {
    /// Begins the name of everything made here.
    prefix: String,
    nodes: usize,
    has_netem: bool,
}

impl Place {
    /// Addresses on loopback, different for each process that tests. All of 127.0.0.0/8 is loopback on Linux.
    pub(crate) fn loopback() -> Self {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Self { network: [127, 64 + high % 64, low], namespaces: None }
    }

    /// Namespaces for so many nodes. Needs root.
    pub(crate) fn namespaces(nodes: usize) -> anyhow::Result<Self> {
        let [_, _, _, low] = std::process::id().to_be_bytes();
        let prefix = format!("slr{low:02x}");
        let namespaces = Namespaces { prefix, nodes, has_netem: false };
        let mut place = Self { network: [10, 231, low], namespaces: Some(namespaces) };
        place.build(nodes)?;
        Ok(place)
    }

    /// Where proxies listen, and the harness itself stands.
    pub(crate) fn host(&self) -> IpAddr {
        if self.namespaces.is_some() { self.address(1) } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// The address of a node.
    pub(crate) fn node(&self, node: usize) -> IpAddr {
        self.address(FIRST_HOST.saturating_add(u8::try_from(node).unwrap_or(u8::MAX)))
    }

    /// The flags that let a node listen there.
    pub(crate) fn flags(&self) -> &'static [&'static str] {
        if self.namespaces.is_some() { &["--insecure", "true"] } else { &[] }
    }

    /// A command that runs a program where a node stands; the process stays the program's own.
    pub(crate) fn command(&self, node: usize, program: &std::path::Path) -> Command {
        let Some(namespaces) = &self.namespaces else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespaces.name(node)]).arg(program);
        command
    }

    /// Pulls or plugs in the cable of a node; `false` where there is no cable.
    pub(crate) fn plug(&self, node: usize, is_in: bool) -> bool {
        let Some(namespaces) = &self.namespaces else { return false };
        let state = if is_in { "up" } else { "down" };
        ip(&["link", "set", &namespaces.card(node), state]).is_ok()
    }

    /// What is special about this place, for a report.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.namespaces {
            None => "on loopback",
            Some(Namespaces { has_netem: true, .. }) => "in network namespaces, with netem",
            Some(_) => "in network namespaces, without netem, which this kernel does not have",
        }
    }

    fn address(&self, host: u8) -> IpAddr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, host).into()
    }

    fn build(&mut self, nodes: usize) -> anyhow::Result<()> {
        let (host, addresses): (IpAddr, Vec<IpAddr>) =
            (self.host(), (0..nodes).map(|node| self.node(node)).collect());
        let Some(namespaces) = &mut self.namespaces else { return Ok(()) };
        let bridge = namespaces.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["address", "add", &format!("{host}/24"), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for (node, address) in addresses.iter().enumerate() {
            let (name, card) = (namespaces.name(node), namespaces.card(node));
            ip(&["netns", "add", &name])?;
            ip(&["link", "add", &card, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["link", "set", &card, "master", &bridge, "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            let netem = ["root", "netem", "delay", "2ms", "1ms", "loss", "1%"];
            namespaces.has_netem =
                run("tc", &[&["-n", &name, "qdisc", "add", "dev", "eth0"][..], &netem].concat()).is_ok();
        }
        Ok(())
    }
}

impl Namespaces {
    fn bridge(&self) -> String {
        format!("{}br", self.prefix)
    }

    fn name(&self, node: usize) -> String {
        format!("{}n{node}", self.prefix)
    }

    fn card(&self, node: usize) -> String {
        format!("{}v{node}", self.prefix)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for node in 0..self.nodes {
            // Cards go with their namespaces. What was not made cannot be removed.
            let _ = ip(&["netns", "delete", &self.name(node)]);
        }
        let _ = ip(&["link", "delete", &self.bridge()]);
    }
}

/// Why nodes cannot have namespaces of their own here; `None` when they can.
#[must_use]
pub fn namespaces_missing() -> Option<String> {
    Place::namespaces(1).err().map(|error| format!("{error:#}"))
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
