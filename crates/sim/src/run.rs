//! One run: form a cluster, let the storm loose, heal, and look whether every promise was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slipring_model::Mutant;
use slipring_ring::Command;

use crate::check::{check, check_layouts};
use crate::guest::{BUCKET, BUCKET_NAME, Guest, GuestFactory, Seat};
use crate::history::{Action, BucketKind, Operation, Outcome};
use crate::plan::Plan;
use crate::world::World;

/// How long a cluster may take to form, in simulated milliseconds.
const FORMING_MS: u64 = 20_000;
/// How long after the last fault everything must be served and equal again.
pub(crate) const HEALING_MS: u64 = 20_000;
/// How long one task of the run itself may take.
const TASK_MS: u64 = 10_000;

/// What nodes count of their repairs, and the name of each in a report.
const REPAIRS: [(&str, &str); 4] = [
    ("slipring_read_repairs_total ", "read repairs"),
    ("slipring_hints_delivered_total ", "hints delivered"),
    ("slipring_exchanged_keys_total ", "keys exchanged"),
    ("slipring_writes_repeated_total ", "writes repeated"),
];

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many hosts; 3, and 5 for every fifth seed, when absent.
    pub hosts: Option<usize>,
    /// How long clients and faults are at work, in simulated milliseconds.
    pub storm_ms: u64,
    /// What goes wrong; drawn from the seed when absent.
    pub plan: Option<Plan>,
    /// A mistake to plant in the nodes, to see it caught.
    pub mutant: Option<Mutant>,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: None, storm_ms: 8_000, plan: None, mutant: None }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How many hosts there were.
    pub hosts: usize,
    /// What was to go wrong.
    pub plan: Plan,
    /// What happened, line by line, with simulated milliseconds.
    pub trace: Vec<String>,
    /// A number over the trace and every byte that travelled.
    pub fingerprint: u64,
    /// How often each kind of thing happened, faults above all.
    pub counts: BTreeMap<&'static str, u64>,
    /// How many operations clients began.
    pub operations: usize,
    /// How long the run was for the cluster, in milliseconds, without the hours in which clients rested.
    pub simulated_ms: u64,
    /// How long clients rested because a host slept, in milliseconds.
    pub rested_ms: u64,
    /// How long the run took, in real time.
    pub took: Duration,
    /// Whether every promise was kept.
    pub verdict: Result<(), Violation>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker that found it.
    pub checker: &'static str,
    /// What happened.
    pub story: String,
}

impl Violation {
    /// One that this checker found.
    pub fn new(checker: &'static str, story: impl Into<String>) -> Self {
        Self { checker, story: story.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.story)
    }
}

impl std::error::Error for Violation {}

impl Report {
    /// The whole run for people: what went wrong, then every event, with simulated milliseconds.
    #[must_use]
    pub fn story(&self) -> String {
        let plan = self.plan.faults.iter().map(|(at, fault)| format!("{at:>6} {fault:?}\n"));
        let plan: String = plan.collect();
        let trace = self.trace.join("\n");
        format!("{self}\n\nFaults, by their time in the storm\n{plan}\nEvents\n{trace}\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {} hosts, {} operations", self.seed, self.hosts, self.operations)?;
        for (what, times) in &self.counts {
            write!(f, ", {times} {what}")?;
        }
        match &self.verdict {
            Ok(()) => write!(f, ": every promise kept"),
            Err(violation) => write!(f, ": VIOLATION of {violation}"),
        }
    }
}

/// Runs one seed. The same seed and options give the same report.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    run_with(seed, options, None)
}

/// Runs one seed with a guest's service and clients instead of the built-in ones.
pub(crate) fn run_with(seed: u64, options: &Options, guest: Option<&GuestFactory>) -> Report {
    let hosts = options.hosts.unwrap_or(if seed % 5 == 4 { 5 } else { 3 });
    let plan = options.plan.clone().unwrap_or_else(|| {
        let mut plan = Plan::draw(seed, hosts, options.storm_ms);
        // A guest's clients do not rest: hours of them would take minutes. Its bucket is as it asks for.
        if guest.is_none() {
            plan.send_to_sleep(seed, hosts, options.storm_ms);
            plan.respread(seed, options.storm_ms);
            plan.lose_majority(seed, hosts, options.storm_ms);
            plan.aim(seed, options.storm_ms);
            plan.set_clocks(seed, hosts, options.storm_ms);
            plan.jump(seed, hosts, options.storm_ms);
            plan.relocate(seed, hosts, options.storm_ms);
        }
        plan
    });
    Mutant::plant(options.mutant);
    let world = World::new(seed, (hosts, plan.hosts(hosts)), guest.map(|guest| guest()));
    run_world(world, plan, |world, plan| world.run_phases(plan, options.storm_ms))
}

