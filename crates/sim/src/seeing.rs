//! Who sees whom: after the last fault each live node must see every other alive within a bound, and one that
//! dies must be seen down by all others within a bound.
//!
//! Source: Das, Gupta, Motivala, "SWIM" (DSN 2002): strong completeness; that views settle once faults end is ours.

use slipring_model::NodeId;
use slipring_node::MemberState;

use crate::run::Violation;
use crate::world::World;

/// How long after the cluster serves again all must see each other, in simulated milliseconds: peers that are gone
/// are tried every 2.5 s at least, and one try in a hundred is lost.
const SEEING_MS: u64 = 8_000;
/// How long a death may go unseen, in simulated milliseconds. Alone, a node with nobody to confirm it would suspect for
/// 1.2 s; local health that the storm has used up makes that several times as long.
const DEATH_MS: u64 = 20_000;
/// How often a run looks.
const LOOK_EVERY_MS: u64 = 50;
/// In one of so many runs a host dies at the end.
const DEATH_EVERY: u64 = 4;

impl World {
    /// Waits until each member sees each other one alive, and none that is out.
    pub(crate) fn see_each_other(&mut self) -> Result<(), Violation> {
        let begin = self.journal.now_ms();
        let blind = self.wait_to_see(SEEING_MS, |world, host| world.sees_wrongly(host))?;
        self.journal.count("ms until all saw each other", self.journal.now_ms() - begin);
        match blind {
            None => Ok(()),
            Some(story) => Err(Violation::new(
                "seeing",
                format!("{story}, {SEEING_MS} ms after the cluster served again"),
            )),
        }
    }

    /// In some runs: kills a host for good, and waits until all others see it down.
    pub(crate) fn see_a_death(&mut self) -> Result<(), Violation> {
        let members: Vec<usize> = self.members().collect();
        let chosen = members.get((self.seed / DEATH_EVERY) as usize % members.len().max(1)).copied();
        let Some(dead) = chosen.filter(|_| self.seed % DEATH_EVERY == 1 && members.len() > 1) else {
            return Ok(());
        };
        self.kill_for_good(dead);
        let begin = self.journal.now_ms();
        let unaware = self.wait_to_see(DEATH_MS, |world, host| world.sees_wrongly(host))?;
        self.journal.count("ms until a death was seen", self.journal.now_ms() - begin);
        self.journal.count("deaths seen", 1);
        match unaware {
            None => Ok(()),
            Some(story) => {
                Err(Violation::new("seeing", format!("{story}, {DEATH_MS} ms after host {dead} died")))
            }
        }
    }

    /// Moves time on until no member sees anything wrong; what one of them does at the end.
    fn wait_to_see(
        &mut self,
        for_ms: u64,
        wrong: impl Fn(&Self, usize) -> Option<String>,
    ) -> Result<Option<String>, Violation> {
        let end = self.journal.now_ms() + for_ms;
        loop {
            let found = self.members().find_map(|host| wrong(self, host));
            if found.is_none() || self.journal.now_ms() >= end {
                return Ok(found);
            }
            self.run_until(LOOK_EVERY_MS, |_| false)?;
        }
    }

    /// What a host sees otherwise than it is.
    fn sees_wrongly(&self, host: usize) -> Option<String> {
        let Some(node) = self.node(host) else { return Some(format!("host {host} is not up")) };
        let members: Vec<usize> = self.members().collect();
        let is_wrong = |(other, id): &(usize, NodeId)| {
            let state = node.member(*id).map(|member| member.state);
            match members.contains(other) {
                true => state != Some(MemberState::Alive),
                false => state != Some(MemberState::Down),
            }
        };
        // Of who has left, or never came, nobody sees anything.
        let layout = node.layout();
        let is_listed = |(other, id): &(usize, NodeId)| *other != host && layout.nodes().contains_key(id);
        let ids = self.ids.iter().copied().enumerate().filter(is_listed);
        let (other, id) = ids.into_iter().find(is_wrong)?;
        Some(format!("host {host} sees host {other} as {:?}", node.member(id)))
    }
}
