//! The cluster as Redis Cluster clients see it: each slot has one master, its first present replica, and no node is shown
//! as a replica. Every node serves every key all the same, so no client is ever redirected.

use std::fmt::Write as _;

use futures::future::BoxFuture;
use slipring_model::{Cursor, NodeId, SLOT_COUNT, Slot};
use slipring_node::{Presence, Region};
use slipring_resp::{Command, decimal};
use slipring_ring::Layout;

use super::reply::error_text;
use super::run::Session;
use super::slots::SlotTable;
use super::strings::argument;
use super::word;

/// Forty digits, as long as the ids of Redis Cluster.
fn id(node: NodeId) -> String {
    node.to_string().chars().take(40).collect()
}

/// Where cluster clients reach a member. One of an older release answers them on its only port.
fn address(session: &Session, layout: &Layout, node: NodeId) -> (String, i64) {
    let told = session.node.redis_cluster_address(node);
    let listed = || layout.nodes().get(&node).map(|entry| entry.addresses.redis.clone()).unwrap_or_default();
    let address = if told.is_empty() { listed() } else { told };
    let (host, port) = address.rsplit_once(':').unwrap_or((&address, "0"));
    (host.trim_matches(['[', ']']).to_owned(), port.parse().unwrap_or(0))
}

/// READONLY, READWRITE and ASKING: every node serves every key, so they change nothing.
pub(crate) fn accept(session: &mut Session, _command: &Command) {
    if !session.refuses_cluster() {
        session.writer.ok();
    }
}

pub(crate) fn cluster<'s>(session: &'s mut Session, command: &'s Command) -> BoxFuture<'s, ()> {
    Box::pin(async move {
        if session.refuses_cluster() {
            return;
        }
        let layout = session.node.layout();
        let sub = word(command, 1);
        match (sub.as_str(), command.len()) {
            ("slots", 2) => slots(session, &layout),
            ("shards", 2) => shards(session, &layout),
            ("nodes", 2) => {
                let text = nodes(session, &layout);
                session.writer.verbatim(&text);
            }
            ("info", 2) => {
                let text = info(session, &layout);
                session.writer.verbatim(&text);
            }
            ("myid" | "myshardid", 2) => {
                let id = id(session.node.id());
                session.writer.bulk(id.as_bytes());
            }
            ("keyslot", 3) => session.writer.integer(i64::from(Slot::of(&argument(command, 2)).0)),
            ("countkeysinslot", 3) => keys_in_slot(session, command, usize::MAX).await,
            ("getkeysinslot", 4) => match decimal(&argument(command, 3)).map(usize::try_from) {
                Some(Ok(count)) => keys_in_slot(session, command, count).await,
                _ => session.writer.error("ERR Invalid slot or number of keys"),
            },
            ("links", 2) => session.writer.array(0),
            ("replicas" | "slaves", 3) => replicas(session, &layout, &word(command, 2)),
            ("count-failure-reports", 3) => session.writer.integer(0),
            ("help", 2) => session
                .writer
                .bulks(&["CLUSTER SLOTS|SHARDS|NODES|INFO|KEYSLOT|MYID|COUNTKEYSINSLOT|GETKEYSINSLOT"]),
            _ => refuse(session, &sub),
        }
    })
}

/// What no client may do to the layout, and what is not known.
fn refuse(session: &mut Session, sub: &str) {
    match sub {
        "meet" | "addslots" | "addslotsrange" | "delslots" | "delslotsrange" | "setslot" | "replicate"
        | "forget" | "reset" | "bumpepoch" | "set-config-epoch" | "failover" | "saveconfig"
        | "flushslots" => {
            session
                .writer
                .error("ERR the cluster places its partitions by itself: see `slipring layout show`");
        }
        _ => session.writer.error(&format!("ERR unknown subcommand '{sub}'. Try CLUSTER HELP.")),
    }
}

/// No member is shown as a replica.
fn replicas(session: &mut Session, layout: &Layout, asked: &str) {
    match layout.nodes().keys().any(|node| id(*node) == asked) {
        true => session.writer.array(0),
        false => session.writer.error(&format!("ERR Unknown node {asked}")),
    }
}

fn slots(session: &mut Session, layout: &Layout) {
    let table = SlotTable::new(&session.node, layout, session.bucket);
    session.writer.array(table.ranges.len());
    for range in &table.ranges {
        let (host, port) = address(session, layout, range.master);
        let writer = &mut session.writer;
        writer.array(3);
        writer.integer(i64::from(range.first));
        writer.integer(i64::from(range.last));
        writer.array(4);
        writer.bulk(host.as_bytes());
        writer.integer(port);
        writer.bulk(id(range.master).as_bytes());
        writer.array(0);
    }
}