/// Runs a world through its phases and reports.
pub(crate) fn run_world(
    mut world: World,
    plan: Plan,
    phases: impl FnOnce(&mut World, &Plan) -> Result<(), Violation>,
) -> Report {
    let (seed, hosts, began) = (world.seed, world.founders, Instant::now());
    let phases = catch_unwind(AssertUnwindSafe(|| phases(&mut world, &plan)));
    let verdict = phases.unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        Err(Violation::new("no_panic", format!("a node or the simulator panicked: {message}")))
    });
    let operations = world.workload.history.operations();
    let guest_requests = world.guest.as_ref().map_or(0, |guest| guest.requests());
    for operation in &operations {
        world.journal.count(outcome_name(operation), 1);
    }
    let rested_ms = world.rested_ms;
    let simulated_ms = world.journal.now_ms() - rested_ms;
    let record = world.journal.close();
    drop(world);
    Mutant::plant(None);
    Report {
        seed,
        hosts,
        plan,
        trace: record.lines,
        fingerprint: record.fingerprint,
        counts: record.counts,
        operations: operations.len() + guest_requests,
        simulated_ms,
        rested_ms,
        took: began.elapsed(),
        verdict,
    }
}

/// The first of these seeds whose run breaks a promise.
#[must_use]
pub fn find_failure(mut seeds: Range<u64>, options: &Options) -> Option<Report> {
    seeds.find_map(|seed| Some(run(seed, options)).filter(|report| report.verdict.is_err()))
}

/// Runs many seeds on so many threads and hands over each report as it comes, in no order.
pub fn run_all(seeds: Range<u64>, threads: usize, options: &Options, each: impl FnMut(Report) + Send) {
    let (seeds, each) = (Mutex::new(seeds), Mutex::new(each));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().next() else { return };
                    let report = run(seed, options);
                    (*each.lock())(report);
                }
            });
        }
    });
}

fn outcome_name(operation: &Operation) -> &'static str {
    match &operation.end {
        None => "operations never answered",
        Some((_, Outcome::Unknown(_))) => "outcomes unknown",
        Some((_, Outcome::Refused(_))) => "refusals",
        Some(_) => "operations answered",
    }
}

impl World {
    fn run_phases(&mut self, plan: &Plan, storm_ms: u64) -> Result<(), Violation> {
        self.form()?;
        self.storm(plan, storm_ms)?;
        self.heal();
        self.go_on_without_majority()?;
        self.settle_moves()?;
        let terms = self.terms(plan, storm_ms);
        if let Some(guest) = self.guest.clone() {
            return self.check_guest(&guest);
        }
        self.serve()?;
        self.clean_up()?;
        let convergence = self.converge().and_then(|()| self.look_at_copies(&terms));
        self.count_repairs();
        self.read_everything()?;
        let operations = self.workload.history.operations();
        if let Some(before) = self.before_the_loss(&operations) {
            check(&before, &self.terms_before_the_loss(&terms))?;
        }
        let coverage = check(&operations, &terms)?;
        check_layouts(&self.observations)?;
        coverage.into_iter().for_each(|(what, times)| self.journal.count(what, times));
        convergence?;
        self.see_each_other()?;
        self.see_a_death()
    }

    /// Looks at everything a guest knows of, on every host, until all is answered, and applies its rules.
    fn check_guest(&mut self, guest: &Arc<dyn Guest>) -> Result<(), Violation> {
        let end = self.journal.now_ms() + HEALING_MS;
        for host in self.members() {
            while !self.is_looked_through(guest, host)? {
                if self.journal.now_ms() >= end {
                    let story = format!("host {host} does not answer every last request in {HEALING_MS} ms");
                    return Err(Violation::new("serving", story));
                }
            }
        }
        self.clean_up()?;
        self.converge()?;
        check_layouts(&self.observations)?;
        guest.check()
    }

    /// Whether a host answers all that a guest asks of it, after a little time when it does not.
    fn is_looked_through(&mut self, guest: &Arc<dyn Guest>, host: usize) -> Result<bool, Violation> {
        if let Some(node) = self.node(host) {
            let seat = Seat::new(node, format!("reader-{host}"), self.seed, Arc::clone(&self.journal));
            if self.run_task(host, TASK_MS, Arc::clone(guest).look(seat))? == Some(true) {
                return Ok(true);
            }
        }
        self.run_until(100, |_| false)?;
        Ok(false)
    }

