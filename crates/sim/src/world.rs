//! The world of a run: it moves time in ticks, lets hosts run in turn, and makes faults happen.
//!
//! What faults do is in `faults`, whom some of them are aimed at in `aim`.
//!
//! Nothing crosses the network in less than a tick, so the order of hosts within one does not matter to them.

mod aim;
mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use slipring_model::{NodeId, Room};
use slipring_node::Node;
use slipring_ring::NodeState;

use crate::check::{Observations, Terms};
use crate::guest::{Guest, Seat};
use crate::history::BucketKind;
use crate::host::Host;
use crate::journal::Journal;
use crate::network::Network;
use crate::operator::Operator;
use crate::plan::{Fault, Part, Plan};
use crate::recovery::Losses;
use crate::run::Violation;
use crate::workload::{Client, Workload};

/// How far time moves at once, in milliseconds.
const TICK_MS: u64 = 2;
/// How far while clients rest because a host sleeps for hours.
const QUIET_TICK_MS: u64 = 20;
/// How long the storm goes on once it has woken.
const AWAKE_MS: u64 = 4_000;
/// Clients on each host.
const CLIENTS_PER_HOST: u64 = 2;

/// All of it.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) network: Arc<Network>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) workload: Arc<Workload>,
    /// Whose service and clients are at work instead of the built-in ones.
    pub(crate) guest: Option<Arc<dyn Guest>>,
    /// What is to happen, by time and the order in which it was decided.
    agenda: BTreeMap<(u64, u64), Event>,
    decisions: u64,
    pub(crate) lost_power: BTreeSet<usize>,
    /// Hosts whose nodes have reason to stop by themselves, until they are started again.
    failing: BTreeSet<usize>,
    /// Hosts that must not take part again: their directories were lost or rolled back.
    out: BTreeSet<usize>,
    /// Hosts on whose disks bits have flipped.
    damaged: BTreeSet<usize>,
    /// Per host, the life whose clients are at work.
    served: Vec<u64>,
    is_storming: bool,
    /// How long clients rested because a host slept.
    pub(crate) rested_ms: u64,
    /// The node of each host, as it was when the cluster had formed.
    pub(crate) ids: Vec<NodeId>,
    /// What hosts showed of the layout and its group.
    pub(crate) observations: Observations,
    /// How many hosts form the cluster; the rest may join.
    pub(crate) founders: usize,
    pub(crate) operator: Operator,
    pub(crate) losses: Losses,
    /// How many hosts expect each other and found together; host 0 founds alone when absent.
    pub(crate) expected: Option<NonZeroU32>,
}

#[derive(Clone, Copy)]
enum Event {
    Fault(Fault),
    Start { host: usize },
    Return { host: usize },
    ReplaceDisk { host: usize },
    FillUp { host: usize },
    EmptyDisk { host: usize },
    HastenSyncs { host: usize },
    Flip { from: usize, to: usize, is_open: bool, every_ms: u64, until: u64 },
    Unblock { from: usize, to: usize },
    Hasten { from: usize, to: usize },
    StopLosing { from: usize, to: usize },
    StopDoubling { from: usize, to: usize },
    Resume { host: usize, life: u64 },
    Aim { part: Part, after_ms: u64, down_ms: u64 },
    KillAimed { host: usize, part: Part, down_ms: u64 },
    Restore { host: usize },
    JumpBack { host: usize },
}

impl World {
    /// So many founders, and as many hosts with those that may join.
    pub(crate) fn new(seed: u64, (founders, hosts): (usize, usize), guest: Option<Arc<dyn Guest>>) -> Self {
        let journal = Arc::new(Journal::default());
        let host = |index| Host::new(index, seed, guest.clone(), Arc::clone(&journal));
        Self {
            seed,
            hosts: (0..hosts).map(host).collect(),
            network: Arc::new(Network::new(seed, hosts, Arc::clone(&journal))),
            workload: Arc::new(Workload::new(Arc::clone(&journal))),
            guest: guest.clone(),
            journal,
            agenda: BTreeMap::new(),
            decisions: 0,
            lost_power: BTreeSet::new(),
            failing: BTreeSet::new(),
            out: (founders..hosts).collect(),
            damaged: BTreeSet::new(),
            served: vec![0; hosts],
            is_storming: false,
            rested_ms: 0,
            ids: Vec::new(),
            observations: Observations::default(),
            founders,
            operator: Operator::default(),
            losses: Losses::default(),
            expected: None,
        }
    }

    /// What the checkers must know of this run.
    pub(crate) fn terms(&self, plan: &Plan, storm_ms: u64) -> Terms {
        let lost = self.lost_power.union(&self.out).filter(|host| !self.losses.hosts.contains(host)).count();
        let mut bereft = self.losses.bereft.clone();
        // What the nodes that are left had alone, and had not synced, is gone with the first that loses its power.
        if !self.losses.hosts.is_empty() && lost > 0 {
            bereft.extend(BucketKind::ALL.into_iter().filter(|bucket| *bucket != BucketKind::Fsync));
        }
        let (skew_ms, is_thin) = (plan.skew_ms(storm_ms), plan.is_thin());
        Terms { skew_ms, late_ms: plan.late_ms(), hosts_that_lost_power: lost, is_thin, bereft }
    }

