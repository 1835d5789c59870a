//! Commands for a running node, over its HTTP port.

mod clocks;
mod moves;
mod safety;

use std::time::Duration;

use anyhow::{Context, bail};
use comfy_table::Table;
use serde_json::{Value, json};
use slipring_model::Room;
use slipring_node::{NodeStatus, Status};

use crate::output::{self, note, say};

pub(crate) use moves::{Care, Changes};
pub(crate) use safety::Waiting;

/// How long a node may be silent at first until people are told.
const UNHEARD_MS: u64 = 30_000;
/// How many of them are named.
const NAMED_MAX: usize = 8;

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// A node to talk to.
pub(crate) struct Client {
    base: String,
    is_json: bool,
    /// How long a whole answer may take.
    patience: Duration,
    agent: ureq::Agent,
}

/// What a node answered.
struct Answer {
    status: u16,
    body: Vec<u8>,
}

impl Client {
    pub(crate) fn new(base: &str, is_json: bool, patience: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIME.min(patience)))
            .timeout_global(Some(patience))
            .build();
        Self { base: with_scheme(base), is_json, patience, agent: config.into() }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.base);
        let body = body.unwrap_or_default();
        let kind = if method == "PUT" { "application/octet-stream" } else { "application/json" };
        let sent = match method {
            "PUT" => self.agent.put(&url).content_type(kind).send(body),
            "POST" => self.agent.post(&url).content_type(kind).send(body),
            "PATCH" => self.agent.patch(&url).content_type(kind).send(body),
            "DELETE" => self.agent.delete(&url).call(),
            _ => self.agent.get(&url).call(),
        };
        let mut response = sent.map_err(|error| self.failed(method, error))?;
        let status = response.status().as_u16();
        let read = response.body_mut().with_config().limit(64 * 1024 * 1024).read_to_vec();
        Ok(Answer { status, body: read.map_err(|error| self.failed(method, error))? })
    }

    /// What to do when there is no answer.
    fn failed(&self, method: &str, error: ureq::Error) -> anyhow::Error {
        let base = &self.base;
        let is_late = match &error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => false,
            ureq::Error::Timeout(_) => true,
            ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::TimedOut,
            _ => false,
        };
        if !is_late {
            return anyhow::Error::new(error)
                .context(format!("no node answers at {base}; name another with --node"));
        }
        let outcome = match method {
            "GET" => "",
            _ => "what was asked may have been done all the same: look before you ask again; ",
        };
        let seconds = self.patience.as_secs();
        anyhow::anyhow!(
            "the node at {base} did not answer within {seconds} s; {outcome}name another with --node, or allow more with \
             --answer-within"
        )
    }

    fn ask_json(&self, method: &str, path: &str, body: Option<&[u8]>) -> anyhow::Result<Value> {
        self.ask(method, path, body)?.json()
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> anyhow::Result<bool> {
        let answer = self.ask("GET", &key_path(bucket, key), None)?;
        match answer.status {
            200 if self.is_json => say!("{}", json!({ "value": String::from_utf8_lossy(&answer.body) })),
            200 => output::bytes(&[&answer.body[..], b"\n"].concat())?,
            404 if answer.error_kind() == "not_found" => {
                note!("{}", answer.error());
                return Ok(false);
            }
            _ => bail!(answer.error()),
        }
        Ok(true)
    }

    pub(crate) fn put(
        &self,
        bucket: &str,
        key: &str,
        value: &str,
        ttl_ms: Option<u64>,
    ) -> anyhow::Result<()> {
        let ttl = ttl_ms.map(|ttl| format!("?ttl_ms={ttl}")).unwrap_or_default();
        let answer = self.ask("PUT", &format!("{}{ttl}", key_path(bucket, key)), Some(value.as_bytes()))?;
        self.done(&answer)
    }

    pub(crate) fn delete(&self, bucket: &str, key: &str) -> anyhow::Result<bool> {
        let answer = self.ask("DELETE", &key_path(bucket, key), None)?;
        if answer.status == 404 {
            note!("{}", answer.error());
            return Ok(false);
        }
        self.done(&answer).map(|()| true)
    }

    fn done(&self, answer: &Answer) -> anyhow::Result<()> {
        if answer.status >= 300 {
            bail!(answer.error());
        }
        say!("{}", if self.is_json { "{\"ok\":true}" } else { "ok" });
        Ok(())
    }

    pub(crate) fn buckets(&self) -> anyhow::Result<()> {
        let answer = self.ask_json("GET", "/v1/buckets", None)?;
        let mut table = table(&["number", "name", "copies", "engine", "durability", "on conflict", "ttl ms"]);
        for bucket in at(&answer, "/buckets").as_array().into_iter().flatten() {
            let cells = [
                at(bucket, "/number"),
                at(bucket, "/name"),
                at(bucket, "/policy/replicas"),
                at(bucket, "/policy/engine"),
                at(bucket, "/policy/durability"),
                at(bucket, "/policy/on_conflict"),
                at(bucket, "/policy/ttl_ms"),
            ];
            table.add_row(cells.map(plain));
        }
        self.show(&answer, &table)
    }

    pub(crate) fn create_bucket(&self, name: &str, preset: &str, policy: &[String]) -> anyhow::Result<()> {
        let mut fields = serde_json::Map::new();
        for setting in policy {
            let (field, value) =
                setting.split_once('=').with_context(|| format!("\"{setting}\" is not FIELD=VALUE"))?;
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            fields.insert(field.to_owned(), value);
        }
        let wish = json!({ "name": name, "preset": preset, "policy": fields });
        let made = self.ask_json("POST", "/v1/buckets", Some(wish.to_string().as_bytes()))?;
        if self.is_json {
            say!("{made}");
        } else {
            say!(
                "bucket \"{name}\" is number {}: SELECT {} on the Redis port",
                at(&made, "/number"),
                at(&made, "/number")
            );
        }
        Ok(())
    }

    pub(crate) fn delete_bucket(&self, name: &str) -> anyhow::Result<()> {
        let answer = self.ask("DELETE", &format!("/v1/buckets/{}", escape(name)), None)?;
        self.done(&answer)
    }

    pub(crate) fn status(&self) -> anyhow::Result<()> {
        let answer = self.ask_json("GET", "/v1/cluster", None)?;
        let status: Status =
            serde_json::from_value(answer.clone()).context("the node is of another version")?;
        let mut table = table(&[
            "node",
            "redis",
            "redis cluster",
            "http",
            "zone",
            "start",
            "seen",
            "reachable",
            "clock",
            "layout group",
            "primaries",
            "keys",
            "hints",
        ]);
        for node in &status.nodes {
            let own = |value: fn(&slipring_node::OwnStatus) -> u64| {
                node.own.as_ref().map_or_else(|| "?".to_owned(), |own| value(own).to_string())
            };
            let mark = if node.id == status.node { "*" } else { "" };
            let row = [
                format!("{}{mark}", node.id.short()),
                node.addresses.redis.clone(),
                node.addresses.redis_cluster.clone(),
                node.addresses.http.clone(),
                node.zone.clone(),
                node.incarnation.to_string(),
                seen(node.seen.as_ref()),
                if node.is_connected { "yes" } else { "NO" }.to_owned(),
                clocks::ahead(node),
                place_in_group(&status, node).to_owned(),
                own(|own| own.primaries),
                own(|own| own.keys),
                own(|own| own.hints),
            ];
            table.add_row(row);
        }
        self.show(&answer, &table)?;
        if self.is_json { Ok(()) } else { tell(&status) }
    }

    pub(crate) fn layout(&self) -> anyhow::Result<()> {
        let answer = self.ask_json("GET", "/v1/layout", None)?;
        let layout: slipring_ring::Layout =
            serde_json::from_value(answer.clone()).context("the node is of another version")?;
        let mut table = table(&["node", "peers", "zone", "weight", "state", "copies", "primaries"]);
        let load = layout.load();
        for (id, entry) in layout.nodes() {
            let load = load.get(id).copied().unwrap_or_default();
            let row = [
                id.short(),
                entry.addresses.peer.clone(),
                entry.role.zone.clone(),
                entry.role.weight.to_string(),
                entry.role.state.word().to_owned(),
                load.replicas.to_string(),
                load.primaries.to_string(),
            ];
            table.add_row(row);
        }
        self.show(&answer, &table)?;
        if !self.is_json {
            let moving = layout.moves().count();
            say!("epoch {}, {} partitions, {moving} moving", layout.epoch(), layout.partition_count());
        }
        Ok(())
    }

    fn show(&self, json: &Value, table: &Table) -> anyhow::Result<()> {
        match self.is_json {
            true => say!("{json}"),
            false => say!("{table}"),
        }
        Ok(())
    }
}

