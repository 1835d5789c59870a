//! The world of a run: it moves time in ticks, lets hosts run in turn, and makes faults happen.
//!
//! Nothing crosses the network in less than a tick, so the order of hosts within one does not matter to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slipring_node::Node;

use crate::check::{Observations, Terms};
use crate::host::Host;
use crate::journal::Journal;
use crate::network::{Network, address};
use crate::plan::{Fault, Plan};
use crate::run::Violation;
use crate::sabotage::Sabotage;
use crate::workload::{Client, Workload};

/// How far time moves at once, in milliseconds.
const TICK_MS: u64 = 2;
/// Clients on each host.
const CLIENTS_PER_HOST: u64 = 2;

/// All of it.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Arc<Network>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) workload: Arc<Workload>,
    /// What is to happen, by time and the order in which it was decided.
    agenda: BTreeMap<(u64, u64), Event>,
    decisions: u64,
    lost_power: BTreeSet<usize>,
    /// Hosts whose nodes have reason to stop by themselves.
    failing: BTreeSet<usize>,
    /// Per host, the life whose clients are at work.
    served: Vec<u64>,
    is_storming: bool,
    /// What hosts showed of the layout and its group.
    pub(crate) observations: Observations,
}

#[derive(Clone, Copy)]
enum Event {
    Fault(Fault),
    Start { host: usize },
    ReplaceDisk { host: usize },
    Unblock { from: usize, to: usize },
    Hasten { from: usize, to: usize },
    Resume { host: usize, life: u64 },
}

impl World {
    pub(crate) fn new(seed: u64, hosts: usize, sabotage: Option<Sabotage>) -> Self {
        let journal = Arc::new(Journal::default());
        let host = |index| Host::new(index, seed, sabotage, Arc::clone(&journal));
        Self {
            seed,
            hosts: (0..hosts).map(host).collect(),
            network: Arc::new(Network::new(seed, hosts, Arc::clone(&journal))),
            workload: Arc::new(Workload::new(Arc::clone(&journal))),
            journal,
            agenda: BTreeMap::new(),
            decisions: 0,
            lost_power: BTreeSet::new(),
            failing: BTreeSet::new(),
            served: vec![0; hosts],
            is_storming: false,
            observations: Observations::default(),
        }
    }

    /// What the checkers must know of this run.
    pub(crate) fn terms(&self, plan: &Plan) -> Terms {
        Terms { skew_ms: plan.skew_ms(), hosts_that_lost_power: self.lost_power.len() }
    }

    /// Starts a host's process.
    pub(crate) fn start(&mut self, host: usize) {
        let seeds = if host == 0 { Vec::new() } else { vec![address(0)] };
        self.failing.remove(&host);
        let network = Arc::clone(&self.network);
        let host = self.host(host);
        if host.process.is_none() {
            host.disk.fail_with(None);
            host.start(&network, seeds);
            let (index, life) = (host.index, host.lives());
            self.journal.note(format_args!("host {index} starts for the {life}. time"));
        }
    }

    /// Lets faults and clients loose for so long.
    pub(crate) fn storm(&mut self, plan: &Plan, for_ms: u64) -> Result<(), Violation> {
        let begin = self.journal.now_ms();
        plan.faults.iter().for_each(|(at, fault)| self.decide(begin + at, Event::Fault(*fault)));
        self.is_storming = true;
        while self.journal.now_ms() < begin + for_ms {
            self.tick()?;
        }
        self.is_storming = false;
        self.workload.close();
        Ok(())
    }

    /// Ends every fault and starts whoever is down.
    pub(crate) fn heal(&mut self) {
        self.journal.note(format_args!("everything heals"));
        self.agenda.clear();
        self.network.heal();
        for index in 0..self.hosts.len() {
            self.resume(index);
            let host = self.host(index);
            host.clock.set_skew(0);
            host.disk.fail_with(None);
            self.start(index);
        }
    }