    /// The same of the time before a majority was lost.
    pub(crate) fn terms_before_the_loss(&self, terms: &Terms) -> Terms {
        let out = self.out.difference(&self.losses.hosts).copied().collect();
        let lost = self.losses.without_power.union(&out).count();
        Terms { bereft: BTreeSet::new(), hosts_that_lost_power: lost, ..terms.clone() }
    }

    /// Starts a host's process.
    pub(crate) fn start(&mut self, host: usize) {
        let expected = self.expected;
        let is_founder = expected.is_none() && host == 0 && self.host(0).lives() == 0;
        let others = (0..self.founders).filter(|other| *other != host);
        let seeds =
            if is_founder { Vec::new() } else { others.map(|other| self.network.address(other)).collect() };
        if self.host(host).process.is_none() {
            self.failing.remove(&host);
            let network = Arc::clone(&self.network);
            let host = self.host(host);
            host.disk.fail_with(None);
            host.start(&network, seeds, expected);
            let (index, life) = (host.index, host.lives());
            self.journal.note(format_args!("host {index} starts for the {life}. time"));
        }
    }

    /// Empties a host's disks and starts it as a founder, with nobody to ask; it must take part in nothing.
    pub(crate) fn begin_again(&mut self, host: usize) {
        self.kill_for_good(host);
        self.journal.note(format_args!("host {host} begins again with empty disks"));
        let network = Arc::clone(&self.network);
        let host = self.host(host);
        host.lose_disks();
        host.start(&network, Vec::new(), None);
    }

