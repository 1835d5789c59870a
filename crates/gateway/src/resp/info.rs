//! What INFO tells.

use std::fmt::Write as _;

use slipring_model::Room;

use super::REDIS_VERSION;
use super::run::Session;
use super::view::View;

/// The sections asked for; all of them when none is named.
pub(crate) async fn text(session: &Session, sections: &[String]) -> String {
    let is_all = sections.is_empty()
        || sections.iter().any(|name| matches!(name.as_str(), "all" | "everything" | "default"));
    let mut text = String::new();
    for name in [
        "server",
        "clients",
        "memory",
        "persistence",
        "stats",
        "replication",
        "cpu",
        "commandstats",
        "cluster",
        "keyspace",
    ] {
        if !is_all && !sections.iter().any(|asked| asked == name) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        let (head, tail) = name.split_at(1);
        let _ = write!(text, "# {}{tail}\r\n", head.to_uppercase());
        for (key, value) in section(session, name).await {
            let _ = write!(text, "{key}:{value}\r\n");
        }
    }
    text
}

async fn section(session: &Session, name: &str) -> Vec<(String, String)> {
    let (node, clients) = (&session.node, &session.presence.clients);
    let fields: Vec<(&str, String)> = match name {
        "server" => vec![
            ("redis_version", REDIS_VERSION.to_owned()),
            ("slipring_version", env!("CARGO_PKG_VERSION").to_owned()),
            ("redis_mode", session.view.mode().to_owned()),
            ("os", std::env::consts::OS.to_owned()),
            ("arch_bits", usize::BITS.to_string()),
            ("process_id", std::process::id().to_string()),
            ("run_id", node.id().to_string().chars().take(40).collect()),
            ("tcp_port", port(session).to_owned()),
            ("uptime_in_seconds", clients.uptime().as_secs().to_string()),
            ("clock_ahead_ms", node.clock_ahead_ms().to_string()),
        ],
        "clients" => vec![
            ("connected_clients", clients.count().to_string()),
            ("blocked_clients", "0".to_owned()),
            ("maxclients", clients.places().to_string()),
        ],
        "memory" => {
            let (_, buckets) = node.spaces();
            let human = |bytes: u64| format!("{:.2}M", bytes as f64 / 1_048_576.0);
            vec![
                ("used_memory", buckets.used.to_string()),
                ("used_memory_human", human(buckets.used)),
                ("used_memory_rss", resident_bytes().to_string()),
                ("mem_clients_normal", node.client_memory().bytes().to_string()),
                ("mem_clients_max", node.client_memory().bytes_max().to_string()),
                ("mem_clients_refused", node.client_memory().refused().to_string()),
                ("maxmemory", buckets.limit.to_string()),
                ("maxmemory_human", human(buckets.limit)),
                ("maxmemory_policy", "noeviction".to_owned()),
            ]
        }
        "persistence" => {
            let (disk, _) = node.spaces();
            vec![
                ("loading", "0".to_owned()),
                ("aof_enabled", "0".to_owned()),
                ("disk_takes_writes", u8::from(disk.room == Room::Ample).to_string()),
                ("disk_free", disk.free.to_string()),
                ("disk_reserve", disk.reserve.to_string()),
            ]
        }
        "stats" => {
            let (hits, misses) = clients.hits_and_misses();
            vec![
                ("total_connections_received", clients.accepted().to_string()),
                ("rejected_connections", clients.rejected().to_string()),
                ("total_commands_processed", clients.commands().to_string()),
                ("instantaneous_ops_per_sec", clients.commands_per_second().to_string()),
                ("keyspace_hits", hits.to_string()),
                ("keyspace_misses", misses.to_string()),
                ("expired_keys", counter(&node.metrics(), "slipring_expired_keys_total")),
                ("evicted_keys", "0".to_owned()),
            ]
        }
        "replication" => vec![
            ("role", "master".to_owned()),
            ("connected_slaves", "0".to_owned()),
            ("master_replid", node.cluster().to_string()),
        ],
        "cluster" => vec![("cluster_enabled", u8::from(session.view == View::Cluster).to_string())],
        "keyspace" => return keyspace(session).await,
        _ => Vec::new(),
    };
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The port of this view, as it is announced.
fn port(session: &Session) -> &str {
    let addresses = session.node.addresses();
    let address = match session.view {
        View::Plain => &addresses.redis,
        View::Cluster => &addresses.redis_cluster,
    };
    address.rsplit(':').next().unwrap_or_default()
}

async fn keyspace(session: &Session) -> Vec<(String, String)> {
    let (region, mut lines) = (session.region(), Vec::new());
    for bucket in session.buckets() {
        if let Ok(count @ 1..) = session.node.count(bucket, &region).await {
            // Between the two counts keys may have come.
            let expires = session.node.count_ending(bucket, &region).await.unwrap_or(0).min(count);
            lines.push((format!("db{}", bucket.0), format!("keys={count},expires={expires},avg_ttl=0")));
        }
    }
    lines
}

/// One of the node's counters.
fn counter(metrics: &str, name: &str) -> String {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or("0").to_owned()
}

/// The process's memory in bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0)
        * PAGE_BYTES
}
