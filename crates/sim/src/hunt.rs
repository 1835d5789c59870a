//! Proof that the simulator bites: each mutant, and within how many seeds it must be caught.

use slipring_model::Mutant;

use crate::run::{Options, Report, find_failure};

/// A mutant to be caught.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The mistake that is planted.
    pub mutant: Mutant,
    /// How many seeds a simulation may take until it has caught it.
    pub seeds: u64,
    /// The first of them: where few seeds show a mistake, one near those.
    first: u64,
    /// The plan of faults that shows it, as JSON, when those that the seeds draw rarely do.
    plan: Option<&'static str>,
}

/// Every mutant.
pub const HUNTS: [Hunt; 40] = [
    hunt(Mutant::AckBeforeStored, 10, None),
    hunt(Mutant::AckBeforeSync, 10, Some(include_str!("../plans/blackout.json"))),
    hunt(Mutant::CountHintAsAck, 20, Some(include_str!("../plans/isolations.json"))),
    hunt(Mutant::ReadOneFewer, 20, None),
    hunt(Mutant::SkipReadRepair, 40, None),
    hunt(Mutant::SkipExchange, 10, None),
    hunt(Mutant::ReuseDots, 10, None),
    hunt(Mutant::DropTombstone, 60, None),
    hunt(Mutant::DropExpired, 40, Some(include_str!("../plans/expires_while_one_is_away.json"))),
    hunt(Mutant::TimeOutIsFailure, 20, None),
    hunt(Mutant::RetryUnknownWrite, 60, None),
    hunt(Mutant::RestampOnReplay, 10, None),
    hunt(Mutant::AddOnMerge, 10, None),
    hunt(Mutant::SyncNothing, 10, None),
    hunt(Mutant::ServeDamaged, 10, Some(include_str!("../plans/bit_rot.json"))),
    hunt(Mutant::AcceptRollback, 100, None),
    hunt(Mutant::ForgetVote, 30, None),
    hunt(Mutant::UnionQuorum, 10, Some(include_str!("../plans/drains.json"))),
    hunt(Mutant::IgnoreFence, 20, None),
    hunt(Mutant::SkipBarrier, 60, Some(include_str!("../plans/drains_behind_slow_ways.json"))),
    hunt(Mutant::CopyFromNext, 10, None),
    hunt(Mutant::AskOneSource, 10, Some(include_str!("../plans/drains_across_a_cut.json"))),
    hunt(Mutant::ReuseAssignment, 10, None),
    hunt(Mutant::KeepLeftovers, 10, None),
    hunt(Mutant::SplitForgetsDots, 10, Some(include_str!("../plans/splits.json"))),
    hunt(Mutant::ForgetHeld, 10, Some(include_str!("../plans/copies_while_one_is_away.json"))),
    hunt(Mutant::JumpTables, 10, Some(include_str!("../plans/copies.json"))),
    hunt(Mutant::ReuseSession, 20, Some(include_str!("../plans/drained_again_behind_a_cut.json"))),
    hunt(Mutant::DriveInFirstTerm, 10, None),
    hunt(Mutant::AdoptOlder, 20, None),
    hunt(Mutant::ReuseNumbers, 10, Some(include_str!("../plans/voters_come_back.json"))),
    hunt(Mutant::RecoverOldest, 20, Some(include_str!("../plans/voters_lost_behind_a_cut.json"))),
    hunt(Mutant::SweepByOwnClock, 20, Some(include_str!("../plans/clock_jumps.json"))),
    hunt(Mutant::JudgeByOwnClock, 10, Some(include_str!("../plans/clock_jumps.json"))),
    hunt(Mutant::TrustUnaskedReply, 10, Some(include_str!("../plans/strangers.json"))),
    hunt(Mutant::DecideOnStaleCopy, 200, Some(include_str!("../plans/disks_fail_after_cuts.json"))).from(380),
    hunt(Mutant::AckWithoutRoom, 10, Some(include_str!("../plans/disks_fill.json"))),
    hunt(Mutant::ClearWhatOneKnows, 20, Some(include_str!("../plans/clears.json"))),
    hunt(Mutant::IgnoreOvertaken, 20, Some(include_str!("../plans/wrong_clocks.json"))),
    hunt(Mutant::NeverSearch, 3, Some(include_str!("../plans/all_relocated.json"))),
];

const fn hunt(mutant: Mutant, seeds: u64, plan: Option<&'static str>) -> Hunt {
    Hunt { mutant, seeds, first: 0, plan }
}

impl Hunt {
    const fn from(self, first: u64) -> Self {
        Self { first, ..self }
    }

    /// The first run that catches the mutant; nothing when it survives.
    #[must_use]
    pub fn run(&self) -> Option<Report> {
        let plan = self.plan.map(|json| serde_json::from_str(json).expect("the plan is one of ours"));
        let options = Options { mutant: Some(self.mutant), plan, ..Options::default() };
        find_failure(self.first..self.first + self.seeds, &options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mutant_is_left_out_and_every_plan_can_be_read() {
        let is_hunted = |mutant: &Mutant| HUNTS.iter().any(|hunt| hunt.mutant == *mutant);
        assert!(Mutant::ALL.iter().all(is_hunted));
        for json in HUNTS.iter().filter_map(|hunt| hunt.plan) {
            serde_json::from_str::<crate::Plan>(json).expect("a plan");
        }
    }
}