    /// Founds a cluster on host 0, lets the others join in turn, and makes the other buckets.
    fn form(&mut self) -> Result<(), Violation> {
        let failed = |what: String| Violation::new("forming", what);
        for host in 0..self.founders {
            self.start(host);
            if !self.run_until(FORMING_MS, |world| world.node(host).is_some())? {
                return Err(failed(format!("host {host} did not start in time")));
            }
        }
        let buckets = match &self.guest {
            Some(guest) => vec![(BUCKET_NAME, guest.policy())],
            None => BucketKind::created().map(|(bucket, policy)| (bucket.name(), policy)).to_vec(),
        };
        for (name, policy) in buckets {
            let name = name.parse().expect("the name is valid");
            let node = self.node(0).ok_or_else(|| failed("host 0 is gone".to_owned()))?;
            let command = Command::CreateBucket { name, policy };
            let created = self.run_task(0, TASK_MS, async move { node.propose(command).await })?;
            if !matches!(created, Some(Ok(_))) {
                return Err(failed(format!("a bucket could not be made: {created:?}")));
            }
        }
        let is_formed = |world: &mut Self| (0..world.founders).all(|host| world.is_formed(host));
        if self.run_until(FORMING_MS, is_formed)? {
            let id = |host| self.node(host).map(|node| node.id()).unwrap_or_default();
            self.ids = (0..self.hosts.len()).map(id).collect();
            return Ok(());
        }
        Err(failed("not every host has met every other in time".to_owned()))
    }

    fn is_formed(&self, host: usize) -> bool {
        let nodes: Vec<_> = (0..self.founders).filter_map(|host| self.node(host)).collect();
        self.node(host).is_some_and(|node| {
            let knows = |bucket: BucketKind| node.bucket_named(bucket.name()) == Some(bucket.id());
            let knows_all = match &self.guest {
                Some(_) => node.has_bucket(BUCKET),
                None => BucketKind::ALL.into_iter().all(knows),
            };
            nodes.len() == self.founders
                && node.layout().nodes().len() == self.founders
                && !node.layout().is_moving()
                && knows_all
                && nodes.iter().all(|peer| node.is_connected(peer.id()))
        })
    }

    /// Every node must take a write to every bucket again.
    fn serve(&mut self) -> Result<(), Violation> {
        let end = self.journal.now_ms() + HEALING_MS;
        for host in self.members() {
            for bucket in BucketKind::ALL {
                while self.can_be_answered(bucket, &probe_key(host)) && !self.probe(host, bucket)? {
                    if self.journal.now_ms() >= end {
                        let story = format!(
                            "host {host} takes no write to {bucket:?}, {HEALING_MS} ms after healing"
                        );
                        return Err(Violation::new("serving", story));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn probe(&mut self, host: usize, bucket: BucketKind) -> Result<bool, Violation> {
        let label = format!("probe-{}", self.journal.now_ms());
        let Some(mut client) = self.client(host, &label) else {
            self.run_until(100, |_| false)?;
            return Ok(false);
        };
        let action = Action::Set { value: client.fresh_value(), expires_at: None };
        let task = async move { client.perform(bucket, probe_key(host), action, false).await };
        if self.run_task(host, TASK_MS, task)? == Some(Outcome::Written) {
            return Ok(true);
        }
        self.run_until(100, |_| false)?;
        Ok(false)
    }

    /// Reads every key that any client ever named, on every host.
    fn read_everything(&mut self) -> Result<(), Violation> {
        let operations = self.workload.history.operations();
        let mut keys: BTreeSet<(BucketKind, String)> =
            operations.into_iter().map(|operation| (operation.bucket, operation.key)).collect();
        keys.retain(|(bucket, key)| self.can_be_answered(*bucket, key));
        for host in self.members() {
            let client = self.client(host, "reader").ok_or_else(|| down(host))?;
            let keys = keys.clone();
            let task = async move {
                let read = |(bucket, key): (BucketKind, String)| {
                    let action = bucket.look(&key);
                    client.perform(bucket, key, action, true)
                };
                futures::future::join_all(keys.into_iter().map(read)).await
            };
            let answers = self.run_task(host, TASK_MS, task)?.unwrap_or_default();
            if answers.is_empty() || !answers.iter().all(Outcome::is_answer) {
                let other = answers.into_iter().find(|outcome| !outcome.is_answer());
                let story = format!("host {host} does not answer every last read: {other:?}");
                return Err(Violation::new("serving", story));
            }
        }
        Ok(())
    }

    /// Counts what the nodes did to repair each other, since each last started.
    fn count_repairs(&self) {
        for node in (0..self.hosts.len()).filter_map(|host| self.node(host)) {
            let metrics = node.metrics();
            for (metric, what) in REPAIRS {
                let lines =
                    metrics.lines().filter_map(|line| line.strip_prefix(metric)?.trim().parse::<u64>().ok());
                self.journal.count(what, lines.sum());
            }
        }
    }
}

pub(crate) fn probe_key(host: usize) -> String {
    format!("register-probe-{host}")
}

pub(crate) fn down(host: usize) -> Violation {
    Violation::new("serving", format!("host {host} is not up again"))
}
