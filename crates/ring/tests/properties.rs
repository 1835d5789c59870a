//! The solver against brute force on small clusters, and against the bounds on larger ones.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use slipring_model::NodeId;
use slipring_ring::{Placement, Request, solve};

fn node(index: usize) -> NodeId {
    NodeId([index as u8 + 1; 32])
}

fn request(partitions: u16, replicas: u8, zones: u8, nodes: &[(u8, u32)]) -> Request {
    let nodes =
        nodes.iter().enumerate().map(|(index, (zone, weight))| (node(index), (format!("z{zone}"), *weight)));
    Request { partitions, replicas, zones, nodes: nodes.collect() }
}

fn moves(before: &Placement, after: &Placement) -> usize {
    let new = |(partition, set): (usize, &Vec<NodeId>)| {
        set.iter().filter(|node| !before.get(partition).is_some_and(|held| held.contains(node))).count()
    };
    after.iter().enumerate().map(new).sum()
}

fn counts(table: &Placement) -> BTreeMap<NodeId, usize> {
    let mut counts = BTreeMap::new();
    table.iter().flatten().for_each(|node| *counts.entry(*node).or_default() += 1);
    counts
}

/// Every subset of `nodes` with `size` members.
fn subsets(nodes: usize, size: usize) -> Vec<Vec<NodeId>> {
    (0..1_u32 << nodes)
        .filter(|bits| bits.count_ones() as usize == size)
        .map(|bits| (0..nodes).filter(|index| bits >> index & 1 == 1).map(node).collect())
        .collect()
}

