//! What happens when an event is due: faults strike, and what they did is undone.

use std::ops::Range;
use std::sync::Arc;

use slipring_model::{NodeId, Room};
use slipring_node::Node;
use slipring_ring::NodeState;

use super::{Event, World};
use crate::history::BucketKind;
use crate::plan::Fault;

impl World {
    pub(super) fn happen(&mut self, now: u64, event: Event) {
        match event {
            Event::Fault(fault) => self.strike(now, fault),
            Event::Return { host } => self.start(host),
            Event::Start { host } if self.out.contains(&host) => {}
            Event::Start { host } => self.start(host),
            Event::ReplaceDisk { host, .. } if self.losses.hosts.contains(&host) => {}
            Event::ReplaceDisk { host } => {
                self.kill(host, true);
                self.start(host);
            }
            // A disk that fails is not full as well.
            Event::FillUp { host } if self.failing.contains(&host) => {}
            Event::FillUp { host } => {
                let error = slipring_storage::Error::Full { place: "the simulated disk".into() };
                self.host(host).disk.fail_with(Some(error));
            }
            Event::EmptyDisk { host } => {
                self.host(host).disk.set_room(Room::Ample);
                if !self.failing.contains(&host) {
                    self.host(host).disk.fail_with(None);
                }
            }
            Event::HastenSyncs { host } => self.host(host).delay_syncs(0),
            Event::StopLosing { from, to } => self.network.lose(from, to, 0),
            Event::StopDoubling { from, to } => self.network.double(from, to, 0),
            Event::Flip { from, to, is_open, every_ms, until } => {
                match is_open {
                    true => self.network.block(from, to),
                    false => self.network.unblock(from, to),
                }
                if is_open || now < until {
                    let next = Event::Flip { from, to, is_open: !is_open, every_ms, until };
                    self.decide(now + every_ms, next);
                }
            }
            Event::JumpBack { host } => self.host(host).clock.set_jump(0),
            Event::Unblock { from, to } => self.network.unblock(from, to),
            Event::Hasten { from, to } => self.network.slow(from, to, 0),
            Event::Restore { host } if self.operator.leaving.contains(&host) => {}
            Event::Restore { host } => self.order_away(host, NodeState::Active),
            Event::Resume { host, life } if self.host(host).lives() == life => self.resume(host),
            Event::Resume { .. } => {}
            Event::Aim { part, after_ms, down_ms } => self.aim(now, part, (after_ms, down_ms)),
            Event::KillAimed { host, part, down_ms } => self.kill_mover(now, host, part, down_ms),
        }
    }

    fn strike(&mut self, now: u64, fault: Fault) {
        self.journal.note(format_args!("{fault:?}"));
        match fault {
            Fault::Kill { host, down_ms, loses_power } => {
                self.kill(host, loses_power);
                self.decide(now + down_ms, Event::Start { host });
            }
            Fault::KillMover { part, after_ms, down_ms } => self.aim(now, part, (after_ms, down_ms)),
            Fault::KillAll { down_ms, loses_power } => {
                for host in 0..self.hosts.len() {
                    self.kill(host, loses_power);
                    self.decide(now + down_ms + host as u64 * 150, Event::Start { host });
                }
            }
            Fault::Relocate { host, down_ms } => self.relocate(now + down_ms, host..host + 1),
            Fault::RelocateAll { down_ms } => self.relocate(now + down_ms, 0..self.hosts.len()),
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
            Fault::Clear { host, bucket } => self.clear(host, bucket),
            Fault::Pause { host, for_ms } => self.pause(host, now + for_ms, "pauses"),
            Fault::Sleep { host, for_ms } => self.pause(host, now + for_ms, "sleeps for hours"),
            Fault::Skew { .. } | Fault::Jump { .. } | Fault::Drift { .. } => self.set_clock(now, fault),
            Fault::Flap { from, to, every_ms, for_ms } => {
                self.journal.count("ways flapping", 1);
                self.decide(now, Event::Flip { from, to, is_open: true, every_ms, until: now + for_ms });
            }
            Fault::Lose { from, to, percent, for_ms } => {
                self.network.lose(from, to, percent);
                self.decide(now + for_ms, Event::StopLosing { from, to });
            }
            Fault::Double { from, to, percent, for_ms } => {
                self.network.double(from, to, percent);
                self.decide(now + for_ms, Event::StopDoubling { from, to });
            }
            Fault::Strangers { host, for_ms } => {
                self.network.visit(host, self.strangers(), now + for_ms);
            }
            Fault::FailDisk { .. }
            | Fault::FillDisk { .. }
            | Fault::SlowDisk { .. }
            | Fault::FlipBits { .. }
            | Fault::LoseDirectory { .. }
            | Fault::RollBack { .. } => self.strike_disk(now, fault),
            Fault::LoseMajority { back_ms } => {
                // While too few are up to tell who votes, it is put off.
                if !self.lose_majority(back_ms) {
                    self.decide(now + 100, Event::Fault(fault));
                }
            }
            Fault::Join { .. }
            | Fault::Leave { .. }
            | Fault::Drain { .. }
            | Fault::Weigh { .. }
            | Fault::Revert
            | Fault::Split
            | Fault::Respread { .. } => self.reshape(now, fault),
        }
    }

