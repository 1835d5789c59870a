//! Faults that are aimed: at hosts that have a part in moving data.

use std::collections::BTreeSet;

use fastrand::Rng;
use slipring_model::NodeId;
use slipring_ring::{Holders, Layout, Replica};

use super::{Event, TICK_MS, World};
use crate::plan::Part;

/// Who has a part in what moves by this layout; nobody when nothing does.
fn movers(layout: &Layout, leader: Option<NodeId>, part: Part) -> BTreeSet<NodeId> {
    let nodes = |replicas: &[Replica]| replicas.iter().map(|replica| replica.node).collect::<BTreeSet<_>>();
    let of_one = |holders: &Holders| {
        let (old, next) = (nodes(&holders.replicas), nodes(&holders.next.as_ref()?.replicas));
        Some(match part {
            Part::Leader => leader.into_iter().collect(),
            Part::Taker => &next - &old,
            Part::Giver => &old - &next,
        })
    };
    layout.moves().filter_map(|(_, holders)| of_one(holders)).flatten().collect()
}

impl World {
    /// Strikes as soon as a host has a part in what moves.
    pub(super) fn aim(&mut self, now: u64, part: Part, (after_ms, down_ms): (u64, u64)) {
        let able = self.with_part(part);
        let mut rng = Rng::with_seed(self.seed ^ now ^ self.decisions << 32);
        match rng.choice(able) {
            Some(host) => self.decide(now + after_ms, Event::KillAimed { host, part, down_ms }),
            None => self.decide(now + TICK_MS, Event::Aim { part, after_ms, down_ms }),
        }
    }

    /// Kills a host that had a part in what moved a moment ago.
    pub(super) fn kill_mover(&mut self, now: u64, host: usize, part: Part, down_ms: u64) {
        if self.node(host).is_none() {
            return;
        }
        let is_at_it = self.with_part(part).contains(&host);
        self.journal.count(
            match (part, is_at_it) {
                (Part::Leader, true) => "leaders killed while data moved",
                (Part::Taker, true) => "takers killed while data moved",
                (Part::Giver, true) => "givers killed while data moved",
                (_, false) => "nodes killed when data had just moved",
            },
            1,
        );
        self.kill(host, false);
        self.decide(now + down_ms, Event::Start { host });
    }

    /// The hosts that have this part, as whoever knows the newest layout sees it.
    fn with_part(&self, part: Part) -> Vec<usize> {
        let layouts = self.members().filter_map(|host| Some(self.node(host)?.layout()));
        let Some(layout) = layouts.max_by_key(|layout| layout.epoch()) else { return Vec::new() };
        let leads = |host: &usize| {
            let group = self.node(*host).and_then(|node| node.layout_group());
            group.is_some_and(|group| group.is_leading && !group.is_alone)
        };
        let leader = self.members().find(leads).and_then(|host| self.ids.get(host).copied());
        let movers = movers(&layout, leader, part);
        let is_mover = |host: &usize| self.ids.get(*host).is_some_and(|id| movers.contains(id));
        self.members().filter(|host| self.node(*host).is_some() && is_mover(host)).collect()
    }
}