/// The fewest moves of any table that is good and whose partitions each have so many copies.
fn fewest_moves(
    (partitions, nodes, copies): (usize, usize, usize),
    before: &Placement,
    is_good: impl Fn(&Placement) -> bool,
) -> usize {
    fn walk(table: &mut Placement, left: usize, sets: &[Vec<NodeId>], found: &mut dyn FnMut(&Placement)) {
        if left == 0 {
            return found(table);
        }
        for set in sets {
            table.push(set.clone());
            walk(table, left - 1, sets, found);
            table.pop();
        }
    }
    let mut best = usize::MAX;
    walk(&mut Vec::new(), partitions, &subsets(nodes, copies), &mut |table| {
        if is_good(table) {
            best = best.min(moves(before, table));
        }
    });
    best
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn moves_are_as_few_as_brute_force_finds(
        partitions in 1..=4_usize,
        nodes in 1..=4_usize,
        replicas in 1..=3_usize,
        raw in proptest::collection::vec(proptest::collection::btree_set(0..4_usize, 0..=3), 4),
    ) {
        let before: Placement =
            raw.iter().take(partitions).map(|set| set.iter().map(|index| node(*index)).collect()).collect();
        let equal: Vec<(u8, u32)> = vec![(0, 100); nodes];
        let after = solve(&request(partitions as u16, replicas as u8, 1, &equal), &before).expect("feasible");
        let copies = replicas.min(nodes);
        let (low, high) = (partitions * copies / nodes, (partitions * copies).div_ceil(nodes));
        let is_balanced = |table: &Placement| {
            let counts = counts(table);
            (0..nodes).all(|index| (low..=high).contains(&counts.get(&node(index)).copied().unwrap_or(0)))
        };
        let fewest = fewest_moves((partitions, nodes, copies), &before, is_balanced);
        prop_assert_eq!(moves(&before, &after), fewest);
    }

    #[test]
    fn with_zones_and_weights_no_table_of_the_same_loads_takes_fewer_moves(
        partitions in 1..=4_usize,
        nodes in proptest::collection::vec((0..3_u8, 1..=3_u32), 1..=4),
        (replicas, asked) in (1..=3_usize, 1..=3_usize),
        raw in proptest::collection::vec(proptest::collection::btree_set(0..4_usize, 0..=3), 4),
    ) {
        let before: Placement =
            raw.iter().take(partitions).map(|set| set.iter().map(|index| node(*index)).collect()).collect();
        let request = request(partitions as u16, replicas as u8, asked as u8, &nodes);
        let after = solve(&request, &before).expect("feasible");
        let (loads, copies) = (counts(&after), replicas.min(nodes.len()));
        let zones = |set: &[NodeId]| set.iter().map(|node| &request.nodes[node].0).collect::<BTreeSet<_>>().len();
        let wanted = asked.min(nodes.iter().map(|(zone, _)| zone).collect::<BTreeSet<_>>().len()).min(copies);
        let is_good = |table: &Placement| counts(table) == loads && table.iter().all(|set| zones(set) >= wanted);
        let fewest = fewest_moves((partitions, nodes.len(), copies), &before, is_good);
        prop_assert_eq!(moves(&before, &after), fewest);
    }

    #[test]
    fn copies_are_distinct_spread_over_zones_and_shared_by_weight(
        bits in 4..8_u32,
        replicas in 1..=5_u8,
        asked in 1..=3_u8,
        nodes in proptest::collection::vec((0..3_u8, 50..200_u32), 1..12),
    ) {
        let request = request(1 << bits, replicas, asked, &nodes);
        let table = solve(&request, &Vec::new()).expect("feasible");
        let zones: BTreeSet<u8> = nodes.iter().map(|(zone, _)| *zone).collect();
        let copies = usize::from(replicas).min(nodes.len());
        let wanted = usize::from(asked).min(zones.len()).min(copies);
        for set in &table {
            let distinct: BTreeSet<&NodeId> = set.iter().collect();
            prop_assert_eq!(distinct.len(), copies);
            let in_zones: BTreeSet<&String> = set.iter().map(|node| &request.nodes[node].0).collect();
            prop_assert!(in_zones.len() >= wanted);
        }
        if asked == 1 && nodes.len() > copies {
            let total: u64 = nodes.iter().map(|(_, weight)| u64::from(*weight)).sum();
            let counts = counts(&table);
            for (index, (_, weight)) in nodes.iter().enumerate() {
                let fair = (copies << bits) as f64 * f64::from(*weight) / total as f64;
                let held = counts.get(&node(index)).copied().unwrap_or(0) as f64;
                // A node that cannot take its share leaves it to the others, whose shares grow.
                prop_assert!(held + 1.0 > fair.min(f64::from(1_u32 << bits)), "{} holds {} of {}", index, held, fair);
            }
        }
        prop_assert_eq!(solve(&request, &table), Ok(table), "a good table stays as it is");
    }

    #[test]
    fn a_new_node_takes_its_share_and_nothing_else_moves(nodes in 3..8_usize) {
        let equal: Vec<(u8, u32)> = vec![(0, 100); nodes];
        let before = solve(&request(128, 3, 1, &equal), &Vec::new()).expect("feasible");
        let more: Vec<(u8, u32)> = vec![(0, 100); nodes + 1];
        let after = solve(&request(128, 3, 1, &more), &before).expect("feasible");
        let share = counts(&after).get(&node(nodes)).copied().unwrap_or(0);
        prop_assert_eq!(moves(&before, &after), share);
        prop_assert!(share.abs_diff(128 * 3 / (nodes + 1)) <= 1);
    }

    #[test]
    fn primaries_are_balanced(nodes in 1..8_usize, bits in 4..8_u32) {
        let equal: Vec<(u8, u32)> = vec![(0, 100); nodes];
        let table = solve(&request(1 << bits, 3, 1, &equal), &Vec::new()).expect("feasible");
        let mut primaries: BTreeMap<NodeId, usize> = BTreeMap::new();
        table.iter().for_each(|set| *primaries.entry(set[0]).or_default() += 1);
        let fair = (1_usize << bits) / nodes;
        prop_assert!(primaries.values().all(|count| count.abs_diff(fair) <= 1), "{:?}", primaries);
    }
}

#[test]
fn nothing_to_place_and_nobody_to_hold_it_are_refused() {
    assert!(solve(&request(4, 3, 1, &[]), &Vec::new()).is_err());
    assert!(solve(&request(4, 3, 1, &[(0, 0)]), &Vec::new()).is_err());
    assert!(solve(&request(0, 3, 1, &[(0, 1)]), &Vec::new()).is_err());
}
