//! Carrying a plan out: each fault begins and ends at its time, on the nodes and the ways it names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slipring_sim::Violation;

use crate::cluster::Cluster;
use crate::link::Impairment;
use crate::plan::{Fault, Plan};
use crate::story::Story;
use crate::wait::{LOOK, rest};

/// What a storm does to a cluster.
pub(crate) struct Storm<'a> {
    cluster: &'a mut Cluster,
    story: &'a Story,
    /// Faults that really happened, by kind.
    pub(crate) happened: BTreeMap<&'static str, u64>,
    /// How often a node gave up because of its disk.
    pub(crate) gave_up: u64,
    /// Disks that are full now, by the fault that filled them.
    full: BTreeMap<usize, usize>,
    /// Nodes whose disk was full since they were started: these may end by themselves.
    suspects: BTreeSet<usize>,
    /// Nodes that gave up and wait for room.
    waiting: BTreeSet<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Edge {
    Begins,
    Ends,
}

impl<'a> Storm<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, story: &'a Story) -> Self {
        let (happened, full) = Default::default();
        Self {
            cluster,
            story,
            happened,
            gave_up: 0,
            full,
            suspects: BTreeSet::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// Runs to the end of the storm and calls `passed` with the milliseconds gone by; the first violation ends it.
    pub(crate) fn run(
        &mut self,
        plan: &Plan,
        storm_ms: u64,
        mut passed: impl FnMut(u64),
    ) -> anyhow::Result<Result<(), Violation>> {
        let edges = edges(plan, storm_ms);
        let mut edges = edges.iter().peekable();
        let began_ms = self.story.now_ms();
        loop {
            let now_ms = self.story.now_ms() - began_ms;
            while let Some((_, edge, cause)) = edges.next_if(|(at, _, _)| *at <= now_ms) {
                let Some((_, fault)) = plan.faults.get(*cause) else { continue };
                match edge {
                    Edge::Begins => self.begin(*cause, *fault)?,
                    Edge::Ends => self.end(*cause, *fault)?,
                }
            }
            if let Some(violation) = self.look_after()? {
                return Ok(Err(violation));
            }
            passed(now_ms);
            if now_ms >= storm_ms {
                return Ok(Ok(()));
            }
            let next =
                edges.peek().map_or(LOOK, |(at, _, _)| Duration::from_millis(at.saturating_sub(now_ms)));
            rest(next)?;
        }
    }

    /// Ends everything that still goes on, and starts what is down.
    pub(crate) fn heal(&mut self) -> anyhow::Result<Result<(), Violation>> {
        self.cluster.proxies.clear();
        self.full.clear();
        for node in 0..self.cluster.nodes.len() {
            self.cluster.place.plug(node, true);
            let process = self.cluster.node(node)?;
            process.resume()?;
            process.disk.free(process.pid())?;
        }
        if let Some(violation) = self.look_after()? {
            return Ok(Err(violation));
        }
        for node in 0..self.cluster.nodes.len() {
            self.cluster.start(node, self.story)?;
        }
        self.story.note("healed");
        Ok(Ok(()))
    }

    /// Notes who ended, and starts whoever gave up on a full disk as soon as there is room again.
    pub(crate) fn look_after(&mut self) -> anyhow::Result<Option<Violation>> {
        let (suspects, full) = (&self.suspects, &self.full);
        let is_full = |node: usize| full.values().any(|full| *full == node);
        let ended = self.cluster.ended(self.story, |node| suspects.contains(&node) || is_full(node))?;
        let ended = match ended {
            Ok(ended) => ended,
            Err(violation) => return Ok(Some(violation)),
        };
        self.gave_up += ended.len() as u64;
        self.waiting.extend(ended);
        let (waiting, can_start): (BTreeSet<usize>, BTreeSet<usize>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|node| is_full(*node));
        self.waiting = waiting;
        for node in can_start {
            self.suspects.remove(&node);
            self.cluster.start(node, self.story)?;
        }
        Ok(None)
    }

    /// Whether every node is up and reaches every other.
    pub(crate) fn is_whole(&mut self) -> anyhow::Result<bool> {
        self.cluster.is_whole()
    }

    fn begin(&mut self, cause: usize, fault: Fault) -> anyhow::Result<()> {
        self.story.note(format!("begins: {fault:?}"));
        let has_happened = match fault {
            Fault::Kill { node, .. } => self.kill(node)?,
            Fault::KillAll { .. } => {
                let killed: Result<Vec<bool>, _> =
                    (0..self.cluster.nodes.len()).map(|node| self.kill(node)).collect();
                killed?.contains(&true)
            }
            Fault::Pause { node, .. } => self.cluster.node(node)?.pause()?,
            Fault::FillDisk { node, .. } => self.fill_disk(cause, node)?,
            Fault::Reset { a, b } => {
                self.cluster.proxies.reset(a, b);
                true
            }
            Fault::Isolate { node, .. } if self.cluster.place.plug(node, false) => true,
            _ => {
                self.impair(cause, fault);
                true
            }
        };
        if has_happened {
            *self.happened.entry(fault.kind()).or_default() += 1;
        }
        Ok(())
    }

    fn impair(&self, cause: usize, fault: Fault) {
        let proxies = &self.cluster.proxies;
        let cut = |from, to| proxies.impair(from, to, cause, Impairment::Cut);
        match fault {
            Fault::Cut { from, to, .. } => cut(from, to),
            Fault::CutBoth { a, b, .. } => {
                cut(a, b);
                cut(b, a);
            }
            Fault::Isolate { node, .. } => {
                for other in (0..self.cluster.nodes.len()).filter(|other| *other != node) {
                    cut(node, other);
                    cut(other, node);
                }
            }
            Fault::Drop { from, to, .. } => proxies.impair(from, to, cause, Impairment::Drop),
            Fault::Delay { from, to, by_ms, .. } => {
                proxies.impair(from, to, cause, Impairment::Delay(Duration::from_millis(by_ms)));
            }
            Fault::Throttle { from, to, bytes_per_second, .. } => {
                proxies.impair(from, to, cause, Impairment::Throttle(bytes_per_second));
            }
            Fault::Kill { .. }
            | Fault::KillAll { .. }
            | Fault::Pause { .. }
            | Fault::FillDisk { .. }
            | Fault::Reset { .. } => {}
        }
    }

    fn end(&mut self, cause: usize, fault: Fault) -> anyhow::Result<()> {
        self.story.note(format!("ends: {fault:?}"));
        self.cluster.proxies.relieve(cause);
        match fault {
            Fault::Kill { node, .. } => self.cluster.start(node, self.story)?,
            Fault::KillAll { .. } => {
                for node in 0..self.cluster.nodes.len() {
                    self.cluster.start(node, self.story)?;
                }
            }
            Fault::Pause { node, .. } => drop(self.cluster.node(node)?.resume()?),
            Fault::FillDisk { node, .. } => self.free_disk(cause, node)?,
            Fault::Isolate { node, .. } => drop(self.cluster.place.plug(node, true)),
            _ => {}
        }
        Ok(())
    }

    fn kill(&mut self, node: usize) -> anyhow::Result<bool> {
        let is_killed = self.cluster.node_mut(node)?.kill()?;
        if is_killed {
            self.suspects.remove(&node);
            self.story.note_node(node, "killed");
        }
        Ok(is_killed)
    }

    fn fill_disk(&mut self, cause: usize, node: usize) -> anyhow::Result<bool> {
        let process = self.cluster.node(node)?;
        process.disk.fill(process.pid())?;
        self.full.insert(cause, node);
        self.suspects.insert(node);
        Ok(process.is_up())
    }

    fn free_disk(&mut self, cause: usize, node: usize) -> anyhow::Result<()> {
        self.full.remove(&cause);
        if !self.full.values().any(|full| *full == node) {
            let process = self.cluster.node(node)?;
            process.disk.free(process.pid())?;
        }
        Ok(())
    }
}

/// When each fault begins and ends, in order of time.
fn edges(plan: &Plan, storm_ms: u64) -> Vec<(u64, Edge, usize)> {
    let both = |(cause, (at, fault)): (usize, &(u64, Fault))| {
        let end = (at + fault.lasts_ms()).min(storm_ms);
        [(*at, Edge::Begins, cause), (end, Edge::Ends, cause)]
    };
    let mut edges: Vec<_> = plan.faults.iter().enumerate().flat_map(both).collect();
    edges.sort_by_key(|(at, edge, _)| (*at, *edge));
    edges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_ends_no_later_than_the_storm_and_after_it_began() {
        let plan = Plan {
            faults: vec![(10, Fault::Pause { node: 0, for_ms: 500 }), (20, Fault::Reset { a: 0, b: 1 })],
        };
        let edges = edges(&plan, 100);
        let times: Vec<(u64, usize)> = edges.iter().map(|(at, _, cause)| (*at, *cause)).collect();
        assert_eq!(times, [(10, 0), (20, 1), (20, 1), (100, 0)]);
        assert!(edges[1].1 == Edge::Begins && edges[2].1 == Edge::Ends);
    }
}
