//! The placement solver: which nodes hold each partition.
//!
//! Solved, not hashed: every node's share follows its weight to within one partition, each partition's copies
//! stand in as many zones as asked, and as few copies as possible move from the table before. All three are
//! one minimum-cost flow: partition, zone, node; a copy that stays costs nothing, one that moves costs 1, one
//! beyond a node's share costs more than all moves.
//!
//! Source: the flow formulation of Garage's "Optimal layouts" (2022).

mod flow;

use std::collections::BTreeMap;
use std::fmt;

use slipring_model::NodeId;

use flow::{EdgeId, Network, Vertex};

/// Partition by partition, the nodes that hold it, in preference order.
pub type Placement = Vec<Vec<NodeId>>;

/// What is to be placed, and where it may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How many partitions there are.
    pub partitions: u16,
    /// Copies of each; as many as there are nodes when those are fewer.
    pub replicas: u8,
    /// Distinct zones each partition's copies must stand in; as many as there are when those are fewer.
    pub zones: u8,
    /// The nodes, each with its zone and its weight.
    pub nodes: BTreeMap<NodeId, (String, u32)>,
}

/// Why there is no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Infeasible {
    /// There is no node with a weight above zero.
    NoNodes,
    /// Zero copies, or zero partitions, were asked for.
    NothingToPlace,
    /// The zones cannot take the copies.
    Zones,
}

impl fmt::Display for Infeasible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoNodes => "no node has a weight above zero; give one a weight or add a node",
            Self::NothingToPlace => "there must be at least one partition and one copy",
            Self::Zones => "the copies do not fit into the zones; add nodes or ask for fewer zones",
        })
    }
}

impl std::error::Error for Infeasible {}

/// A copy beyond a node's fair share costs more than moving every copy.
const BEYOND_SHARE: i64 = 1 << 24;
/// How finely shares beyond the fair one are priced when zones force them.
const EXCESS_STEPS: i64 = 8;

/// Places every partition, moving as few copies as possible from `before`.
///
/// # Errors
/// [`Infeasible`] says why there is no table.
pub fn solve(request: &Request, before: &Placement) -> Result<Placement, Infeasible> {
    let nodes: Vec<(NodeId, &str, u64)> = request
        .nodes
        .iter()
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(node, (zone, weight))| (*node, zone.as_str(), u64::from(*weight)))
        .collect();
    if nodes.is_empty() {
        return Err(Infeasible::NoNodes);
    }
    if request.partitions == 0 || request.replicas == 0 {
        return Err(Infeasible::NothingToPlace);
    }
    let sets = choose_sets(request, &nodes, before)?;
    Ok(order_sets(sets, &nodes, before))
}

/// Chooses each partition's nodes.
fn choose_sets(
    request: &Request,
    nodes: &[(NodeId, &str, u64)],
    before: &Placement,
) -> Result<Placement, Infeasible> {
    let mut zones: Vec<&str> = nodes.iter().map(|(_, zone, _)| *zone).collect();
    zones.sort_unstable();
    zones.dedup();
    let partitions = usize::from(request.partitions);
    let copies = usize::from(request.replicas).min(nodes.len()) as i64;
    let distinct = i64::from(request.zones.max(1)).min(zones.len() as i64).min(copies);
    let shape = Shape { partitions, zones: zones.len(), nodes: nodes.len() };
    let mut network = Network::new(shape.vertices());
    let mut choices: Vec<Vec<(NodeId, EdgeId)>> = Vec::with_capacity(partitions);
    for partition in 0..partitions {
        network.edge(shape.source(), shape.spread(partition), distinct, 0);
        network.edge(shape.source(), shape.free(partition), copies - distinct, 0);
        for zone in 0..zones.len() {
            network.edge(shape.spread(partition), shape.zone(partition, zone), 1, 0);
            network.edge(shape.free(partition), shape.zone(partition, zone), copies, 0);
        }
        let held = before.get(partition).map_or(&[][..], Vec::as_slice);
        let choice = nodes.iter().enumerate().map(|(index, (node, zone, _))| {
            let zone = zones.binary_search(zone).unwrap_or(0);
            let cost = i64::from(!held.contains(node));
            (*node, network.edge(shape.zone(partition, zone), shape.node(index), 1, cost))
        });
        choices.push(choice.collect());
    }
    let total = copies * partitions as i64;
    let least = i64::from(distinct == zones.len() as i64);
    let bounds = ZoneBounds { least, most: copies - distinct + 1 };
    for (index, share) in shares(nodes, total, partitions as i64, bounds).into_iter().enumerate() {
        price_share(&mut network, shape.node(index), shape.sink(), share, partitions as i64);
    }
    if network.solve(shape.source(), shape.sink()) < total {
        return Err(Infeasible::Zones);
    }
    let chosen = |choice: &Vec<(NodeId, EdgeId)>| {
        choice.iter().filter(|(_, edge)| network.flow(*edge) > 0).map(|(node, _)| *node).collect()
    };
    Ok(choices.iter().map(chosen).collect())
}

