//! Settings: from flags, else the environment, else a TOML file, else the default; each knows where it is from.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use serde::{Deserialize, Serialize};
use slipring_gateway::http::HostName;
use slipring_model::{NodeId, limits};
use slipring_node::{ClientLimits, ClusterSecret, MembershipSettings};

use crate::announced;
use crate::byte_size::ByteSize;
use crate::machine_memory;
use crate::open_files::{self, Connections};

/// The variable that may hold the cluster's key itself.
const KEY_VARIABLE: &str = "SLIPRING_CLUSTER_KEY";

/// Clients may have one part in so many of the memory in flight when nothing else is said.
const CLIENTS_MEMORY_PART: u64 = 4;
/// The least that the memory limit and the reserve of the disk may be set to.
const ROOM_BYTES_MIN: u64 = 1 << 20;
/// How far the port for Redis Cluster clients is from that for Redis clients where it is not set.
const CLUSTER_PORT_OFFSET: u16 = 100;
/// The longest silence that the system knows, and the longest after which a connection may be closed: a year.
const KEEPALIVE_SECONDS_MAX: u64 = 32_767;
const TIMEOUT_SECONDS_MAX: u64 = 365 * 24 * 3_600;
/// Memory that the disk's caches and buffers take.
const CACHES_BYTES: u64 = 256 << 20;

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $(#[arg($($arg:tt)+)])? $name:ident : $type:ty = $default:expr, $env:literal;)+) => {
        /// Settings as one source gives them; what it does not say is absent.
        #[derive(Args, Clone, Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Layer {
            $($(#[doc = $doc])+ #[arg(long, env = $env $(, $($arg)+)?)] #[serde(default)] pub(crate) $name: Option<$type>,)+
        }

        /// Settings as they are in force.
        #[derive(Clone, Debug, Serialize)]
        pub(crate) struct Settings {
            $(pub(crate) $name: $type,)+
        }

        impl Layer {
            /// This layer where it says something, else `file`, else the default; and a row for each about that.
            fn resolve(self, file: Layer, matches: &ArgMatches) -> (Settings, Vec<Origin>) {
                let mut origins = Vec::new();
                let settings = Settings {
                    $($name: {
                        let source = match (&self.$name, &file.$name) {
                            (Some(_), _) if matches.value_source(stringify!($name)) == Some(ValueSource::EnvVariable) => $env,
                            (Some(_), _) => "flag",
                            (None, Some(_)) => "file",
                            (None, None) => "default",
                        };
                        let value: $type = self.$name.or(file.$name).unwrap_or_else(|| $default);
                        let shown = serde_json::to_value(&value).expect("settings are plain data");
                        let help = concat!($($doc),+).trim();
                        origins.push(Origin { name: stringify!($name), value: shown, source, help });
                        value
                    },)+
                };
                (settings, origins)
            }
        }
    };
}