    /// Moves time on by one tick.
    pub(crate) fn tick(&mut self) -> Result<(), Violation> {
        let now = self.journal.now_ms();
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            let event = entry.remove();
            self.happen(now, event);
        }
        self.network.step();
        for index in 0..self.hosts.len() {
            let network = Arc::clone(&self.network);
            self.host(index).run(&network, Duration::from_millis(TICK_MS));
            self.look_after(index)?;
            if let Some(node) = self.node(index) {
                let life = self.host(index).lives();
                self.observations.look(index, life, now, &node);
            }
        }
        self.journal.advance_to(now + TICK_MS);
        Ok(())
    }

    /// Moves time on until `is_done`, at most for so long; whether it was.
    pub(crate) fn run_until(
        &mut self,
        for_ms: u64,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool, Violation> {
        let end = self.journal.now_ms() + for_ms;
        while self.journal.now_ms() < end {
            if is_done(self) {
                return Ok(true);
            }
            self.tick()?;
        }
        Ok(false)
    }

    /// Runs a task on a host while time moves on; `None` when it took longer than that.
    pub(crate) fn run_task<T: Send + 'static>(
        &mut self,
        host: usize,
        for_ms: u64,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Result<Option<T>, Violation> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        let Some(process) = &self.host(host).process else { return Ok(None) };
        process.runtime.spawn(async move {
            let value = task.await;
            *slot.lock() = Some(value);
        });
        self.run_until(for_ms, |_| result.lock().is_some())?;
        Ok(result.lock().take())
    }

    /// A host's node, when it is up.
    pub(crate) fn node(&self, host: usize) -> Option<Node> {
        self.hosts.get(host)?.node()
    }

    /// A client on a host, when its node is up.
    pub(crate) fn client(&self, host: usize, name: &str) -> Option<Client> {
        let node = self.node(host)?;
        Some(Client::new(Arc::clone(&self.workload), node, format!("{name}-{host}"), self.seed))
    }

    fn host(&mut self, index: usize) -> &mut Host {
        self.hosts.get_mut(index).expect("plans and loops stay within the hosts")
    }

    fn decide(&mut self, at: u64, event: Event) {
        self.decisions += 1;
        self.agenda.insert((at, self.decisions), event);
    }

    /// Puts clients on a node that has started; ends one that stopped for a reason.
    fn look_after(&mut self, index: usize) -> Result<(), Violation> {
        if let Some(reason) = self.host(index).failure() {
            if !self.failing.contains(&index) {
                return Err(Violation::new("no_stop", format!("host {index} stopped by itself: {reason}")));
            }
            self.journal.note(format_args!("host {index} stops: {reason}"));
            self.journal.count("stops because of the disk", 1);
            self.kill(index, true);
        }
        let life = self.host(index).lives();
        let is_served = self.served.get(index) == Some(&life);
        if self.is_storming
            && !is_served
            && let Some(node) = self.node(index)
        {
            self.put_clients(index, life, &node);
        }
        Ok(())
    }

    fn put_clients(&mut self, index: usize, life: u64, node: &Node) {
        if let Some(served) = self.served.get_mut(index) {
            *served = life;
        }
        let workload = Arc::clone(&self.workload);
        let seed = self.seed;
        let Some(process) = &self.host(index).process else { return };
        for number in 0..CLIENTS_PER_HOST {
            let name = format!("client-{index}-{life}-{number}");
            let seed = seed.wrapping_mul(1_009).wrapping_add(index as u64 * 10_007 + life * 101 + number);
            process.runtime.spawn(Client::new(Arc::clone(&workload), node.clone(), name, seed).run());
        }
    }

    fn happen(&mut self, now: u64, event: Event) {
        match event {
            Event::Fault(fault) => self.strike(now, fault),
            Event::Start { host } => self.start(host),
            Event::ReplaceDisk { host } => {
                self.kill(host, true);
                self.start(host);
            }
            Event::Unblock { from, to } => self.network.unblock(from, to),
            Event::Hasten { from, to } => self.network.slow(from, to, 0),
            Event::Resume { host, life } if self.host(host).lives() == life => self.resume(host),
            Event::Resume { .. } => {}
        }
    }

    fn strike(&mut self, now: u64, fault: Fault) {
        self.journal.note(format_args!("{fault:?}"));
        match fault {
            Fault::Kill { host, down_ms, loses_power } => {
                self.kill(host, loses_power);
                self.decide(now + down_ms, Event::Start { host });
            }
            Fault::KillAll { down_ms, loses_power } => {
                for host in 0..self.hosts.len() {
                    self.kill(host, loses_power);
                    self.decide(now + down_ms + host as u64 * 150, Event::Start { host });
                }
            }
            Fault::Cut { from, to, for_ms } => self.cut(from, to, now + for_ms),
            Fault::Isolate { host, for_ms } => {
                for other in (0..self.hosts.len()).filter(|other| *other != host) {
                    self.cut(host, other, now + for_ms);
                    self.cut(other, host, now + for_ms);
                }
            }
            Fault::Slow { from, to, by_ms, for_ms } => {
                self.network.slow(from, to, by_ms);
                self.journal.count("slow ways", 1);
                self.decide(now + for_ms, Event::Hasten { from, to });
            }
            Fault::Reset { a, b } => self.network.reset(a, b),
            Fault::Pause { host, for_ms } => self.pause(host, now + for_ms),
            Fault::Skew { host, by_ms } => {
                self.host(host).clock.set_skew(by_ms);
                self.journal.count("clock jumps", 1);
            }
            Fault::FailDisk { host, down_ms } => {
                let error = slipring_storage::Error::Stopped("the simulated disk failed".to_owned());
                self.host(host).disk.fail_with(Some(error));
                self.failing.insert(host);
                self.journal.count("disk failures", 1);
                self.decide(now + down_ms, Event::ReplaceDisk { host });
            }
        }
    }

    fn kill(&mut self, index: usize, loses_power: bool) {
        let network = Arc::clone(&self.network);
        let host = self.host(index);
        if host.process.is_none() {
            return;
        }
        let lost = host.kill(&network, loses_power);
        self.journal.note(format_args!("host {index} is dead; {lost} records lost"));
        self.journal.count("process deaths", 1);
        self.journal.count("records lost", lost as u64);
        if loses_power {
            self.journal.count("power losses", 1);
            self.lost_power.insert(index);
        }
    }

    fn cut(&mut self, from: usize, to: usize, until: u64) {
        self.network.block(from, to);
        self.journal.count("ways cut", 1);
        self.decide(until, Event::Unblock { from, to });
    }

    fn pause(&mut self, index: usize, until: u64) {
        let host = self.host(index);
        if host.process.is_none() || host.is_paused {
            return;
        }
        host.is_paused = true;
        let life = host.lives();
        self.network.set_paused(index, true);
        self.journal.count("pauses", 1);
        self.decide(until, Event::Resume { host: index, life });
    }

    fn resume(&mut self, index: usize) {
        self.host(index).is_paused = false;
        self.network.set_paused(index, false);
    }
}
