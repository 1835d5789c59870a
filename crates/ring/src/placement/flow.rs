//! Minimum-cost maximum flow with small non-negative costs.
//!
//! Primal-dual: shortest paths by reduced cost, then a blocking flow over all of them at once. The number of
//! rounds is that of distinct path costs, which is small here.
//!
//! Source: Ahuja, Magnanti, Orlin, "Network Flows" (1993), 9.8; Dinic (1970) for the blocking flow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

const UNREACHED: i64 = i64::MAX / 4;

/// A vertex of the network.
pub(super) type Vertex = usize;

/// An edge, as [`Network::edge`] named it.
#[derive(Clone, Copy)]
pub(super) struct EdgeId(usize);

#[derive(Clone, Copy)]
struct Edge {
    to: Vertex,
    room: i64,
    cost: i64,
}

/// A flow network; every edge has its reverse beside it.
pub(super) struct Network {
    edges: Vec<Edge>,
    out: Vec<Vec<usize>>,
    potential: Vec<i64>,
}

#[expect(clippy::indexing_slicing, reason = "vertices and edges are made here and never removed")]
impl Network {
    pub(super) fn new(vertices: usize) -> Self {
        Self { edges: Vec::new(), out: vec![Vec::new(); vertices], potential: vec![0; vertices] }
    }

    /// Adds an edge with `room` units at `cost` each.
    pub(super) fn edge(&mut self, from: Vertex, to: Vertex, room: i64, cost: i64) -> EdgeId {
        let id = self.edges.len();
        self.out[from].push(id);
        self.out[to].push(id + 1);
        self.edges.push(Edge { to, room, cost });
        self.edges.push(Edge { to: from, room: 0, cost: -cost });
        EdgeId(id)
    }

    /// Units on an edge.
    pub(super) fn flow(&self, edge: EdgeId) -> i64 {
        self.edges[edge.0 + 1].room
    }

    /// Sends as much as possible from `source` to `sink` at the least cost; the units sent.
    pub(super) fn solve(&mut self, source: Vertex, sink: Vertex) -> i64 {
        let mut total = 0;
        while self.shorten(source, sink) {
            while let Some(levels) = self.levels(source, sink) {
                let mut next = vec![0; self.out.len()];
                while let Some(sent) = self.push(source, sink, &levels, &mut next) {
                    total += sent;
                }
            }
        }
        total
    }

    fn reduced(&self, from: Vertex, edge: Edge) -> i64 {
        edge.cost + self.potential[from] - self.potential[edge.to]
    }

    /// Dijkstra over reduced costs; updates the potentials. `false` when the sink is out of reach.
    fn shorten(&mut self, source: Vertex, sink: Vertex) -> bool {
        let mut distance = vec![UNREACHED; self.out.len()];
        let mut queue = BinaryHeap::from([Reverse((0, source))]);
        distance[source] = 0;
        while let Some(Reverse((so_far, vertex))) = queue.pop() {
            if so_far > distance[vertex] {
                continue;
            }
            for id in &self.out[vertex] {
                let edge = self.edges[*id];
                let through = so_far + self.reduced(vertex, edge);
                if edge.room > 0 && through < distance[edge.to] {
                    distance[edge.to] = through;
                    queue.push(Reverse((through, edge.to)));
                }
            }
        }
        let reach = distance[sink];
        if reach >= UNREACHED {
            return false;
        }
        for (potential, distance) in self.potential.iter_mut().zip(distance) {
            *potential += distance.min(reach);
        }
        true
    }

    /// Breadth-first levels over edges of reduced cost zero; `None` when the sink is out of reach.
    fn levels(&self, source: Vertex, sink: Vertex) -> Option<Vec<u32>> {
        let mut levels = vec![u32::MAX; self.out.len()];
        let mut queue = VecDeque::from([source]);
        levels[source] = 0;
        while let Some(vertex) = queue.pop_front() {
            for id in &self.out[vertex] {
                let edge = self.edges[*id];
                if edge.room > 0 && levels[edge.to] == u32::MAX && self.reduced(vertex, edge) == 0 {
                    levels[edge.to] = levels[vertex] + 1;
                    queue.push_back(edge.to);
                }
            }
        }
        (levels[sink] != u32::MAX).then_some(levels)
    }

    /// One path along rising levels, found with an explicit stack; the units sent on it.
    fn push(&mut self, source: Vertex, sink: Vertex, levels: &[u32], next: &mut [usize]) -> Option<i64> {
        let mut path: Vec<usize> = Vec::new();
        let mut vertex = source;
        while vertex != sink {
            let found = self.out[vertex][next[vertex]..].iter().position(|id| {
                let edge = self.edges[*id];
                edge.room > 0 && levels[edge.to] == levels[vertex] + 1 && self.reduced(vertex, edge) == 0
            });
            match found {
                Some(skipped) => {
                    next[vertex] += skipped;
                    let id = self.out[vertex][next[vertex]];
                    path.push(id);
                    vertex = self.edges[id].to;
                }
                None => {
                    next[vertex] = self.out[vertex].len();
                    let back = path.pop()?;
                    vertex = self.edges[back ^ 1].to;
                    next[vertex] += 1;
                }
            }
        }
        let units = path.iter().map(|id| self.edges[*id].room).min()?;
        for id in path {
            self.edges[id].room -= units;
            self.edges[id ^ 1].room += units;
        }
        Some(units)
    }
}