settings! {
    /// The node's data directory. Holds its identity: never copy it, never give it to two nodes.
    data: PathBuf = PathBuf::from("slipring-data"), "SLIPRING_DATA";
    /// Whose cluster to join: host:port or a source such as dns://name:port; may be repeated. Without any, a new one is founded.
    /// Nobody is asked once the data directory belongs to a cluster.
    join: Vec<String> = Vec::new(), "SLIPRING_JOIN";
    /// Found a cluster although --join names nodes, unless one of them is a member of a cluster. Without meaning once the
    /// data directory belongs to a cluster.
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    found: bool = false, "SLIPRING_FOUND";
    /// Join as a member more although the cluster gives this node's address to a member: one that is not given up yet, and
    /// may be what this node was before its data directory was lost.
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    as_new: bool = false, "SLIPRING_AS_NEW";
    /// The full id of the node that slipring recover was run on, where it joined while this node was away: without it this
    /// node would not believe it. Without meaning once this node's layout has it.
    follow: String = String::new(), "SLIPRING_FOLLOW";
    /// How many nodes start at once, the same on all: when that many have found each other where they join, one of them
    /// founds a cluster and the others join it. Without meaning once a node belongs to a cluster.
    expect: Expected = Expected::default(), "SLIPRING_EXPECT";
    /// A source to tell of this node without joining anybody, such as etcd://host:port/prefix; may be repeated.
    announce: Vec<String> = Vec::new(), "SLIPRING_ANNOUNCE";
    /// The address to listen on. Other than loopback only with --insecure; all addresses (0.0.0.0 or ::) only with --advertise.
    bind: String = "127.0.0.1".to_owned(), "SLIPRING_BIND";
    /// Accept connections from other machines without encryption or passwords.
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    insecure: bool = false, "SLIPRING_INSECURE";
    /// The port for Redis clients; 0 picks a free one.
    redis_port: u16 = 6379, "SLIPRING_REDIS_PORT";
    /// The port for Redis Cluster clients, which shows the node as one of a Redis Cluster; 0 picks a free one. Unless set it
    /// is 100 more than the port for Redis clients.
    redis_cluster_port: ClusterPort = ClusterPort::default(), "SLIPRING_REDIS_CLUSTER_PORT";
    /// The port for HTTP clients; 0 picks a free one.
    http_port: u16 = 7379, "SLIPRING_HTTP_PORT";
    /// The port for other nodes; 0 picks a free one.
    peer_port: u16 = 7946, "SLIPRING_PEER_PORT";
    /// Where other nodes reach this one (host:port), when that is not where it listens; empty means there. Clients are
    /// sent to the same host, unless --advertise-redis or --advertise-http names another.
    advertise: String = String::new(), "SLIPRING_ADVERTISE";
    /// Where Redis clients reach this node (host or host:port); empty means the host of --advertise, and the port it
    /// listens on.
    advertise_redis: String = String::new(), "SLIPRING_ADVERTISE_REDIS";
    /// Where Redis Cluster clients reach this node (host or host:port), as the cluster commands tell it; empty means the
    /// host of --advertise-redis, or else of --advertise, and the port it listens on.
    advertise_redis_cluster: String = String::new(), "SLIPRING_ADVERTISE_REDIS_CLUSTER";
    /// Where HTTP and gRPC clients reach this node (host or host:port); empty means the host of --advertise, and the port
    /// it listens on.
    advertise_http: String = String::new(), "SLIPRING_ADVERTISE_HTTP";
    /// One more name or address under which HTTP and gRPC clients may ask this node; may be repeated. It answers to where
    /// it listens and to the host that it advertises; a request that names another host may come from a web page.
    #[arg(value_delimiter = ',')]
    http_host: Vec<String> = Vec::new(), "SLIPRING_HTTP_HOST";
    /// The zone the node stands in; copies are spread over zones. Counts when it first joins: what changes it later is
    /// slipring layout commit --zone NODE=ZONE.
    zone: String = "default".to_owned(), "SLIPRING_ZONE";
    /// The node's share of the partitions, relative to the others'. 1 to 1,000,000. Counts when it first joins: what
    /// changes it later is slipring layout commit --weight NODE=WEIGHT.
    weight: u32 = 100, "SLIPRING_WEIGHT";
    /// Join as a spare: a member that holds nothing until slipring replace gives it a dead node's place, or slipring
    /// restore a share of its own. Counts when it first joins; who would found a cluster cannot be one.
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    spare: bool = false, "SLIPRING_SPARE";
    /// Bits that name a partition when this node founds a cluster: 8 make 256 partitions. 1 to 14.
    partition_bits: u8 = 8, "SLIPRING_PARTITION_BITS";
    /// Threads that serve clients and peers; 0 takes as many as there are processors.
    workers: usize = 0, "SLIPRING_WORKERS";
    /// The most connections of each port for clients. Fewer when the process may not have enough files open. 16 to 10,000.
    connections: usize = limits::CONNECTIONS_MAX, "SLIPRING_CONNECTIONS";
    /// Seconds that a client may be silent before the system asks its machine for a sign of life, so that connections of
    /// clients that vanished end. 1 to 32,767; 0 never asks.
    tcp_keepalive_s: u64 = 300, "SLIPRING_TCP_KEEPALIVE_S";
    /// Seconds after which a silent Redis connection is closed. At most 31,536,000; 0 never closes one.
    redis_timeout_s: u64 = 0, "SLIPRING_REDIS_TIMEOUT_S";
    /// Bytes that clients may have in flight: their input, requests and replies on all ports together. At least 64MiB;
    /// 0 takes a quarter of the memory of the machine, or of the control group.
    clients_memory: ByteSize = ByteSize::default(), "SLIPRING_CLIENTS_MEMORY";
    /// Bytes that buckets in memory may hold on this node; writes beyond are refused. At least 1MiB; 0 takes two fifths
    /// of the memory of the machine, or of the control group, less 256MiB; an eighth at least.
    memory_limit: ByteSize = ByteSize::default(), "SLIPRING_MEMORY_LIMIT";
    /// Bytes of the disk to keep free: with less left only deletions are taken, and with less than half of it no write
    /// at all. At least 1MiB; 0 takes a twentieth of the disk, 16MiB to 2GiB, a quarter of it at most.
    disk_reserve: ByteSize = ByteSize::default(), "SLIPRING_DISK_RESERVE";
    /// Milliseconds until a request's outcome is given as unknown. 50 to 60,000.
    request_timeout_ms: u64 = 2_000, "SLIPRING_REQUEST_TIMEOUT_MS";
    /// Milliseconds a read waits for a replica before it asks one more.
    hedge_ms: u64 = 50, "SLIPRING_HEDGE_MS";
    /// Milliseconds between two comparisons of partitions with their replicas. 100 to 3,600,000.
    exchange_interval_ms: u64 = 10_000, "SLIPRING_EXCHANGE_INTERVAL_MS";
    /// Milliseconds between two forced writes of buffered buckets: what a loss of power can take. 1 to 10,000.
    sync_interval_ms: u64 = 100, "SLIPRING_SYNC_INTERVAL_MS";
    /// Milliseconds between two looks for expired values. 10 to 3,600,000.
    expiry_interval_ms: u64 = 100, "SLIPRING_EXPIRY_INTERVAL_MS";
    /// How long to rest between two partitions whose records are all read to find damage, in milliseconds.
    scrub_interval_ms: u64 = 10_000, "SLIPRING_SCRUB_INTERVAL_MS";
    /// Percent of the machine's processors that moving data, repair and scrub may take together while clients are
    /// served, one processor at most; without clients they take what they need. Expiry takes as much, and more while it
    /// is behind. 1 to 100.
    background_share: u32 = 1, "SLIPRING_BACKGROUND_SHARE";
    /// Milliseconds a node may be gone until it is given up for good and its share goes to others; 0 never. The same
    /// on all nodes. At least 1,000, and more than a restart takes.
    replace_after_ms: u64 = 0, "SLIPRING_REPLACE_AFTER_MS";
    /// A file with the cluster's key, the same on all nodes: one line, or two while it is changed. The variable
    /// SLIPRING_CLUSTER_KEY may hold it instead. Empty: the key that the cluster's founder drew.
    cluster_key_file: PathBuf = PathBuf::new(), "SLIPRING_CLUSTER_KEY_FILE";
    /// How the nodes lie to each other: lan (one site), wan (several continents) or local (one machine).
    membership: String = "lan".to_owned(), "SLIPRING_MEMBERSHIP";
    /// Milliseconds between two probes of other nodes. 10 to 600,000; 0 as the preset says.
    probe_interval_ms: u64 = 0, "SLIPRING_PROBE_INTERVAL_MS";
    /// Milliseconds a probe waits before others are asked to probe too. 1 to the interval; 0 as the preset says.
    probe_timeout_ms: u64 = 0, "SLIPRING_PROBE_TIMEOUT_MS";
    /// Milliseconds between two messages while there are news of members. 10 to 60,000; 0 as the preset says.
    gossip_interval_ms: u64 = 0, "SLIPRING_GOSSIP_INTERVAL_MS";
    /// How many nodes get each such message. 1 to 32; 0 as the preset says.
    gossip_fanout: u64 = 0, "SLIPRING_GOSSIP_FANOUT";
    /// What to log, for instance: info, or warn,slipring_node=debug.
    log: String = "info,openraft=error".to_owned(), "SLIPRING_LOG";
    /// How to log: text or json.
    log_format: String = "text".to_owned(), "SLIPRING_LOG_FORMAT";
}

