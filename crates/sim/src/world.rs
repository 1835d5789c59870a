//! A run: hosts, work and faults, then healing, then the verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use slipring_apps::KV;
use slipring_apps::kv::{Request, Response};
use slipring_model::{BucketId, ErrorKind};
use slipring_node::{Call, CallOptions, Clock};

use crate::check::{self, Violation};
use crate::clock::SimClock;
use crate::history::{Action, History, Operation, Outcome};
use crate::host::Host;
use crate::network::Network;
use crate::plan::{Fault, Plan};

/// How finely time is cut.
const TICK_MS: u64 = 2;
/// How long forming and healing may take, in simulated milliseconds.
const PATIENCE_MS: u64 = 60_000;
/// After healing: time for a hint to be delivered and an exchange to run.
const QUIET_MS: u64 = 6_000;

/// How large a run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Hosts in the cluster.
    pub hosts: usize,
    /// Simulated milliseconds of faults and work.
    pub duration_ms: u64,
    /// Requests of clients.
    pub operations: usize,
    /// What goes wrong; drawn from the seed when absent.
    pub plan: Option<Plan>,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: 3, duration_ms: 5_000, operations: 300, plan: None }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What happened, a line each.
    pub trace: String,
    /// How often each kind of fault really happened.
    pub faults: BTreeMap<&'static str, u64>,
    /// Requests by outcome: acknowledged, refused, unknown.
    pub outcomes: (usize, usize, usize),
    /// What is wrong, if anything.
    pub violation: Option<Violation>,
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    let mut world = World::new(seed, options.hosts);
    let violation = world.play(options).err();
    let operations = world.history.operations();
    for operation in &operations {
        let _ = writeln!(world.trace, "{operation:?}");
    }
    let count =
        |wanted: fn(&Operation) -> bool| operations.iter().filter(|operation| wanted(operation)).count();
    let refused = count(|operation| !operation.may_have_happened());
    let answered =
        count(|operation| matches!(operation.ended, Some((_, Outcome::Acknowledged | Outcome::Found(_)))));
    let outcomes = (answered, refused, operations.len() - answered - refused);
    Report { seed, trace: world.trace, faults: world.faults, outcomes, violation }
}

struct World {
    now_ms: u64,
    rng: fastrand::Rng,
    network: Network,
    clock: SimClock,
    hosts: Vec<Host>,
    history: History,
    trace: String,
    faults: BTreeMap<&'static str, u64>,
    /// What is to happen later: starts, heals.
    later: BTreeMap<(u64, u64), Later>,
    noted: u64,
    paused_until: BTreeMap<usize, u64>,
}

enum Later {
    Start(usize),
    Heal(usize, usize),
    Undelay,
}

impl World {
    fn new(seed: u64, hosts: usize) -> Self {
        let (network, clock) = (Network::new(seed ^ 0x006e_6574, hosts), SimClock::new());
        let host = |index| Host::new(index, network.clone(), clock.clone(), seed);
        Self {
            now_ms: 0,
            rng: fastrand::Rng::with_seed(seed),
            hosts: (0..hosts).map(host).collect(),
            network: network.clone(),
            clock: clock.clone(),
            history: History::default(),
            trace: String::new(),
            faults: BTreeMap::new(),
            later: BTreeMap::new(),
            noted: 0,
            paused_until: BTreeMap::new(),
        }
    }

    fn play(&mut self, options: &Options) -> Result<(), Violation> {
        self.form()?;
        let plan = match &options.plan {
            Some(plan) => plan.clone(),
            None => Plan::draw(&mut self.rng, options.hosts, options.duration_ms),
        };
        self.work(options, &plan);
        self.heal()?;
        let operations = self.history.operations();
        check::all(&self.hosts, &operations, self.faults.contains_key("power loss"))
    }

    /// Starts the hosts one after another and waits until all know all.
    fn form(&mut self) -> Result<(), Violation> {
        for index in 0..self.hosts.len() {
            if let Some(host) = self.hosts.get_mut(index) {
                host.start((index > 0).then_some(0));
            }
            self.tick_until("the cluster forms", |world| {
                world.hosts.get(index).is_some_and(|host| host.node.is_some())
            })?;
        }
        self.tick_until("every node knows every other", World::is_whole)
    }

    fn work(&mut self, options: &Options, plan: &Plan) {
        let began = self.now_ms;
        let mut faults = plan.0.iter().peekable();
        let every = (options.duration_ms / options.operations.max(1) as u64).max(1);
        let mut next_operation = began;
        let mut number = 0;
        while self.now_ms < began + options.duration_ms {
            while let Some((_, fault)) = faults.next_if(|(at, _)| began + at <= self.now_ms) {
                self.inflict(fault);
            }
            while next_operation <= self.now_ms && number < options.operations {
                self.ask(number);
                number += 1;
                next_operation += every;
            }
            self.tick();
        }
    }

    /// Undoes every fault and waits until nothing is left to repair.
    fn heal(&mut self) -> Result<(), Violation> {
        let later: Vec<Later> = std::mem::take(&mut self.later).into_values().collect();
        later.into_iter().for_each(|event| self.happen(event));
        self.paused_until.clear();
        self.note("healed".to_owned());
        self.tick_until("the cluster is whole again", World::is_whole)?;
        let until = self.now_ms + QUIET_MS;
        while self.now_ms < until {
            self.tick();
        }
        self.tick_until("replicas hold the same", |world| check::is_converged(&world.hosts))
    }

    fn is_whole(&self) -> bool {
        let ids: Vec<_> = self.hosts.iter().filter_map(Host::id).collect();
        ids.len() == self.hosts.len()
            && self.hosts.iter().all(|host| {
                let is_whole = host.enter(|node, _| {
                    node.layout().nodes().len() == ids.len() && ids.iter().all(|id| node.is_connected(*id))
                });
                is_whole == Some(true)
            })
    }

