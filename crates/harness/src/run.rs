//! One run: form a cluster, let the storm loose, heal, and look whether every promise was kept.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use fastrand::Rng;
use slipring_sim::check::{Terms, check};
use slipring_sim::{Action, BucketKind, History, Operation, Outcome, Violation};

use crate::client::Client;
use crate::cluster::Cluster;
use crate::copies;
use crate::place::Place;
use crate::plan::Plan;
use crate::report::{Finding, Report};
use crate::storm::Storm;
use crate::story::Story;
use crate::wait::{LOOK, is_interrupted, rest, wait};
use crate::workload::{BUCKETS, work};

/// How long after the last fault everything must be served and equal again.
const HEALING: Duration = Duration::from_secs(30);
/// How long nothing may be repaired before a cluster counts as settled: several exchanges.
const SETTLED: Duration = Duration::from_millis(2_500);
/// Clients of each node.
const CLIENTS_PER_NODE: usize = 2;

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the plan and the clients are drawn from.
    pub seed: u64,
    /// How many nodes, 2 to 200.
    pub nodes: usize,
    /// How long clients and faults are at work.
    pub storm: Duration,
    /// What goes wrong; drawn from the seed when absent.
    pub plan: Option<Plan>,
    /// Whether each node stands in a network namespace of its own.
    pub is_netns: bool,
    /// The server to run.
    pub binary: PathBuf,
    /// Where data and logs go while it runs, and the story of a failed run afterwards.
    pub folder: PathBuf,
}

/// Where a run is, for whoever watches it.
pub type Watch<'a> = &'a (dyn Fn(&str, f64) + Sync);

/// Runs once. `watch` is told the phase, and how much of the storm is over, from 0 to 1.
///
/// # Errors
/// The cluster does not form, or the run was given up; whatever else goes wrong is in the report.
pub fn run(options: &Options, watch: Watch<'_>) -> anyhow::Result<Report> {
    let storm_ms = u64::try_from(options.storm.as_millis()).context("the storm is too long")?;
    let plan = options.plan.clone().unwrap_or_else(|| Plan::draw(options.seed, options.nodes, storm_ms));
    let place = if options.is_netns { Place::namespaces(options.nodes)? } else { Place::loopback() };
    std::fs::create_dir_all(&options.folder).with_context(|| options.folder.display().to_string())?;
    let home = tempfile::TempDir::with_prefix_in("run-", &options.folder)?;
    let (story, history) = (Story::begin(), History::default());
    watch("forming", 0.0);
    let mut cluster = Cluster::form(place, options.nodes, &options.binary, home.path(), &story)?;
    let mut run = Run {
        options,
        cluster: &mut cluster,
        story: &story,
        history: &history,
        watch,
        finding: Finding::default(),
    };
    let verdict = match run.phases(&plan, storm_ms) {
        Err(error) if is_interrupted() => return Err(error),
        // What kept a phase from being carried out is told like a broken promise: it leaves a story too.
        Err(error) => Err(Violation::new("no_failure", format!("{error:#}"))),
        Ok(verdict) => verdict,
    };
    let finding = run.finding;
    let verdict = verdict.and_then(|()| cluster.panic().map_or(Ok(()), Err));
    let report = Report {
        seed: options.seed,
        nodes: options.nodes,
        place: cluster.place.describe(),
        plan,
        traffic: cluster.proxies.traffic(),
        finding,
        skew_ms: story.skew_ms(),
        operations: history.operations(),
        events: story.lines(),
        verdict,
    };
    if report.verdict.is_err() {
        report.keep(&options.folder, &cluster)?;
    }
    Ok(report)
}

struct Run<'a> {
    options: &'a Options,
    cluster: &'a mut Cluster,
    story: &'a Story,
    history: &'a History,
    watch: Watch<'a>,
    finding: Finding,
}

type Verdict = anyhow::Result<Result<(), Violation>>;

/// Goes on when a phase kept its promises, else ends with what it found.
macro_rules! keeps {
    ($phase:expr) => {
        if let Err(violation) = $phase? {
            return Ok(Err(violation));
        }
    };
}

impl<'a> Run<'a> {
    fn phases(&mut self, plan: &Plan, storm_ms: u64) -> Verdict {
        keeps!(self.storm(plan, storm_ms));
        (self.watch)("healing", 1.0);
        keeps!(self.serve());
        (self.watch)("converging", 1.0);
        keeps!(self.converge());
        (self.watch)("reading everything", 1.0);
        keeps!(self.read_everything());
        (self.watch)("checking", 1.0);
        let terms = Terms {
            skew_ms: self.story.skew_ms(),
            late_ms: 0,
            hosts_that_lost_power: 0,
            is_thin: false,
            bereft: BTreeSet::new(),
        };
        Ok(check(&self.history.operations(), &terms).map(drop))
    }