fn bytes_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// The part of the memory there is that buckets in memory take where nothing is set: the disk's caches and what
/// clients have in flight need theirs.
fn bucket_share(memory: u64) -> u64 {
    (memory.saturating_sub(CACHES_BYTES) / 5 * 2).max(memory / 8)
}

/// How many nodes expect each other, if any do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Expected(pub(crate) Option<NonZeroU32>);

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number =
            text.parse().ok().filter(|number: &NonZeroU32| number.get() as usize <= limits::NODES_MAX);
        number
            .map(|number| Self(Some(number)))
            .ok_or_else(|| format!("must lie in 1..={}", limits::NODES_MAX))
    }
}

/// The port for Redis Cluster clients, if it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ClusterPort(Option<u16>);

impl FromStr for ClusterPort {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(|port| Self(Some(port)))
    }
}

/// One setting, its value, and where it comes from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Origin {
    pub(crate) name: &'static str,
    pub(crate) value: serde_json::Value,
    pub(crate) source: &'static str,
    pub(crate) help: &'static str,
}

/// Where settings are read from, and what flags say.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Sources {
    /// A TOML file with settings; names are those of the flags, with underscores.
    #[arg(long, env = "SLIPRING_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    layer: Layer,
}

impl Sources {
    /// The settings in force; checked.
    pub(crate) fn settings(self, matches: &ArgMatches) -> anyhow::Result<(Settings, Vec<Origin>)> {
        let (settings, origins) = self.resolved(matches)?;
        settings.validate()?;
        Ok((settings, origins))
    }

