//! How long the solver takes for a large cluster: 100 nodes in 3 zones, 4096 partitions, 3 copies.

use std::time::Instant;

use slipring_model::NodeId;
use slipring_ring::{Placement, Request, solve};

fn main() {
    let node = |index: u8| NodeId([index; 32]);
    let nodes =
        |count: u8| (0..count).map(|index| (node(index), (format!("zone-{}", index % 3), 100))).collect();
    let request = |count| Request { partitions: 4096, replicas: 3, zones: 3, nodes: nodes(count) };
    let began = Instant::now();
    let before: Placement = solve(&request(99), &Vec::new()).expect("feasible");
    println!("99 nodes, from nothing      {:>8.0?}", began.elapsed());
    let began = Instant::now();
    let after = solve(&request(100), &before).expect("feasible");
    let moved: usize = before
        .iter()
        .zip(&after)
        .map(|(old, new)| new.iter().filter(|node| !old.contains(node)).count())
        .sum();
    println!("100th node joins            {:>8.0?}   {moved} of {} copies move", began.elapsed(), 4096 * 3);
}