/// One shard for each node.
fn shards(session: &mut Session, layout: &Layout) {
    let table = SlotTable::new(&session.node, layout, session.bucket);
    session.writer.array(layout.nodes().len());
    for node in layout.nodes().keys() {
        let slots: Vec<_> = table.slots_of(*node).collect();
        let writer = &mut session.writer;
        writer.map(2);
        writer.bulk(b"slots");
        writer.array(slots.len() * 2);
        for slot in slots.iter().flat_map(|slots| [slots.start(), slots.end()]) {
            writer.integer(i64::from(*slot));
        }
        writer.bulk(b"nodes");
        writer.array(1);
        let health = if table.presence(*node) == Presence::Present { "online" } else { "fail" };
        shard_node(session, layout, *node, [("role", "master"), ("health", health)]);
    }
}

fn shard_node(session: &mut Session, layout: &Layout, node: NodeId, state: [(&str, &str); 2]) {
    let (host, port) = address(session, layout, node);
    let writer = &mut session.writer;
    writer.map(7);
    for (name, number) in [("port", port), ("replication-offset", 0)] {
        writer.bulk(name.as_bytes());
        writer.integer(number);
    }
    let id = id(node);
    let texts = [("id", id.as_str()), ("ip", &host), ("endpoint", &host)];
    for (name, text) in texts.into_iter().chain(state) {
        writer.bulk(name.as_bytes());
        writer.bulk(text.as_bytes());
    }
}

/// One line per node. Every node is a master, of the slots that it is the first present replica of.
fn nodes(session: &Session, layout: &Layout) -> String {
    let table = SlotTable::new(&session.node, layout, session.bucket);
    let mut text = String::new();
    for node in layout.nodes().keys() {
        let (host, port) = address(session, layout, *node);
        let flags = match table.presence(*node) {
            _ if *node == session.node.id() => "myself,master",
            Presence::Present => "master",
            Presence::Suspected => "master,fail?",
            Presence::Absent => "master,fail",
        };
        let state = if session.node.is_connected(*node) { "connected" } else { "disconnected" };
        let epoch = layout.epoch();
        let _ = write!(text, "{} {host}:{port}@{port} {flags} - 0 0 {epoch} {state}", id(*node));
        for slots in table.slots_of(*node) {
            let _ = match slots.start() == slots.end() {
                true => write!(text, " {}", slots.start()),
                false => write!(text, " {}-{}", slots.start(), slots.end()),
            };
        }
        text.push('\n');
    }
    text
}

fn info(session: &Session, layout: &Layout) -> String {
    let (nodes, epoch) = (layout.nodes().len(), layout.epoch());
    let state = if session.node.serves() { "ok" } else { "fail" };
    let table = SlotTable::new(&session.node, layout, session.bucket);
    let [ok, suspected, failed] =
        [Presence::Present, Presence::Suspected, Presence::Absent].map(|presence| table.slots_led(presence));
    let masters = layout.nodes().keys().filter(|node| table.slots_of(**node).next().is_some()).count();
    [
        "cluster_enabled:1".to_owned(),
        format!("cluster_state:{state}"),
        format!("cluster_slots_assigned:{SLOT_COUNT}"),
        format!("cluster_slots_ok:{ok}"),
        format!("cluster_slots_pfail:{suspected}"),
        format!("cluster_slots_fail:{failed}"),
        format!("cluster_known_nodes:{nodes}"),
        format!("cluster_size:{masters}"),
        format!("cluster_current_epoch:{epoch}"),
        format!("cluster_my_epoch:{epoch}"),
        String::new(),
    ]
    .join("\r\n")
}

/// COUNTKEYSINSLOT and GETKEYSINSLOT: a walk over the slot's own range of positions. As in Redis, a slot of another
/// master has no keys here.
async fn keys_in_slot(session: &mut Session, command: &Command, count: usize) {
    let slot = decimal(&argument(command, 2)).and_then(|slot| u16::try_from(slot).ok());
    let Some(slot) = slot.filter(|slot| *slot < SLOT_COUNT) else {
        return session.writer.error("ERR Invalid slot");
    };
    let is_own = session.region().contains(Slot(slot).start());
    let region = Region::of_slots(is_own.then_some(slot..=slot));
    let mut cursor = Cursor::START;
    let mut keys = Vec::new();
    loop {
        let page = match session.node.scan_region(session.bucket, &region, cursor, 256).await {
            Ok(page) => page,
            Err(error) => return session.writer.error(&error_text(&error)),
        };
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_start() || keys.len() >= count {
            break;
        }
    }
    if count == usize::MAX {
        session.writer.integer(keys.len() as i64);
    } else {
        keys.truncate(count);
        session.writer.bulks(&keys);
    }
}