    fn resolved(self, matches: &ArgMatches) -> anyhow::Result<(Settings, Vec<Origin>)> {
        let file = self.config.as_deref().map_or_else(|| Ok(Layer::default()), read_file)?;
        Ok(self.layer.resolve(file, matches))
    }
}

/// Where a node's data directory is, for what needs nothing else of its settings.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Place {
    /// The node's data directory.
    #[arg(long, env = "SLIPRING_DATA")]
    data: Option<PathBuf>,
    /// The TOML file with the node's settings; it may say where its directory is.
    #[arg(long, env = "SLIPRING_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    /// The node's settings, as far as its file and this say. What a node would not start with does not matter here:
    /// flags that go with it may be missing.
    pub(crate) fn settings(self, matches: &ArgMatches) -> anyhow::Result<Settings> {
        let layer = Layer { data: self.data, ..Layer::default() };
        Ok(Sources { config: self.config, layer }.resolved(matches)?.0)
    }
}

fn read_file(path: &Path) -> anyhow::Result<Layer> {
    let place = path.display();
    let text =
        std::fs::read_to_string(path).with_context(|| format!("the configuration {place} cannot be read"))?;
    let file = toml::Deserializer::parse(&text).with_context(|| format!("{place} is not TOML"))?;
    serde_path_to_error::deserialize(file)
        .map_err(|error| anyhow::anyhow!("{place}: {}: {}", error.path(), error.inner().to_string().trim()))
}

impl Settings {
    /// The part that the node itself takes.
    pub(crate) fn node(&self) -> anyhow::Result<slipring_node::Settings> {
        Ok(slipring_node::Settings {
            request_timeout_ms: self.request_timeout_ms,
            hedge_ms: self.hedge_ms,
            exchange_interval_ms: self.exchange_interval_ms,
            sync_interval_ms: self.sync_interval_ms,
            expiry_interval_ms: self.expiry_interval_ms,
            scrub_interval_ms: self.scrub_interval_ms,
            background_share: self.background_share,
            replace_after_ms: self.replace_after_ms,
            partition_bits: self.partition_bits,
            zone: self.zone.clone(),
            weight: self.weight,
            spare: self.spare,
            as_new: self.as_new,
            follow: self.follow()?,
            membership: self.membership()?,
            ..slipring_node::Settings::default()
        })
    }

    fn follow(&self) -> anyhow::Result<Option<NodeId>> {
        if self.follow.is_empty() {
            return Ok(None);
        }
        let id = self.follow.parse().map_err(|error| {
            anyhow::anyhow!(
                "follow = {:?} must be the full id of a node, as slipring status gives it: {error}",
                self.follow
            )
        })?;
        Ok(Some(id))
    }

    /// What clients may take, with `connections` on the ports.
    pub(crate) fn clients(&self, connections: Connections) -> ClientLimits {
        let share = || machine_memory::bytes().map(|bytes| bytes / CLIENTS_MEMORY_PART);
        let least = limits::CLIENT_MEMORY_BYTES_MIN;
        let memory_bytes = match self.clients_memory.0 {
            0 => share().map_or(limits::CLIENT_MEMORY_BYTES_DEFAULT, |bytes| bytes_of(bytes).max(least)),
            bytes => bytes_of(bytes),
        };
        ClientLimits {
            memory_bytes,
            redis_connections: connections.redis,
            http_connections: connections.http,
            keepalive: seconds(self.tcp_keepalive_s),
            redis_silence: seconds(self.redis_timeout_s),
        }
    }

    /// Bytes that buckets in memory may hold; 0 for any number, where the system does not tell what there is.
    pub(crate) fn bucket_memory_bytes(&self) -> u64 {
        match self.memory_limit.0 {
            0 => machine_memory::bytes().map_or(0, bucket_share),
            set => set,
        }
    }

