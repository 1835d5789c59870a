//! Hosts that start all at once, under faults: whatever happens, all must end in one cluster, and none in another.
//!
//! Either so many expect each other and one of them founds, or one has founded and all others join it at once. Hosts
//! start at different times, die at any step and return with what their disks had; ways are cut and slow.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use fastrand::Rng;
use slipring_model::ClusterId;
use slipring_node::Node;

use crate::history::BucketKind;
use crate::plan::{Fault, Plan};
use crate::run::{Report, Violation, run_world};
use crate::world::World;

/// How long after the last fault all must be members of one cluster, in simulated milliseconds.
const FORMING_MS: u64 = 60_000;
/// Within how long all hosts are started the first time.
const STARTING_MS: u64 = 2_500;

/// Within how long after a cut heals a second cluster at a member's address must be quiet.
const MEETING_MS: u64 = 5_000;

/// How often a write is tried until it must be taken.
const PROBES: usize = 50;

/// How long a fault lasts at most.
const LASTING_MS_MAX: u64 = 14_000;

/// Who starts, and what goes wrong.
#[derive(Clone, Copy, Debug)]
pub struct Forming {
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of each other they expect; when absent, host 0 has founded and the others join.
    pub expected: Option<NonZeroU32>,
    /// How long faults are at work, from the first start on; 0 for none.
    pub storm_ms: u64,
}

/// Runs one seed. The same seed and setting give the same report.
#[must_use]
pub fn run(seed: u64, forming: Forming) -> Report {
    let plan = if forming.storm_ms == 0 { Plan::default() } else { draw(seed, forming) };
    let mut world = World::new(seed, (forming.hosts, forming.hosts), None);
    world.expected = forming.expected;
    run_world(world, plan, |world, plan| world.form_at_once(plan, forming))
}

/// Runs one seed in which the founder loses its disks and starts as it did first. With `is_cut` the others cannot
/// reach it at first, so that it does found.
#[must_use]
pub fn run_founder_again(seed: u64, is_cut: bool) -> Report {
    let world = World::new(seed, (3, 3), None);
    run_world(world, Plan::default(), |world, _| world.found_again(is_cut))
}

fn draw(seed: u64, forming: Forming) -> Plan {
    let mut rng = Rng::with_seed(seed ^ 0x666f_726d_696e_6700);
    // Most strike while it is open who founds, and the longest last until the others have given up on a silent host.
    let at = |rng: &mut Rng| match rng.u8(..4) {
        0 => rng.u64(..forming.storm_ms),
        _ => rng.u64(..STARTING_MS + 1_000),
    };
    let count = rng.usize(2..12);
    let mut faults: Vec<(u64, Fault)> =
        (0..count).map(|_| (at(&mut rng), fault(&mut rng, forming.hosts))).collect();
    faults.sort_by_key(|(at, _)| *at);
    Plan { faults }
}

fn fault(rng: &mut Rng, hosts: usize) -> Fault {
    let host = rng.usize(..hosts);
    let other = (host + rng.usize(1..hosts)) % hosts;
    let (for_ms, down_ms) = (rng.u64(100..LASTING_MS_MAX), rng.u64(50..LASTING_MS_MAX));
    match rng.u8(..12) {
        0..=3 => Fault::Kill { host, down_ms, loses_power: rng.bool() },
        4 => Fault::KillAll { down_ms, loses_power: rng.bool() },
        5 => Fault::Cut { from: host, to: other, for_ms },
        6 | 7 => Fault::Isolate { host, for_ms },
        8 => Fault::Slow { from: host, to: other, by_ms: rng.u64(10..2_500), for_ms },
        9 => Fault::Pause { host, for_ms },
        10 => Fault::Flap { from: host, to: other, every_ms: rng.u64(20..600), for_ms },
        _ => Fault::Lose { from: host, to: other, percent: rng.u8(5..60), for_ms },
    }
}