impl Answer {
    /// What it says, unless it is a refusal.
    fn json(&self) -> anyhow::Result<Value> {
        if self.status >= 300 {
            bail!(self.error());
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("the node's answer is not JSON; is this its HTTP port?")
    }

    fn error_kind(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        plain(at(&body, "/error/kind"))
    }

    fn error(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        match at(&body, "/error/message").as_str() {
            Some(message) => message.to_owned(),
            None => format!("the node answered {}; is this its HTTP port?", self.status),
        }
    }
}

/// An address may be given without its scheme.
fn with_scheme(base: &str) -> String {
    let scheme = if base.contains("://") { "" } else { "http://" };
    format!("{scheme}{}", base.trim_end_matches('/'))
}

pub(crate) fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY).set_header(head.to_vec());
    table
}

/// What a member is in the layout group: those that do not vote learn what the others agree on.
fn place_in_group(status: &Status, node: &NodeStatus) -> &'static str {
    let place = node.own.as_ref().and_then(|own| own.group.as_ref());
    match status.layout_voters.contains(&node.id) {
        _ if status.layout_leader == Some(node.id) => "leader",
        true if place.is_some_and(|place| place.leader.is_none()) => "voter, follows NOBODY",
        true => "voter",
        false => "learner",
    }
}

/// Names nodes whose buckets in memory are full.
fn tell_full_memory(status: &Status) -> anyhow::Result<()> {
    for node in &status.nodes {
        let Some(memory) = node.own.as_ref().map(|own| own.memory) else { continue };
        if memory.room != Room::Ample {
            let (used, limit) = (memory.used >> 20, memory.limit >> 20);
            let name = node.id.short();
            say!("node {name} takes no growth in memory: its buckets there hold {used} of {limit} MiB");
        }
    }
    Ok(())
}