/// Where the vertices of the network lie.
struct Shape {
    partitions: usize,
    zones: usize,
    nodes: usize,
}

impl Shape {
    fn vertices(&self) -> usize {
        2 + self.partitions * (2 + self.zones) + self.nodes
    }

    fn source(&self) -> Vertex {
        0
    }

    fn sink(&self) -> Vertex {
        1
    }

    /// Copies that must each stand in a zone of their own.
    fn spread(&self, partition: usize) -> Vertex {
        2 + partition * (2 + self.zones)
    }

    /// Copies that may stand anywhere.
    fn free(&self, partition: usize) -> Vertex {
        self.spread(partition) + 1
    }

    fn zone(&self, partition: usize, zone: usize) -> Vertex {
        self.spread(partition) + 2 + zone
    }

    fn node(&self, node: usize) -> Vertex {
        2 + self.partitions * (2 + self.zones) + node
    }
}

/// A node's fair share: the whole copies it gets, and whether it may take one more.
#[derive(Clone, Copy, Default)]
struct Share {
    whole: i64,
    has_rest: bool,
}

/// Shares in proportion to weight, as far as zones permit: a zone that must take more or can take less than
/// its weight says shares that among its own nodes, and the rest is shared among the others.
fn shares(nodes: &[(NodeId, &str, u64)], total: i64, partitions: i64, bounds: ZoneBounds) -> Vec<Share> {
    let mut shares = vec![Share::default(); nodes.len()];
    let mut pool: Vec<usize> = (0..nodes.len()).collect();
    let mut left = total;
    let weight_of = |index: &usize| nodes.get(*index).map_or(0, |(_, _, weight)| i128::from(*weight));
    loop {
        let weight: i128 = pool.iter().map(weight_of).sum();
        let mut by_zone: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for index in &pool {
            by_zone.entry(nodes.get(*index).map_or("", |(_, zone, _)| zone)).or_default().push(*index);
        }
        let forced = by_zone.into_values().find_map(|zone| {
            let fair = i128::from(left) * zone.iter().map(weight_of).sum::<i128>();
            let most = i128::from(partitions * bounds.most.min(zone.len() as i64));
            let least = i128::from(partitions * bounds.least);
            let own = if fair > most * weight { most } else { least };
            (fair > most * weight || fair < least * weight).then_some((zone, own as i64))
        });
        let Some((zone, own)) = forced else { break };
        share_out(nodes, &zone, own, partitions, &mut shares);
        pool.retain(|index| !zone.contains(index));
        left -= own;
    }
    share_out(nodes, &pool, left, partitions, &mut shares);
    shares
}

/// How many of a partition's copies one zone must and may hold.
#[derive(Clone, Copy)]
struct ZoneBounds {
    least: i64,
    most: i64,
}

