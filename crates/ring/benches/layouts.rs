//! What a layout of 1,000 nodes and 4,096 partitions costs: the solver, a command, and the document's size.

use std::time::{Duration, Instant};

use slipring_model::{ClusterId, NodeId, StorageId, Versions};
use slipring_ring::{
    Addresses, Change, Command, Layout, NodeChange, NodeEntry, NodeState, Placement, Request, Role, solve,
};

/// One less than a cluster may have: one more joins.
const NODES: u16 = 999;
const BITS: u8 = 12;

fn main() {
    let nodes = |count: u16| (0..count).map(|index| (node(index), (zone(index), 100))).collect();
    let request = |count| Request { partitions: 1 << BITS, replicas: 3, zones: 3, nodes: nodes(count) };
    let (took, before) = timed(|| solve(&request(NODES), &Placement::new()).expect("feasible"));
    println!("solver, {} nodes from nothing         {took:>9.1?}", NODES);
    let (took, after) = timed(|| solve(&request(NODES + 1), &before).expect("feasible"));
    let moved =
        |(old, new): (&Vec<NodeId>, &Vec<NodeId>)| new.iter().filter(|node| !old.contains(node)).count();
    let moved: usize = before.iter().zip(&after).map(moved).sum();
    println!("solver, one more joins               {took:>9.1?}   {moved} of {} copies move", 3 << BITS);

    let (took, mut layout) = timed(grown);
    println!("a layout of {NODES} nodes                {took:>9.1?}");
    let mut index = 1_000_000;
    let mut apply = |what: &str, command: &Command| {
        index += 10;
        let (took, applied) = timed(|| layout.apply(index, command));
        applied.expect("possible");
        let moves: Vec<_> = layout.moves().map(|(id, _)| id).collect();
        let partitions = moves.len();
        let (arrival, applied) = timed(|| layout.apply(index + 1, &Command::Arrived { moves }));
        applied.expect("arrived");
        println!(
            "{what:<36} {took:>9.1?}   {partitions} partitions move, {arrival:.1?} when all have arrived"
        );
    };
    let change =
        |change| Command::Change { changes: vec![Change { node: node(7), change }], expected_epoch: None };
    apply("one more joins", &Command::AddNode { node: node(NODES), entry: entry(NODES) });
    apply("one is drained", &change(NodeChange::State(NodeState::Drained)));
    apply("it is restored", &change(NodeChange::State(NodeState::Active)));
    apply("one gets a double share", &change(NodeChange::Weight(200)));
    apply("one is lost", &change(NodeChange::State(NodeState::Lost)));
    let (took, json) = timed(|| serde_json::to_vec(&layout).expect("plain data"));
    println!("the document, as JSON                {took:>9.1?}   {:.1} MB", json.len() as f64 / 1e6);
}

/// Founded by one node; the others join without a share and get theirs by one command.
fn grown() -> Layout {
    let mut layout = Layout::found(ClusterId([1; 16]), BITS, (node(0), entry(0)));
    for number in 1..NODES {
        let mut entry = entry(number);
        entry.role.state = NodeState::Drained;
        let command = Command::AddNode { node: node(number), entry };
        layout.apply(u64::from(number) * 10, &command).expect("added");
    }
    let change = NodeChange::State(NodeState::Active);
    let changes = (1..NODES).map(|number| Change { node: node(number), change: change.clone() }).collect();
    let command = Command::Change { changes, expected_epoch: None };
    layout.apply(u64::from(NODES) * 10, &command).expect("restored");
    let moves = layout.moves().map(|(id, _)| id).collect();
    layout.apply(u64::from(NODES) * 10 + 1, &Command::Arrived { moves }).expect("arrived");
    layout
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let began = Instant::now();
    let value = work();
    (began.elapsed(), value)
}

fn node(number: u16) -> NodeId {
    let mut id = [0; 32];
    for (place, byte) in id.iter_mut().zip(number.to_be_bytes().into_iter().cycle()) {
        *place = byte;
    }
    NodeId(id)
}

fn zone(number: u16) -> String {
    format!("zone-{}", number % 3)
}

fn entry(number: u16) -> NodeEntry {
    let port = |base: u16| format!("10.0.{}.{}:{base}", number >> 8, number & 255);
    NodeEntry {
        storage: StorageId([1; 16]),
        incarnation: 1,
        boot: 1,
        raft_id: 0,
        addresses: Addresses {
            redis_cluster: port(6479),
            peer: port(7946),
            redis: port(6379),
            http: port(7379),
        },
        versions: Versions::default(),
        role: Role { zone: zone(number), weight: 100, state: NodeState::Active },
        signature: None,
    }
}