    fn tick_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let deadline = self.now_ms + PATIENCE_MS;
        while !is_so(self) {
            if self.now_ms > deadline {
                return Err(Violation(format!("waited {PATIENCE_MS} simulated ms in vain until {what}")));
            }
            self.tick();
        }
        self.note(what.to_owned());
        Ok(())
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        self.clock.advance(TICK_MS);
        let due: Vec<(u64, u64)> =
            self.later.range(..=(self.now_ms, u64::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            if let Some(event) = self.later.remove(&key) {
                self.happen(event);
            }
        }
        self.network.tick(self.now_ms);
        for host in &mut self.hosts {
            let is_paused = self.paused_until.get(&host.index).is_some_and(|until| self.now_ms < *until);
            if !is_paused {
                host.tick(Duration::from_millis(TICK_MS));
            }
        }
    }

    fn note(&mut self, what: String) {
        let _ = writeln!(self.trace, "{:>6} ms  {what}", self.now_ms);
    }

    fn at(&mut self, in_ms: u64, event: Later) {
        self.noted += 1;
        self.later.insert((self.now_ms + in_ms, self.noted), event);
    }

    fn happen(&mut self, event: Later) {
        match event {
            Later::Start(index) => {
                self.note(format!("host {index} starts"));
                if let Some(host) = self.hosts.get_mut(index).filter(|host| !host.is_up()) {
                    host.start(Some((index + 1) % 2));
                }
            }
            Later::Heal(from, to) => self.network.heal(from, to),
            Later::Undelay => self.network.delay(0),
        }
    }

    fn inflict(&mut self, fault: &Fault) {
        self.note(format!("{fault:?}"));
        let kind = match *fault {
            Fault::Crash { host, away_ms } => {
                self.crash(host, away_ms);
                "crash"
            }
            Fault::CrashAll { away_ms } => {
                (0..self.hosts.len()).for_each(|host| self.crash(host, away_ms));
                "crash of all"
            }
            Fault::PowerLoss { host, away_ms } => {
                let lost = self.hosts.get_mut(host).filter(|host| host.is_up()).map(Host::lose_power);
                self.note(format!("{lost:?} records were not synced"));
                self.at(away_ms, Later::Start(host));
                "power loss"
            }
            Fault::Cut { from, to, is_two_way, for_ms } => {
                self.network.cut(from, to);
                self.at(for_ms, Later::Heal(from, to));
                if is_two_way {
                    self.network.cut(to, from);
                    self.at(for_ms, Later::Heal(to, from));
                }
                "cut"
            }
            Fault::Delay { by_ms, for_ms } => {
                self.network.delay(by_ms);
                self.at(for_ms, Later::Undelay);
                "delay"
            }
            Fault::Reset { from, to } => {
                self.network.reset(from, to);
                "reset"
            }
            Fault::Pause { host, for_ms } => {
                self.paused_until.insert(host, self.now_ms + for_ms);
                "pause"
            }
        };
        *self.faults.entry(kind).or_default() += 1;
    }

    fn crash(&mut self, host: usize, away_ms: u64) {
        if let Some(host) = self.hosts.get_mut(host).filter(|host| host.is_up()) {
            host.die();
        }
        self.at(away_ms, Later::Start(host));
    }

    /// One request of a client, to a host that may be down.
    fn ask(&mut self, number: usize) {
        let host = self.rng.usize(0..self.hosts.len());
        let (key, action, request) = self.draw_request(number);
        let operation = Operation { key, action, host, began_ms: self.now_ms, ended: None };
        let index = self.history.begin(operation);
        let (history, clock, start) =
            (self.history.clone(), self.clock.clone(), self.clock.wall_ms() - self.now_ms);
        let asked = self.hosts.get(host).and_then(|host| {
            host.enter(|node, runtime| match node.call(&KV, BucketId(0), request, CallOptions::default()) {
                Call::Ready(result) => history.end(index, clock.wall_ms() - start, outcome(result)),
                Call::Pending(pending) => {
                    runtime.spawn(async move {
                        let result = pending.await;
                        history.end(index, clock.wall_ms() - start, outcome(result));
                    });
                }
            })
        });
        if asked.is_none() {
            self.history.end(index, self.now_ms, Outcome::Refused);
        }
    }

    fn draw_request(&mut self, number: usize) -> (String, Action, Request) {
        let hot = self.rng.usize(0..4);
        if self.rng.u8(0..4) == 0 {
            let key = format!("counter-{hot}");
            let delta = self.rng.i64(1..10);
            let request = Request::Add { key: key.clone().into(), delta };
            return (key, Action::Add(delta), request);
        }
        let key =
            if self.rng.bool() { format!("hot-{hot}") } else { format!("cold-{}", self.rng.usize(0..60)) };
        let bytes = bytes::Bytes::from(key.clone());
        match self.rng.u8(0..10) {
            0 => (key, Action::Delete, Request::Delete { key: bytes, seen: None }),
            1..=4 => (key, Action::Get, Request::Get { key: bytes }),
            _ => {
                let value = format!("value-{number}");
                (key, Action::Set(value.clone()), Request::set(bytes, value.into()))
            }
        }
    }
}

fn outcome(result: Result<Response, slipring_model::Error>) -> Outcome {
    match result {
        Ok(Response::Value(found)) => {
            Outcome::Found(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()))
        }
        Ok(_) => Outcome::Acknowledged,
        Err(error) if error.kind == ErrorKind::OutcomeUnknown => Outcome::Unknown,
        Err(_) => Outcome::Refused,
    }
}