impl World {
    fn form_at_once(&mut self, plan: &Plan, forming: Forming) -> Result<(), Violation> {
        let mut rng = Rng::with_seed(self.seed);
        if forming.expected.is_none() {
            self.start(0);
            self.run_until(FORMING_MS, |world| world.node(0).is_some())?;
        }
        for host in 0..forming.hosts {
            self.start_in(host, rng.u64(..STARTING_MS));
        }
        self.suffer(plan, forming.storm_ms.max(STARTING_MS))?;
        let early = (0..forming.hosts).filter(|host| self.node(*host).is_some()).count();
        self.journal.count("members before all was well", early as u64);
        self.heal();
        let is_whole =
            self.run_until(FORMING_MS, |world| (0..forming.hosts).all(|host| world.is_whole(host)))?;
        self.look_for_clusters()?;
        if is_whole {
            return Ok(());
        }
        let sizes: Vec<Option<usize>> = (0..forming.hosts).map(|host| self.size_seen_by(host)).collect();
        let story = format!("{FORMING_MS} ms after the last fault hosts see clusters of {sizes:?} nodes");
        Err(Violation::new("forming", story))
    }

    fn found_again(&mut self, is_cut: bool) -> Result<(), Violation> {
        let failed = |story: &str| Err(Violation::new("one_cluster", story.to_owned()));
        self.start(0);
        self.run_until(FORMING_MS, |world| world.node(0).is_some())?;
        (1..3).for_each(|host| self.start(host));
        let is_settled = |world: &mut Self| {
            let is_settled = |node: Node| {
                let votes = node.layout_group().is_some_and(|group| group.voters.len() == 3);
                votes && !node.layout().is_moving()
            };
            (0..3).all(|host| world.is_whole(host) && world.node(host).is_some_and(is_settled))
        };
        if !self.run_until(FORMING_MS, is_settled)? {
            return failed("the three do not form a cluster");
        }
        if is_cut {
            let cut = Plan { faults: vec![(0, Fault::Isolate { host: 0, for_ms: FORMING_MS })] };
            self.suffer(&cut, 1)?;
        }
        self.begin_again(0);
        if !is_cut {
            let has_ended = self.run_until(FORMING_MS, |world| world.has_ended(0))?;
            self.look_for_clusters()?;
            return if has_ended { Ok(()) } else { failed("the founder does not end") };
        }
        if !self.run_until(FORMING_MS, |world| world.node(0).is_some())?
            || !self.probe(0, BucketKind::Buffered)?
        {
            return failed("behind the cut it does not found");
        }
        self.heal();
        let is_quiet = |world: &mut Self| world.node(0).is_some_and(|node| !node.serves());
        if !self.run_until(MEETING_MS, is_quiet)? || self.probe(0, BucketKind::Buffered)? {
            return failed("both clusters acknowledge writes");
        }
        for _ in 0..PROBES {
            if self.probe(1, BucketKind::Buffered)? {
                return Ok(());
            }
        }
        failed("the first cluster acknowledges no write")
    }

    fn has_ended(&self, host: usize) -> bool {
        self.hosts.get(host).is_some_and(|host| host.process.is_none())
    }

    /// How many members there are, as a host knows them.
    fn size_seen_by(&self, host: usize) -> Option<usize> {
        self.node(host).map(|node| node.layout().nodes().len())
    }

    fn is_whole(&self, host: usize) -> bool {
        self.size_seen_by(host) == Some(self.hosts.len())
    }

    /// No host may ever have been a member of another cluster than the others.
    fn look_for_clusters(&self) -> Result<(), Violation> {
        let all = self.observations.all();
        let clusters: BTreeSet<ClusterId> = all.iter().map(|seen| seen.layout.cluster()).collect();
        if clusters.len() <= 1 {
            return Ok(());
        }
        let seen: BTreeSet<_> =
            all.iter().map(|seen| (seen.layout.cluster(), seen.host, seen.life)).collect();
        Err(Violation::new("one_cluster", format!("cluster, host and life: {seen:?}")))
    }
}
