//! Plans in which whoever has a part in moving data dies while it moves.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{Fault, Plan};

/// What a host does for a partition that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// It leads the layout group, which agrees on each step.
    Leader,
    /// It takes the partition over.
    Taker,
    /// It hands the partition over.
    Giver,
}

impl Plan {
    /// Aims at those who have a part in what moves, in half of the plans in which anything does.
    pub(crate) fn aim(&mut self, seed: u64, storm_ms: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x0061_696d_6564);
        let is_moving = |fault: &Fault| {
            matches!(
                fault,
                Fault::Join { .. } | Fault::Drain { .. } | Fault::Leave { .. } | Fault::Weigh { .. }
            )
        };
        if rng.bool() || !self.faults.iter().any(|(_, fault)| is_moving(fault)) {
            return;
        }
        for _ in 0..rng.usize(1..5) {
            let part = rng.choice([Part::Leader, Part::Taker, Part::Giver]).unwrap_or(Part::Leader);
            let fault = Fault::KillMover { part, after_ms: rng.u64(..120), down_ms: rng.u64(50..3_000) };
            self.faults.push((rng.u64(..storm_ms / 2), fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }
}