/// What is said of the cluster below the table of its nodes.
fn tell(status: &Status) -> anyhow::Result<()> {
    let leader = status.layout_leader.map_or_else(|| "nobody".to_owned(), |leader| leader.short());
    say!(
        "cluster {}, layout {}, {} partitions, protocol {}, layout group of {} voters led by {leader}",
        status.cluster.short(),
        status.epoch,
        status.partitions,
        status.level,
        status.layout_voters.len()
    );
    for node in status.nodes.iter().filter(|node| node.versions.newest > status.level) {
        say!("node {} speaks protocol {} already: upgrade the others", node.id.short(), node.versions.newest);
    }
    tell_unheard(status)?;
    if let Some(rival) = &status.rival {
        say!("this node answers no client: {rival}");
    }
    clocks::tell(status)?;
    safety::tell(&status.wholeness)?;
    tell_full_memory(status)?;
    for bucket in status.buckets.iter().filter(|bucket| bucket.copies < bucket.policy.replicas) {
        say!(
            "bucket \"{}\" has {} of {} copies: {}",
            bucket.name,
            bucket.copies,
            bucket.policy.replicas,
            if status.moving > 0 { "data moves" } else { "add nodes" }
        );
    }
    Ok(())
}

/// Names nodes whose gossip does not reach the one that tells.
fn tell_unheard(status: &Status) -> anyhow::Result<()> {
    let unheard: Vec<String> =
        status.nodes.iter().filter(|node| is_unheard(node)).map(|node| node.id.short()).collect();
    if !unheard.is_empty() {
        say!(
            "not heard since this node started: {}; dead, of another cluster key, or out of reach of datagrams",
            few(&unheard)
        );
    }
    Ok(())
}

/// The first of some names, and how many more there are.
fn few(names: &[String]) -> String {
    let named: Vec<&str> = names.iter().take(NAMED_MAX).map(String::as_str).collect();
    match names.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Whether a node has had time to be heard, and was not.
fn is_unheard(node: &slipring_node::NodeStatus) -> bool {
    let is_unheard = |seen: &slipring_node::MemberStatus| {
        seen.state == slipring_node::MemberState::Unheard && seen.for_ms >= UNHEARD_MS
    };
    node.seen.as_ref().is_some_and(is_unheard)
}

/// How a member is believed to be, and for how long.
fn seen(seen: Option<&slipring_node::MemberStatus>) -> String {
    use slipring_node::MemberState::{Alive, Down, Left, Suspected, Unheard};
    let Some(seen) = seen else { return "-".to_owned() };
    let state = match seen.state {
        Unheard => "unheard",
        Alive => "alive",
        Suspected => "suspected",
        Down => "DOWN",
        Left => "left",
    };
    let seconds = seen.for_ms / 1_000;
    match seconds {
        0..120 => format!("{state} {seconds} s"),
        120..7_200 => format!("{state} {} min", seconds / 60),
        _ => format!("{state} {} h", seconds / 3_600),
    }
}

/// A part of a JSON value; null when it is not there.
fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn key_path(bucket: &str, key: &str) -> String {
    format!("/v1/kv/{}/{}", escape(bucket), escape(key))
}

/// Percent-encodes everything but letters, digits and `-_.~`.
fn escape(text: &str) -> String {
    let escaped = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_with_or_without_its_scheme() {
        for text in ["127.0.0.1:7379", "127.0.0.1:7379/", "http://127.0.0.1:7379"] {
            assert_eq!(with_scheme(text), "http://127.0.0.1:7379");
        }
        assert_eq!(with_scheme("https://a.example/"), "https://a.example");
    }

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        assert_eq!(few(names.get(..2).expect("ten")), "0, 1");
        assert_eq!(few(&names), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
    }
}
