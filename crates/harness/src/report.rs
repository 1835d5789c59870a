//! What a run came to, and the story that a failed one leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use slipring_sim::check::Terms;
use slipring_sim::{Operation, Outcome, Violation};

use crate::cluster::Cluster;
use crate::plan::{KINDS, Plan};
use crate::proxy::Traffic;

/// What a run saw beside its history.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// Faults that really happened, by kind.
    pub happened: BTreeMap<&'static str, u64>,
    /// How often a node gave up because its disk was full.
    pub gave_up: u64,
    /// Records that were compared on disk, all copies together.
    pub records: usize,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many nodes there were.
    pub nodes: usize,
    /// Where they stood.
    pub place: &'static str,
    /// What was to go wrong.
    pub plan: Plan,
    /// What the proxies did to bytes and connections.
    pub traffic: Traffic,
    /// What else was seen.
    pub finding: Finding,
    /// How far nodes' clocks may have been from the one that times operations, in milliseconds.
    pub skew_ms: u64,
    /// Every operation of every client.
    pub operations: Vec<Operation>,
    /// What happened to whom, with the milliseconds since the run began.
    pub events: Vec<(u64, String)>,
    /// Whether every promise was kept.
    pub verdict: Result<(), Violation>,
}

impl Report {
    /// How many operations ended so that `is_so` holds.
    #[must_use]
    pub fn count(&self, is_so: impl Fn(Option<&Outcome>) -> bool) -> usize {
        let end = |operation: &&Operation| is_so(operation.end.as_ref().map(|(_, outcome)| outcome));
        self.operations.iter().filter(end).count()
    }

    /// The terms on which its history is judged. Killed processes lose nothing that they gave to the system.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms {
            skew_ms: self.skew_ms,
            late_ms: 0,
            hosts_that_lost_power: 0,
            is_thin: false,
            bereft: BTreeSet::new(),
        }
    }

    /// Writes the story and the nodes' logs to a folder of their own; where that is.
    pub(crate) fn keep(&self, folder: &Path, cluster: &Cluster) -> anyhow::Result<PathBuf> {
        let folder = folder.join(format!("failed-seed-{}", self.seed));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut lines = self.events.clone();
        lines.extend(self.operations.iter().map(|operation| (operation.start_ms, operation.describe())));
        lines.sort();
        let mut story = format!("{self}\n\n{:#?}\n\n", self.plan);
        story.extend(lines.iter().map(|(at, line)| format!("{at:>8} ms  {line}\n")));
        std::fs::write(folder.join("story.txt"), story)?;
        for (node, process) in cluster.nodes.iter().enumerate() {
            // A node that never wrote a line has no log.
            let _ = std::fs::copy(process.log(), folder.join(format!("node-{node}.log")));
        }
        eprintln!("the story of this run is in {}", folder.display());
        Ok(folder)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acked = self.operations.iter().filter(|operation| operation.acked_at().is_some()).count();
        let unknown = self.count(|end| matches!(end, None | Some(Outcome::Unknown(_))));
        let refused = self.count(|end| matches!(end, Some(Outcome::Refused(_))));
        writeln!(f, "seed {}: {} nodes {}", self.seed, self.nodes, self.place)?;
        writeln!(
            f,
            "  operations: {} in all, {acked} writes acknowledged, {unknown} unknown, {refused} refused",
            self.operations.len()
        )?;
        let faults: Vec<String> = KINDS
            .iter()
            .map(|kind| format!("{} {kind}", self.finding.happened.get(kind).copied().unwrap_or(0)))
            .collect();
        writeln!(f, "  faults:     {}", faults.join(", "))?;
        let Traffic { forwarded, held, dropped, delayed, throttled, broken, strangers } = self.traffic;
        writeln!(
            f,
            "  bytes:      {forwarded} forwarded, {held} held, {dropped} dropped, {delayed} delayed, {throttled} throttled"
        )?;
        writeln!(f, "  connections: {broken} broken, {strangers} from strangers")?;
        writeln!(
            f,
            "  disks:      a node gave up {} times; {} records compared; clocks within {} ms",
            self.finding.gave_up, self.finding.records, self.skew_ms
        )?;
        match &self.verdict {
            Ok(()) => write!(f, "  verdict:    every promise kept"),
            Err(violation) => write!(f, "  verdict:    VIOLATION of {violation}"),
        }
    }
}