    /// Kills hosts that take part and starts them at other addresses, one after another.
    fn relocate(&mut self, at: u64, hosts: Range<usize>) {
        for host in hosts {
            if !self.out.contains(&host) {
                self.kill(host, false);
                self.network.relocate(host);
                self.decide(at + host as u64 * 150, Event::Start { host });
            }
        }
    }

    /// A client of a host clears a bucket, if the host is up.
    fn clear(&mut self, host: usize, bucket: u32) {
        let kind = BucketKind::ALL.into_iter().find(|kind| kind.id().0 == bucket);
        let (Some(node), Some(kind)) = (self.node(host), kind) else { return };
        let workload = Arc::clone(&self.workload);
        self.journal.count("clearings", 1);
        self.spawn_on(host, workload.clear(node, kind, format!("clearing-{host}")));
    }

    fn set_clock(&mut self, now: u64, fault: Fault) {
        match fault {
            Fault::Skew { host, by_ms } => {
                self.host(host).clock.set_skew(by_ms);
                self.journal.count("clock jumps", 1);
            }
            Fault::Jump { host, by_ms, for_ms } => {
                self.host(host).clock.set_jump(by_ms);
                self.journal.count("clock jumps and back", 1);
                self.decide(now + for_ms, Event::JumpBack { host });
            }
            Fault::Drift { host, ms_per_s } => {
                self.host(host).clock.set_drift(ms_per_s);
                self.journal.count("clock drifts", 1);
            }
            _ => {}
        }
    }

    /// Ids of nodes that never were members, and of some that are none any more.
    fn strangers(&self) -> Vec<NodeId> {
        let is_member = |node: &NodeId| {
            (0..self.hosts.len())
                .any(|host| self.node(host).is_some_and(|known| known.layout().nodes().contains_key(node)))
        };
        let removed = self.losses.gone.iter().copied().filter(|node| !is_member(node));
        [0xdd, 0xee].map(|byte| NodeId([byte; 32])).into_iter().chain(removed).collect()
    }

    fn reshape(&mut self, now: u64, fault: Fault) {
        match fault {
            Fault::Join { host } => {
                self.journal.count("joins", 1);
                self.out.remove(&host);
                self.start(host);
            }
            Fault::Leave { host } => self.order_away(host, NodeState::Leaving),
            Fault::Drain { host, for_ms } => {
                self.order_away(host, NodeState::Drained);
                self.decide(now + for_ms, Event::Restore { host });
            }
            Fault::Weigh { host, weight } => self.order_weight(host, weight),
            Fault::Revert => self.order_back(),
            Fault::Split => self.order_split(),
            Fault::Respread { bucket, replicas } => self.order_copies(bucket, replicas),
            _ => {}
        }
    }