/// Shares `total` among the nodes of `pool` by weight; no node gets more than one copy of each partition.
fn share_out(
    nodes: &[(NodeId, &str, u64)],
    pool: &[usize],
    total: i64,
    partitions: i64,
    shares: &mut [Share],
) {
    let mut pool: Vec<(usize, i128)> =
        pool.iter().filter_map(|index| Some((*index, i128::from(nodes.get(*index)?.2)))).collect();
    let mut left = i128::from(total);
    loop {
        let weight: i128 = pool.iter().map(|(_, own)| own).sum();
        let is_over = |own: i128| left * own >= i128::from(partitions) * weight;
        let (over, rest): (Vec<_>, Vec<_>) = pool.iter().partition(|(_, own)| is_over(*own));
        for (index, own) in if over.is_empty() { &rest } else { &over } {
            if let Some(share) = shares.get_mut(*index) {
                let exact = left * own;
                *share = if over.is_empty() {
                    Share { whole: (exact / weight) as i64, has_rest: exact % weight != 0 }
                } else {
                    Share { whole: partitions, has_rest: false }
                };
            }
        }
        if over.is_empty() {
            return;
        }
        left -= i128::from(partitions) * over.len() as i128;
        pool = rest;
    }
}

/// Lets a node take its share for nothing, one more at a price, and beyond that ever dearer.
fn price_share(network: &mut Network, node: Vertex, sink: Vertex, share: Share, partitions: i64) {
    network.edge(node, sink, share.whole, 0);
    let extra = i64::from(share.has_rest);
    network.edge(node, sink, extra, BEYOND_SHARE);
    let mut left = partitions - share.whole - extra;
    let step = left / EXCESS_STEPS + 1;
    let mut price = BEYOND_SHARE * 2;
    while left > 0 {
        network.edge(node, sink, step.min(left), price);
        left -= step;
        price *= 2;
    }
}

/// Puts each set in preference order: a primary such that primaries are balanced too, then who was there before.
fn order_sets(sets: Placement, nodes: &[(NodeId, &str, u64)], before: &Placement) -> Placement {
    let primaries = choose_primaries(&sets, nodes, before);
    let order = |(partition, (mut set, primary)): (usize, (Vec<NodeId>, Option<NodeId>))| {
        let held = before.get(partition).map_or(&[][..], Vec::as_slice);
        let rank = |node: &NodeId| held.iter().position(|other| other == node).unwrap_or(usize::MAX);
        set.sort_by_key(|node| (Some(*node) != primary, rank(node), turn(partition, *node, nodes)));
        set
    };
    sets.into_iter().zip(primaries).enumerate().map(order).collect()
}

/// Spreads the second and later places over the nodes.
fn turn(partition: usize, node: NodeId, nodes: &[(NodeId, &str, u64)]) -> usize {
    let index = nodes.iter().position(|(other, ..)| *other == node).unwrap_or(0);
    (index + nodes.len() - partition % nodes.len()) % nodes.len()
}

/// One node of each set, balanced by weight, changing as few as possible.
fn choose_primaries(
    sets: &Placement,
    nodes: &[(NodeId, &str, u64)],
    before: &Placement,
) -> Vec<Option<NodeId>> {
    let (partitions, count) = (sets.len(), nodes.len());
    let (source, sink) = (0, 1);
    let mut network = Network::new(2 + partitions + count);
    let mut choices: Vec<Vec<(NodeId, EdgeId)>> = Vec::with_capacity(partitions);
    for (partition, set) in sets.iter().enumerate() {
        network.edge(source, 2 + partition, 1, 0);
        let was = before.get(partition).and_then(|held| held.first());
        let choice = nodes.iter().enumerate().filter(|(_, (node, ..))| set.contains(node)).map(
            |(index, (node, ..))| {
                (*node, network.edge(2 + partition, 2 + partitions + index, 1, i64::from(was != Some(node))))
            },
        );
        choices.push(choice.collect());
    }
    let mut shares = vec![Share::default(); count];
    let everyone: Vec<usize> = (0..count).collect();
    share_out(nodes, &everyone, partitions as i64, partitions as i64, &mut shares);
    for (index, share) in shares.into_iter().enumerate() {
        price_share(&mut network, 2 + partitions + index, sink, share, partitions as i64);
    }
    network.solve(source, sink);
    let chosen = |choice: &Vec<(NodeId, EdgeId)>| {
        choice.iter().find(|(_, edge)| network.flow(*edge) > 0).map(|(node, _)| *node)
    };
    choices.iter().map(chosen).collect()
}