    /// Lets faults and clients loose for so long.
    pub(crate) fn storm(&mut self, plan: &Plan, for_ms: u64) -> Result<(), Violation> {
        if plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::RollBack { .. })) {
            self.hosts.iter_mut().for_each(Host::copy_disks);
        }
        self.is_storming = true;
        let begin = self.journal.now_ms();
        self.suffer(plan, for_ms)?;
        if let Some(wakes_ms) = plan.wakes_ms() {
            self.rest(begin + wakes_ms)?;
            self.run_until(AWAKE_MS, |_| false)?;
        }
        self.is_storming = false;
        self.workload.close();
        if let Some(guest) = &self.guest {
            guest.close();
        }
        Ok(())
    }

    /// Hours pass, in which clients ask little.
    pub(crate) fn rest(&mut self, until: u64) -> Result<(), Violation> {
        let begin = self.journal.now_ms();
        self.workload.rest(true);
        while self.journal.now_ms() < until {
            self.tick_for(QUIET_TICK_MS)?;
        }
        self.workload.rest(false);
        self.rested_ms += self.journal.now_ms() - begin;
        Ok(())
    }

    /// Lets faults loose for so long.
    pub(crate) fn suffer(&mut self, plan: &Plan, for_ms: u64) -> Result<(), Violation> {
        let begin = self.journal.now_ms();
        plan.faults.iter().for_each(|(at, fault)| self.decide(begin + at, Event::Fault(*fault)));
        while self.journal.now_ms() < begin + for_ms {
            self.tick()?;
        }
        Ok(())
    }

    /// Starts a host's process so much later.
    pub(crate) fn start_in(&mut self, host: usize, ms: u64) {
        self.decide(self.journal.now_ms() + ms, Event::Start { host });
    }

    /// Starts a host's process so much later, though the others must keep it out.
    pub(crate) fn return_in(&mut self, host: usize, ms: u64) {
        self.decide(self.journal.now_ms() + ms, Event::Return { host });
    }

    /// Stops a host's process for a while; what a disk that fails had not synced is lost.
    pub(crate) fn stop(&mut self, host: usize) {
        let loses_power = self.failing.contains(&host);
        self.kill(host, loses_power);
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
            host.clock.set_jump(0);
            host.clock.set_drift(0);
            host.delay_syncs(0);
            host.disk.fail_with(None);
            host.disk.set_room(Room::Ample);
            if !self.out.contains(&index) {
                self.start(index);
            }
        }
    }

    /// Moves time on by one tick.
    pub(crate) fn tick(&mut self) -> Result<(), Violation> {
        self.tick_for(TICK_MS)
    }

    fn tick_for(&mut self, tick_ms: u64) -> Result<(), Violation> {
        let now = self.journal.now_ms();
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= now) {
            let event = entry.remove();
            self.happen(now, event);
        }
        self.network.step();
        for index in 0..self.hosts.len() {
            let network = Arc::clone(&self.network);
            self.host(index).run(&network, Duration::from_millis(tick_ms));
            self.look_after(index)?;
            if !self.out.contains(&index)
                && let Some(node) = self.node(index)
            {
                let life = self.host(index).lives();
                if let Some(id) = self.ids.get_mut(index) {
                    *id = node.id();
                }
                let observed = index + 100 * self.host(index).times_new;
                self.observations.look(observed, life, now, &node);
            }
        }
        self.operate();
        self.watch_for_majority()?;
        self.journal.advance_to(now + tick_ms);
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

    /// The hosts that take part until the end.
    pub(crate) fn members(&self) -> impl Iterator<Item = usize> + use<> {
        let out = self.out.clone();
        (0..self.hosts.len()).filter(move |host| !out.contains(host))
    }

    /// Ends a host's process, never to start it again.
    pub(crate) fn kill_for_good(&mut self, host: usize) {
        self.kill(host, false);
        self.out.insert(host);
    }

    /// Whether bits have flipped on a host's disk.
    pub(crate) fn is_damaged(&self, host: usize) -> bool {
        self.damaged.contains(&host)
    }

    /// Whether a key has a copy left that its bucket's promise covers: a single copy may be gone or damaged.
    pub(crate) fn can_be_answered(&self, bucket: BucketKind, key: &str) -> bool {
        // While no node is up, nobody knows better.
        let Some(node) = self.members().find_map(|host| self.node(host)) else { return true };
        let holders = node.preference_list(bucket.id(), key.as_bytes());
        let is_whole = |host: usize| bucket != BucketKind::Single || !self.damaged.contains(&host);
        let mut whole = self.members().filter(|host| is_whole(*host));
        holders.is_empty() || whole.any(|host| self.ids.get(host).is_some_and(|id| holders.contains(id)))
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

    /// Which of a host's processes is the latest.
    pub(crate) fn life(&self, host: usize) -> u64 {
        self.hosts.get(host).map_or(0, Host::lives)
    }

    /// Whether this process of a host is still there.
    pub(crate) fn is_alive(&self, host: usize, life: u64) -> bool {
        self.hosts.get(host).is_some_and(|host| host.process.is_some() && host.lives() == life)
    }

    /// Runs a task on a host for as long as its process lives.
    pub(crate) fn spawn_on(&mut self, host: usize, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.host(host).process {
            process.runtime.spawn(task);
        }
    }

    /// A host has left the cluster for good.
    pub(crate) fn leave(&mut self, host: usize) {
        if self.out.insert(host) {
            self.losses.gone.extend(self.ids.get(host));
            self.journal.note(format_args!("host {host} has left"));
            self.journal.count("hosts that left", 1);
            self.kill(host, false);
        }
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
            if self.out.contains(&index) {
                self.journal.note(format_args!("host {index} may not take part: {reason}"));
                self.journal.count("hosts kept out", 1);
                self.kill(index, false);
                return Ok(());
            }
            if self.operator.leaving.contains(&index) && reason.contains("no member") {
                self.see_it_left(index)?;
                self.leave(index);
                return Ok(());
            }
            if reason.contains("no member") && self.is_forgotten(index) {
                self.kill(index, false);
                self.host(index).lose_disks();
                self.journal.count("hosts forgotten", 1);
                self.start(index);
                return Ok(());
            }
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
            && !self.losses.hosts.contains(&index)
            && let Some(node) = self.node(index)
        {
            self.put_clients(index, life, &node);
        }
        Ok(())
    }

    /// A node that knows that it was asked to leave says that it has.
    fn see_it_left(&self, index: usize) -> Result<(), Violation> {
        let is_silent = self.node(index).is_some_and(|node| {
            let layout = node.layout();
            let own = layout.nodes().get(&node.id());
            own.is_some_and(|own| own.role.state == NodeState::Leaving) && !node.has_left()
        });
        match is_silent {
            true => {
                Err(Violation::new("leaving", format!("host {index} has left and takes it for a failure")))
            }
            false => Ok(()),
        }
    }

    fn put_clients(&mut self, index: usize, life: u64, node: &Node) {
        if let Some(served) = self.served.get_mut(index) {
            *served = life;
        }
        let (workload, guest) = (Arc::clone(&self.workload), self.guest.clone());
        let (seed, journal) = (self.seed, Arc::clone(&self.journal));
        let Some(process) = &self.host(index).process else { return };
        for number in 0..CLIENTS_PER_HOST {
            let name = format!("client-{index}-{life}-{number}");
            let seed = seed.wrapping_mul(1_009).wrapping_add(index as u64 * 10_007 + life * 101 + number);
            match &guest {
                None => {
                    let client = Client::new(Arc::clone(&workload), node.clone(), name, seed);
                    // One of them talks to the node itself, the other through the Redis gateway.
                    let client = if number % 2 == 0 { client } else { client.over_redis() };
                    process.runtime.spawn(client.run());
                }
                Some(guest) => {
                    let seat = Seat::new(node.clone(), name, seed, Arc::clone(&journal));
                    process.runtime.spawn(Arc::clone(guest).work(seat));
                }
            }
        }
    }
}