    fn strike_disk(&mut self, now: u64, fault: Fault) {
        match fault {
            Fault::FailDisk { host, down_ms } => {
                let error = slipring_storage::Error::Stopped("the simulated disk failed".to_owned());
                self.fail_disk(host, error);
                self.decide(now + down_ms, Event::ReplaceDisk { host });
            }
            Fault::FillDisk { host, down_ms } => {
                self.host(host).disk.set_room(Room::Scarce);
                self.journal.count("full disks", 1);
                self.decide(now + down_ms / 2, Event::FillUp { host });
                self.decide(now + down_ms, Event::EmptyDisk { host });
            }
            Fault::SlowDisk { host, by_ms, for_ms } => {
                self.host(host).delay_syncs(by_ms);
                self.journal.count("slow disks", 1);
                self.decide(now + for_ms, Event::HastenSyncs { host });
            }
            Fault::FlipBits { host, bits } => {
                self.damaged.insert(host);
                let seed = self.seed;
                for bit in 0..u64::from(bits) {
                    let draw = (seed ^ now << 20).wrapping_add(bit).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    if self.host(host).disk.flip_bit(draw) {
                        self.journal.count("bits flipped", 1);
                    }
                }
            }
            Fault::LoseDirectory { host, down_ms } => {
                self.kill(host, false);
                self.host(host).lose_disks();
                self.lost_power.insert(host);
                self.losses.gone.extend(self.ids.get(host));
                self.journal.count("directories lost", 1);
                // It returns as a new node, in two of three seeds as a spare in the place of the old one; that is given up.
                let is_spare = !self.seed.is_multiple_of(3) && !self.operator.leaving.contains(&host);
                self.host(host).is_spare = is_spare;
                match is_spare {
                    true => self.order_stand_in(host),
                    false => self.order_away(host, NodeState::Lost),
                }
                self.decide(now + down_ms, Event::Start { host });
            }
            Fault::RollBack { host, down_ms } if self.is_copy_outdated(host) => {
                self.kill(host, false);
                self.host(host).roll_back();
                self.journal.count("directories rolled back", 1);
                self.return_outcast(host, now + down_ms);
            }
            Fault::RollBack { host, down_ms } => {
                // Nobody could tell this copy from the directory itself: after another start they can.
                self.kill(host, false);
                self.decide(now + down_ms, Event::Start { host });
            }
            _ => {}
        }
    }

    fn fail_disk(&mut self, host: usize, error: slipring_storage::Error) {
        self.host(host).disk.fail_with(Some(error));
        self.failing.insert(host);
        self.journal.count("disk failures", 1);
    }

    /// Starts a host once more that the others must keep out.
    fn return_outcast(&mut self, host: usize, at: u64) {
        self.decide(at, Event::Return { host });
        self.out.insert(host);
    }

    /// Whether the cluster has agreed to a later start of a host than the one its copy was made in.
    fn is_copy_outdated(&mut self, host: usize) -> bool {
        let Some(copied) = self.host(host).copied_incarnation() else { return false };
        let agreed = |node: Node| {
            node.layout().nodes().get(&self.ids.get(host).copied()?).map(|entry| entry.incarnation)
        };
        let latest = (0..self.hosts.len()).filter_map(|index| agreed(self.node(index)?)).max();
        latest.is_some_and(|latest| latest > copied)
    }

    pub(super) fn kill(&mut self, index: usize, loses_power: bool) {
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

    fn pause(&mut self, index: usize, until: u64, what: &'static str) {
        let host = self.host(index);
        if host.process.is_none() || host.is_paused {
            return;
        }
        host.is_paused = true;
        let life = host.lives();
        self.network.set_paused(index, true);
        self.journal.count(what, 1);
        self.decide(until, Event::Resume { host: index, life });
    }

    pub(super) fn resume(&mut self, index: usize) {
        self.host(index).is_paused = false;
        self.network.set_paused(index, false);
    }
}