    /// Clients and faults at work, then the end of all faults.
    fn storm(&mut self, plan: &Plan, storm_ms: u64) -> Verdict {
        let clients = self.clients("client")?;
        let (story, watch) = (self.story, self.watch);
        let (is_over, mut seed) = (AtomicBool::new(false), Rng::with_seed(self.options.seed ^ 0x776f_726b));
        let mut storm = Storm::new(self.cluster, story);
        let verdict = std::thread::scope(|scope| {
            for client in clients {
                let rng = seed.fork();
                let is_over = &is_over;
                scope.spawn(move || work(client, rng, story, is_over));
            }
            let run = storm.run(plan, storm_ms, |passed| watch("storm", passed as f64 / storm_ms as f64));
            is_over.store(true, Ordering::Relaxed);
            run
        });
        self.finding.happened = std::mem::take(&mut storm.happened);
        self.finding.gave_up = storm.gave_up;
        keeps!(verdict);
        keeps!(storm.heal());
        // A node may notice only now that its disk was full, and must be started once more.
        let deadline = self.story.now_ms() + HEALING.as_millis() as u64;
        let mut violation = None;
        while violation.is_none() && !storm.is_whole()? {
            violation = storm.look_after()?;
            if self.story.now_ms() > deadline {
                violation = Some(Violation::new(
                    "healing",
                    format!("not every node reaches every other, {HEALING:?} after the last fault"),
                ));
            }
            rest(LOOK)?;
        }
        self.finding.gave_up = storm.gave_up;
        Ok(violation.map_or(Ok(()), Err))
    }

    fn clients(&self, name: &str) -> anyhow::Result<Vec<Client<'a>>> {
        let mut clients = Vec::new();
        for node in 0..self.options.nodes {
            for number in 0..CLIENTS_PER_NODE {
                clients.push(self.client(&format!("{name}-{number}"), node)?);
            }
        }
        Ok(clients)
    }

    fn client(&self, name: &str, node: usize) -> anyhow::Result<Client<'a>> {
        let address = self.cluster.node(node)?.addresses()?.redis;
        Ok(Client::new(format!("{name}@{node}"), address, self.story, self.history))
    }

    /// Every node must take a write to every bucket again.
    fn serve(&mut self) -> Verdict {
        for node in 0..self.options.nodes {
            let mut client = self.client("prober", node)?;
            for bucket in BUCKETS {
                let mut last = Outcome::Written;
                let is_served = wait(HEALING, || {
                    let action = Action::Set { value: client.fresh_value(), expires_at: None };
                    last = client.perform(bucket, format!("register-probe-{node}"), action, false);
                    Ok(last == Outcome::Written)
                })?;
                if !is_served {
                    let story = format!(
                        "node {node} takes no write to {bucket:?}, {HEALING:?} after healing: {last:?}"
                    );
                    return Ok(Err(Violation::new("serving", story)));
                }
            }
        }
        Ok(Ok(()))
    }

    /// All replicas of each partition must come to hold the same. Nodes are stopped for each comparison, in good
    /// order, and started again.
    fn converge(&mut self) -> Verdict {
        let deadline_ms = self.story.now_ms() + HEALING.as_millis() as u64;
        loop {
            let is_settled = self.settle()?;
            let layout = self.cluster.layout()?;
            let ids: Result<Vec<_>, _> =
                (0..self.options.nodes).map(|node| Ok(self.cluster.status(node)?.node)).collect();
            let ids = ids.map_err(|error: anyhow::Error| error)?;
            for node in 0..self.options.nodes {
                let status = self.cluster.node_mut(node)?.terminate()?;
                self.story.note_node(node, &format!("ended when asked to, {status}"));
                if !status.success() {
                    let log = self.cluster.node(node)?.log_tail();
                    return Ok(Err(Violation::new("ending", format!("node {node} ended, {status}:\n{log}"))));
                }
            }
            let nodes: Vec<_> = ids.into_iter().zip(self.cluster.directories()).collect();
            let compared = copies::compare(&layout, &nodes, self.story.unix_ms(self.story.now_ms()))?;
            for node in 0..self.options.nodes {
                self.cluster.start(node, self.story)?;
            }
            self.cluster.wait_until_whole(HEALING)?;
            match compared {
                Ok(records) => self.finding.records = records,
                Err(violation) if self.story.now_ms() > deadline_ms => return Ok(Err(violation)),
                Err(violation) => {
                    self.story.note(format!("not yet the same: {violation}"));
                    continue;
                }
            }
            self.story.note(format!("all copies are the same; settled before: {is_settled}"));
            return Ok(Ok(()));
        }
    }

    /// Waits until nodes have nothing left to repair; `false` when that does not come.
    fn settle(&mut self) -> anyhow::Result<bool> {
        let (mut last, mut since_ms) = (None, self.story.now_ms());
        wait(HEALING, || {
            let mut repairs = (0, 0);
            for node in 0..self.options.nodes {
                repairs.0 += self.cluster.metric(node, "slipring_exchanged_keys_total ")?;
                repairs.1 += self.cluster.metric(node, "slipring_hints_waiting ")?;
            }
            if last.replace(repairs) != Some(repairs) || repairs.1 > 0 {
                since_ms = self.story.now_ms();
            }
            Ok(self.story.now_ms() - since_ms >= SETTLED.as_millis() as u64)
        })
    }

    /// Reads every key that any client ever named, on every node.
    fn read_everything(&mut self) -> Verdict {
        let operations = self.history.operations();
        let keys: BTreeSet<(BucketKind, String)> =
            operations.into_iter().map(|Operation { bucket, key, .. }| (bucket, key)).collect();
        for node in 0..self.options.nodes {
            let mut client = self.client("reader", node)?;
            for (bucket, key) in &keys {
                let mut last = Outcome::Written;
                let is_answered = wait(HEALING, || {
                    last = client.perform(*bucket, key.clone(), bucket.look(key), true);
                    Ok(last.is_answer())
                })?;
                if !is_answered {
                    let story =
                        format!("node {node} does not answer a last read of {bucket:?}/{key}: {last:?}");
                    return Ok(Err(Violation::new("serving", story)));
                }
            }
        }
        Ok(Ok(()))
    }
}