    fn membership(&self) -> anyhow::Result<MembershipSettings> {
        let preset = match self.membership.as_str() {
            "lan" => MembershipSettings::lan(),
            "wan" => MembershipSettings::wan(),
            "local" => MembershipSettings::local(),
            other => bail!("membership = \"{other}\" must be lan, wan or local"),
        };
        let or_preset = |own: u64, preset: u64| if own == 0 { preset } else { own };
        Ok(MembershipSettings {
            probe_interval_ms: or_preset(self.probe_interval_ms, preset.probe_interval_ms),
            probe_timeout_ms: or_preset(self.probe_timeout_ms, preset.probe_timeout_ms),
            gossip_interval_ms: or_preset(self.gossip_interval_ms, preset.gossip_interval_ms),
            gossip_fanout: or_preset(self.gossip_fanout, preset.gossip_fanout),
            ..preset
        })
    }

    /// The names and addresses that HTTP clients may ask for beside the node's own.
    pub(crate) fn http_hosts(&self) -> anyhow::Result<Vec<HostName>> {
        let hosts = self.http_host.iter().map(|host| host.parse());
        hosts.collect::<Result<_, _>>().map_err(|error| anyhow::anyhow!("http_host: {error}"))
    }

    /// The cluster's key, if one is set. Never among the settings that are shown.
    pub(crate) fn cluster_secret(&self) -> anyhow::Result<Option<ClusterSecret>> {
        let variable = std::env::var(KEY_VARIABLE).ok().filter(|text| !text.is_empty());
        let is_in_file = !self.cluster_key_file.as_os_str().is_empty();
        let (text, place) = match variable {
            Some(_) if is_in_file => bail!("the cluster key is set twice: in {KEY_VARIABLE} and as a file"),
            Some(text) => (text, KEY_VARIABLE.to_owned()),
            None if is_in_file => {
                let place = self.cluster_key_file.display().to_string();
                let text = std::fs::read_to_string(&self.cluster_key_file);
                (text.with_context(|| format!("the cluster key {place} cannot be read"))?, place)
            }
            None => return Ok(None),
        };
        ClusterSecret::new(&text).map(Some).with_context(|| place)
    }

    /// The port for Redis Cluster clients; 0 for any free one.
    pub(crate) fn redis_cluster_port(&self) -> anyhow::Result<u16> {
        match (self.redis_cluster_port.0, self.redis_port) {
            (Some(port), _) => Ok(port),
            (None, 0) => Ok(0),
            (None, port) => port.checked_add(CLUSTER_PORT_OFFSET).with_context(|| {
                format!(
                    "redis_cluster_port must be set: {CLUSTER_PORT_OFFSET} more than redis_port = {port} is no port"
                )
            }),
        }
    }

    fn validate(&self) -> anyhow::Result<()> {
        let cluster_port = self.redis_cluster_port()?;
        if cluster_port == self.redis_port && cluster_port != 0 {
            bail!("redis_cluster_port = {cluster_port} is redis_port as well: the two need a port each");
        }
        self.node()?.validate().map_err(anyhow::Error::msg)?;
        if !(open_files::CLIENTS_MIN..=limits::CONNECTIONS_MAX).contains(&self.connections) {
            let (least, most) = (open_files::CLIENTS_MIN, limits::CONNECTIONS_MAX);
            bail!("connections = {} must lie in {least}..={most}", self.connections);
        }
        for (name, seconds, most) in [
            ("tcp_keepalive_s", self.tcp_keepalive_s, KEEPALIVE_SECONDS_MAX),
            ("redis_timeout_s", self.redis_timeout_s, TIMEOUT_SECONDS_MAX),
        ] {
            if seconds > most {
                bail!("{name} = {seconds} must lie in 0..={most}");
            }
        }
        let least = limits::CLIENT_MEMORY_BYTES_MIN;
        if self.clients_memory.0 != 0 && bytes_of(self.clients_memory.0) < least {
            bail!("clients_memory = {} must be {least} (64MiB) at least, or 0", self.clients_memory);
        }
        for (name, size) in [("memory_limit", self.memory_limit), ("disk_reserve", self.disk_reserve)] {
            if (1..ROOM_BYTES_MIN).contains(&size.0) {
                bail!("{name} = {size} must be {ROOM_BYTES_MIN} (1MiB) at least, or 0");
            }
        }
        let address: std::net::IpAddr =
            self.bind.parse().with_context(|| format!("bind = \"{}\" is not an IP address", self.bind))?;
        if !address.is_loopback() && !self.insecure {
            bail!(
                "bind = {address} would let other machines in, and there is no encryption and no password yet: keep \
                 127.0.0.1, or say --insecure true when the network is yours alone"
            );
        }
        if let Some(expected) = self.expect.0.filter(|expected| expected.get() > 1)
            && self.join.iter().all(|source| source.trim().is_empty())
        {
            bail!(
                "expect = {expected}, but nothing says where the other nodes are: name sources with --join, the same for \
                 all nodes"
            );
        }
        announced::check(self, address)?;
        self.http_hosts()?;
        if !["text", "json"].contains(&self.log_format.as_str()) {
            bail!("log_format = \"{}\" must be text or json", self.log_format);
        }
        Ok(())
    }
}

/// A time that is set, unless it is 0.
fn seconds(set: u64) -> Option<Duration> {
    (set > 0).then(|| Duration::from_secs(set))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};
    use slipring_ring::Addresses;

    use super::*;
    use crate::announced::Listens;

    #[derive(Parser)]
    struct Probe {
        #[command(flatten)]
        sources: Sources,
    }

    fn resolve(arguments: &[&str]) -> anyhow::Result<(Settings, Vec<Origin>)> {
        let matches = Probe::command().get_matches_from(arguments);
        Probe::from_arg_matches(&matches).expect("arguments").sources.settings(&matches)
    }

    fn origin(origins: &[Origin], name: &str) -> &'static str {
        origins.iter().find(|origin| origin.name == name).expect("a setting").source
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_the_default() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "redis_port = 1000\nzone = \"a\"\n").expect("written");
        let path = file.path().display().to_string();
        let (settings, origins) = resolve(&["x", "--config", &path, "--zone", "b"]).expect("settings");
        assert_eq!((settings.redis_port, settings.zone.as_str(), settings.http_port), (1000, "b", 7379));
        let sources = ["redis_port", "zone", "http_port"].map(|name| origin(&origins, name));
        assert_eq!(sources, ["file", "flag", "default"]);
    }

    #[test]
    fn times_of_client_connections_have_bounds() {
        for (flag, most) in [("--tcp-keepalive-s", 32_767), ("--redis-timeout-s", 31_536_000)] {
            for (value, is_taken) in [(0, true), (1, true), (most, true), (most + 1, false)] {
                let resolved = resolve(&["x", flag, &value.to_string()]);
                assert_eq!(resolved.is_ok(), is_taken, "{flag} {value}");
            }
        }
        let (settings, _) = resolve(&["x"]).expect("settings");
        assert_eq!([settings.tcp_keepalive_s, settings.redis_timeout_s], [300, 0]);
        assert_eq!([seconds(0), seconds(9)], [None, Some(Duration::from_secs(9))]);
    }

    #[test]
    fn what_is_on_or_off_is_on_when_it_is_only_named() {
        let spare = |arguments: &[&str]| resolve(arguments).expect("settings").0.spare;
        assert!(spare(&["x", "--spare"]) && spare(&["x", "--spare", "true", "--zone", "a"]));
        assert!(spare(&["x", "--spare", "--zone", "a"]) && !spare(&["x", "--spare", "false"]));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "spare = true\n").expect("written");
        let path = file.path().display().to_string();
        assert!(spare(&["x", "--config", &path]) && !spare(&["x", "--config", &path, "--spare", "false"]));
        let (settings, origins) = resolve(&["x", "--spare", "--insecure"]).expect("settings");
        assert!(settings.insecure && settings.node().expect("valid").spare);
        assert_eq!(["spare", "insecure"].map(|name| origin(&origins, name)), ["flag", "flag"]);
    }

    #[test]
    fn sources_may_be_repeated_as_flags_and_are_a_list_in_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "join = [\"a:1\", \"b:2\"]\nannounce = [\"c://d\"]\n").expect("written");
        let path = file.path().display().to_string();
        let (settings, _) = resolve(&["x", "--config", &path]).expect("settings");
        assert_eq!(
            (settings.join, settings.announce),
            (vec!["a:1".into(), "b:2".into()], vec!["c://d".into()])
        );
        let flags = ["x", "--config", &path, "--join", "e:5", "--join", "f:6,g:7"];
        let (settings, origins) = resolve(&flags).expect("settings");
        assert_eq!(settings.join, ["e:5", "f:6,g:7"]);
        assert_eq!([origin(&origins, "join"), origin(&origins, "announce")], ["flag", "file"]);
        assert!(resolve(&["x"]).expect("settings").0.join.is_empty());
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        for (text, expected) in [("redis_prt = 1", "redis_prt"), ("redis_port = \"x\"", "redis_port")] {
            std::fs::write(file.path(), text).expect("written");
            let error = resolve(&["x", "--config", &path]).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn nodes_are_expected_in_numbers_and_where_they_can_be_found() {
        let expected = |arguments: &[&str]| resolve(arguments).map(|(settings, _)| settings.expect.0);
        assert_eq!(expected(&["x"]).expect("settings"), None);
        assert_eq!(expected(&["x", "--expect", "1"]).expect("settings"), NonZeroU32::new(1));
        let three = expected(&["x", "--expect", "3", "--join", "a:1"]).expect("settings");
        assert_eq!(three, NonZeroU32::new(3));
        let error = expected(&["x", "--expect", "3"]).expect_err("refused").to_string();
        assert!(error.contains("--join"), "{error}");
        for wrong in ["0", "1001", "3.5", "all"] {
            let error = Probe::command().try_get_matches_from(["x", "--expect", wrong]).expect_err("refused");
            assert!(error.to_string().contains("1..=1000"), "{error}");
        }
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        std::fs::write(file.path(), "expect = 3\njoin = [\"a:1\"]\n").expect("written");
        assert_eq!(expected(&["x", "--config", &path]).expect("settings"), NonZeroU32::new(3));
        std::fs::write(file.path(), "expect = 0\n").expect("written");
        let error = expected(&["x", "--config", &path]).expect_err("refused").to_string();
        assert!(error.contains("expect"), "{error}");
    }

    #[test]
    fn hosts_of_http_are_a_list_of_names_and_addresses() {
        let hosts = |arguments: &[&str]| resolve(arguments)?.0.http_hosts().map(|hosts| hosts.len());
        assert_eq!(hosts(&["x"]).expect("none"), 0);
        let flags = ["x", "--http-host", "ring.example,10.0.0.1", "--http-host", "::1"];
        assert_eq!(hosts(&flags).expect("three"), 3);
        for wrong in ["http://ring.example", "ring.example:7379", "*", ""] {
            let error = hosts(&["x", "--http-host", wrong]).expect_err("refused").to_string();
            assert!(error.contains("http_host"), "{error}");
        }
    }

    #[test]
    fn room_settings_have_a_least_value_below_at_and_above() {
        for name in ["--memory-limit", "--disk-reserve"] {
            let error = resolve(&["x", name, "1048575"]).expect_err("refused").to_string();
            assert!(
                error.contains("1MiB") && error.contains(&name.replace("--", "").replace('-', "_")),
                "{error}"
            );
            assert!(resolve(&["x", name, "1048576"]).is_ok() && resolve(&["x", name, "1048577"]).is_ok());
            assert!(resolve(&["x", name, "0"]).is_ok(), "a share");
        }
        let set = resolve(&["x", "--memory-limit", "64MiB"]).expect("settings").0.bucket_memory_bytes();
        assert_eq!(set, 64 << 20);
        let shares = [0, 256 << 20, 500 << 20, 1256 << 20].map(bucket_share);
        assert_eq!(shares, [0, 32 << 20, (244 << 20) / 5 * 2, 400 << 20]);
    }

    #[test]
    fn an_advertised_address_names_a_host_and_a_port() {
        assert!(resolve(&["x", "--advertise", "a.example:7946"]).is_ok());
        for wrong in ["a.example", "a.example:", ":7946", "a.example:70000", "0.0.0.0:7946"] {
            let error = resolve(&["x", "--advertise", wrong]).expect_err("refused").to_string();
            assert!(error.contains("advertise"), "{error}");
        }
        for flag in ["--advertise-redis", "--advertise-redis-cluster", "--advertise-http"] {
            assert!(
                resolve(&["x", flag, "a.example"]).is_ok() && resolve(&["x", flag, "a.example:1"]).is_ok()
            );
            for wrong in ["a.example:", "::1", "[::]:6379"] {
                let error = resolve(&["x", flag, wrong]).expect_err("refused").to_string();
                assert!(error.contains(&flag.replace("--", "").replace('-', "_")), "{error}");
            }
        }
    }

    #[test]
    fn ports_are_announced_by_their_own_host_or_the_advertised() {
        let announced = |arguments: &[&str]| {
            let (settings, _) = resolve(arguments).expect("settings");
            let [peer, redis, http, redis_cluster] =
                [1, 2, 3, 4].map(|port| (std::net::Ipv4Addr::LOCALHOST, port).into());
            let listens = Listens { peer, redis, http, redis_cluster };
            let Addresses { peer, redis, http, redis_cluster } =
                announced::addresses(&settings, &listens).expect("addresses");
            [peer, redis, http, redis_cluster]
        };
        assert_eq!(announced(&["x"]), ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]);
        assert_eq!(announced(&["x", "--advertise", "a:9"]), ["a:9", "a:2", "a:3", "a:4"]);
        let own = ["x", "--advertise", "a:9", "--advertise-redis", "b", "--advertise-http", "[::1]:8"];
        assert_eq!(announced(&own), ["a:9", "b:2", "[::1]:8", "b:4"]);
        let redis = ["x", "--advertise-redis", "b:7"];
        assert_eq!(
            announced(&redis),
            ["127.0.0.1:1", "b:7", "127.0.0.1:3", "b:4"],
            "a port is of one surface"
        );
        let both = ["x", "--advertise-redis", "b:7", "--advertise-redis-cluster", "c:8"];
        assert_eq!(announced(&both), ["127.0.0.1:1", "b:7", "127.0.0.1:3", "c:8"]);
    }

    #[test]
    fn cluster_port_is_100_more_than_the_plain_one_unless_set() {
        let port =
            |arguments: &[&str]| resolve(arguments).and_then(|(settings, _)| settings.redis_cluster_port());
        assert_eq!(port(&["x"]).expect("settings"), 6479);
        assert_eq!(port(&["x", "--redis-port", "0"]).expect("settings"), 0);
        assert_eq!(port(&["x", "--redis-port", "65435"]).expect("settings"), 65_535);
        let set = ["x", "--redis-port", "65436", "--redis-cluster-port", "7000"];
        assert_eq!(port(&set).expect("settings"), 7000);
        for wrong in [&["x", "--redis-port", "65436"][..], &["x", "--redis-cluster-port", "6379"]] {
            let error = port(wrong).expect_err("refused").to_string();
            assert!(error.contains("redis_cluster_port"), "{error}");
        }
        assert_eq!(port(&["x", "--redis-port", "0", "--redis-cluster-port", "0"]).expect("settings"), 0);
    }

    #[test]
    fn a_preset_of_membership_is_changed_field_by_field() {
        let of = |arguments: &[&str]| resolve(arguments).map(|(settings, _)| settings.node().expect("valid"));
        let wan = of(&["x", "--membership", "wan", "--gossip-fanout", "5"]).expect("settings");
        let expected = MembershipSettings { gossip_fanout: 5, ..MembershipSettings::wan() };
        assert_eq!(wan.membership, expected);
        let error = of(&["x", "--membership", "moon"]).expect_err("refused").to_string();
        assert!(error.contains("lan, wan or local"), "{error}");
        let error = of(&["x", "--probe-timeout-ms", "2000"]).expect_err("refused").to_string();
        assert!(error.contains("probe_timeout_ms = 2000"), "{error}");
    }

    #[test]
    fn a_cluster_key_is_read_from_its_file_and_a_wrong_one_is_named_without_showing_it() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        let secret = || resolve(&["x", "--cluster-key-file", &path]).expect("settings").0.cluster_secret();
        std::fs::write(file.path(), "a key of enough bytes\n").expect("written");
        assert_eq!(secret().expect("a key"), ClusterSecret::new("a key of enough bytes").ok());
        std::fs::write(file.path(), "hunter2").expect("written");
        let error = format!("{:#}", secret().expect_err("too short"));
        assert!(error.contains("16 to 4096 bytes") && !error.contains("hunter2"), "{error}");
        assert_eq!(resolve(&["x"]).expect("settings").0.cluster_secret().expect("none"), None);
    }

    #[test]
    fn other_machines_are_let_in_only_on_purpose() {
        let error = resolve(&["x", "--bind", "0.0.0.0"]).expect_err("refused").to_string();
        assert!(error.contains("--insecure"), "{error}");
        assert!(resolve(&["x", "--bind", "10.0.0.1", "--insecure", "true"]).is_ok());
    }

    #[test]
    fn all_addresses_are_listened_on_only_with_one_to_announce() {
        for bind in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            let flags = ["x", "--insecure", "true", "--bind", bind, "--advertise", "ring-0.ring:7946"];
            assert!(resolve(&flags).is_ok(), "{bind}");
            let error = resolve(flags.get(..5).expect("flags")).expect_err("refused").to_string();
            assert!(error.contains("--advertise HOST:7946"), "{error}");
        }
    }
}
