//! The clocks of a cluster, compared: which time the nodes agree on, and how much of it is certain.
//!
//! A clock is known by its offset to this node's monotonic clock, so that a jump of any wall clock shows at once and
//! moves nothing by itself. The agreed time is the median of the offsets that were read lately, the earlier of two: a
//! wrong clock among three changes nothing. Time by which values are dropped is what a majority of all members' clocks
//! have passed.
//!
//! Invariant: while the clocks of a majority of the members are right, the agreed time and that of dropping are never
//! ahead. Where most of the clocks that answer are right, both are behind by half the time of an answer at most. What
//! the other clocks show does not matter.
//! Source: Marzullo, Owicki, "Maintaining the Time in a Distributed System" (1983), simplified to a median.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use slipring_model::{Moment, Mutant, NodeId};

use super::steady::{Rest, Steady};

/// Clocks that are no further apart agree well enough to decide when values expire, in microseconds.
pub(crate) const NEAR_US: i64 = 10_000_000;
/// A clock that is further off the agreed time is reported, in microseconds.
const OFF_US: i64 = 500_000;
/// An own clock that is so near the agreed time is taken for it as it is, in microseconds: what is read of other clocks
/// is less exact.
const OWN_US: i64 = 100_000;
/// How long a reading counts.
const READING_LIFE: Duration = Duration::from_secs(10);
/// An answer that takes longer tells too little.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_millis(900);
/// The most clocks that are asked in one round: every member's within the life of a reading.
const QUESTIONS_MAX: usize = 128;
/// How often one clock is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(600);
/// How long a clock that no other confirms must stand after a step before it is believed.
const REST_ALONE: Duration = Duration::from_secs(600);
/// How long what a majority of clocks shows must stand after a step forward before values are dropped by it.
const REST_TOGETHER: Duration = Duration::from_secs(10);

/// What happens to the comparison.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// A round begins.
    Ticked {
        /// What this node's wall clock shows, in Unix microseconds.
        wall_us: u64,
        /// The other members.
        members: BTreeSet<NodeId>,
    },
    /// A member has told what its wall clock shows.
    Told {
        /// Which.
        peer: NodeId,
        /// Unix microseconds.
        wall_us: u64,
        /// When it was asked.
        asked: Moment,
    },
}

/// What the comparison asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Ask a member what its wall clock shows.
    Ask {
        /// Which.
        peer: NodeId,
    },
    /// Go by this from now on.
    Judge(Judgement),
    /// A clock is off.
    Report {
        /// Whose.
        node: NodeId,
        /// How many milliseconds ahead of the agreed time; behind when negative.
        by_ms: i64,
    },
    /// A clock that was reported is right again.
    Withdraw {
        /// Whose.
        node: NodeId,
    },
}

/// What a comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// The agreed time less this node's monotonic time, in microseconds.
    pub(crate) time_us: i64,
    /// The time by which values are dropped, told likewise; none while too few clocks are known.
    pub(crate) drop_us: Option<i64>,
    /// Whether enough clocks agree to decide when values expire.
    pub(crate) is_agreed: bool,
    /// How many milliseconds each clock that was read lately is ahead of the agreed time, this node's among them.
    pub(crate) ahead_ms: BTreeMap<NodeId, i64>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    offset_us: i64,
    at: Moment,
    /// How far it may be wrong.
    error_us: i64,
}

impl Reading {
    /// The own clock where the reading may mean the same, and otherwise the least that it may mean: a value that lasts a
    /// moment longer is no loss, and one that ends before its time is.
    fn least_us(&self, own_us: i64) -> i64 {
        match own_us.abs_diff(self.offset_us) <= self.error_us.unsigned_abs() {
            true => own_us,
            false => self.offset_us.saturating_sub(self.error_us),
        }
    }
}

/// The comparison of one process.
#[derive(Debug)]
pub(super) struct Clocks {
    me: NodeId,
    /// Whether nothing was stored here before this process, so that its first clock needs no confirmation.
    is_first_start: bool,
    own_us: Option<i64>,
    members: BTreeSet<NodeId>,
    readings: BTreeMap<NodeId, Reading>,
    /// Whose turn to be asked is next, where not all are asked at once.
    next: Option<NodeId>,
    /// The own clock, as it is believed while there is no other member.
    alone: Steady,
    /// The last offset that a majority of the members' clocks agreed on.
    agreed_us: Option<i64>,
    dropping: Steady,
    reported: BTreeMap<NodeId, Moment>,
}

impl Clocks {
    pub(super) fn new(me: NodeId, is_first_start: bool) -> Self {
        Self {
            me,
            is_first_start,
            own_us: None,
            members: BTreeSet::new(),
            readings: BTreeMap::new(),
            next: None,
            alone: Steady::default(),
            agreed_us: None,
            dropping: Steady::default(),
            reported: BTreeMap::new(),
        }
    }

    /// Whether the clocks of a majority of the members have been read lately.
    pub(super) fn knows_majority(&self) -> bool {
        self.readings.len() + 1 >= self.majority()
    }

    /// Applies one input. Never blocks, never fails, never reads a clock.
    pub(super) fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Ticked { wall_us, members } => {
                self.own_us = Some(offset_us(wall_us, now));
                self.members = members;
                self.members.remove(&self.me);
                let Self { members, readings, .. } = self;
                readings
                    .retain(|peer, reading| members.contains(peer) && now.since(reading.at) < READING_LIFE);
                self.ask(effects);
            }
            Input::Told { peer, wall_us, asked } => {
                let took = now.since(asked);
                if !self.members.contains(&peer) || took > ANSWER_TIMEOUT {
                    return;
                }
                let midway = Moment(asked.0 + u64::try_from(took.as_micros() / 2).unwrap_or(0));
                let error_us = i64::try_from(took.as_micros() / 2).unwrap_or(i64::MAX / 2);
                let reading = Reading { offset_us: offset_us(wall_us, midway), at: now, error_us };
                self.readings.insert(peer, reading);
            }
        }
        if let Some(own_us) = self.own_us {
            let judgement = self.judge(now, own_us);
            self.report(now, &judgement, effects);
            effects.push(Effect::Judge(judgement));
        }
    }

    fn ask(&mut self, effects: &mut Vec<Effect>) {
        let first = self.next.unwrap_or_default();
        let mut turns = self.members.range(first..).chain(self.members.range(..first));
        effects.extend(turns.by_ref().take(QUESTIONS_MAX).map(|peer| Effect::Ask { peer: *peer }));
        self.next = turns.next().copied();
    }

    fn judge(&mut self, now: Moment, own_us: i64) -> Judgement {
        let mut clocks: Vec<i64> = self.readings.values().map(|reading| reading.least_us(own_us)).collect();
        clocks.push(own_us);
        clocks.sort_unstable();
        let (time_us, is_agreed) = match self.members.is_empty() {
            true => (self.time_alone(now, own_us), true),
            false => self.time_together(own_us, &clocks),
        };
        self.see_dropping(now, &clocks);
        let mut judgement = Judgement { time_us, is_agreed, ..Judgement::default() };
        judgement.drop_us = self.dropping.offset_us().filter(|_| clocks.len() >= self.majority());
        if Mutant::JudgeByOwnClock.is_planted() {
            judgement.time_us = own_us;
        }
        if Mutant::SweepByOwnClock.is_planted() {
            judgement.drop_us = Some(own_us);
        }
        let offsets = self.readings.iter().map(|(peer, reading)| (*peer, reading.offset_us));
        judgement.ahead_ms = offsets
            .chain([(self.me, own_us)])
            .map(|(node, offset_us)| (node, offset_us.saturating_sub(judgement.time_us) / 1_000))
            .collect();
        judgement
    }

    /// More than half of all members.
    fn majority(&self) -> usize {
        self.members.len().div_ceil(2) + 1
    }

    fn time_alone(&mut self, now: Moment, own_us: i64) -> i64 {
        if self.alone.offset_us().is_none() {
            self.alone.believe(self.agreed_us.unwrap_or(own_us));
        }
        self.alone.see(now, own_us, Rest { ahead: REST_ALONE, back: REST_ALONE });
        let time_us = self.alone.offset_us().unwrap_or(own_us);
        self.agreed_us = Some(time_us);
        time_us
    }

    /// The median of what was read, and whether enough clocks are near it. Clocks that agree are enough while too few
    /// answer to tell a majority.
    fn time_together(&mut self, own_us: i64, clocks: &[i64]) -> (i64, bool) {
        self.alone = Steady::default();
        let median = clocks.get((clocks.len() - 1) / 2).copied().unwrap_or(own_us);
        let is_near = |clock: &&i64| clock.abs_diff(median) <= NEAR_US.unsigned_abs();
        let near = clocks.iter().filter(is_near).count();
        if near >= self.majority() {
            self.agreed_us = Some(median);
        }
        // What a majority agreed on before goes on while there is none.
        let time_us = self.agreed_us.unwrap_or(median);
        let is_own = own_us.abs_diff(time_us) <= OWN_US.unsigned_abs();
        (if is_own { own_us } else { time_us }, near == clocks.len() || near >= self.majority())
    }

    /// The latest time that a majority of all members' clocks have passed.
    fn see_dropping(&mut self, now: Moment, clocks: &[i64]) {
        let Some(passed_us) = clocks.len().checked_sub(self.majority()).and_then(|at| clocks.get(at)) else {
            return;
        };
        let is_alone = self.members.is_empty();
        if self.dropping.offset_us().is_none() && (!is_alone || self.is_first_start) {
            self.dropping.believe(*passed_us);
        }
        let ahead = if is_alone { REST_ALONE } else { REST_TOGETHER };
        self.dropping.see(now, *passed_us, Rest { ahead, back: Duration::ZERO });
    }

    /// Reports each clock that is off, once in a while.
    fn report(&mut self, now: Moment, judgement: &Judgement, effects: &mut Vec<Effect>) {
        self.reported.retain(|node, _| *node == self.me || self.members.contains(node));
        for (node, by_ms) in &judgement.ahead_ms {
            let error_us = self.readings.get(node).map_or(0, |reading| reading.error_us);
            let is_off = by_ms.unsigned_abs() > ((OFF_US + error_us) / 1_000).unsigned_abs();
            let is_due = self.reported.get(node).is_none_or(|at| now.since(*at) >= REPORT_INTERVAL);
            if is_off && is_due {
                self.reported.insert(*node, now);
                effects.push(Effect::Report { node: *node, by_ms: *by_ms });
            } else if by_ms.unsigned_abs() <= (OFF_US / 1_000).unsigned_abs()
                && self.reported.remove(node).is_some()
            {
                effects.push(Effect::Withdraw { node: *node });
            }
        }
    }
}

/// A wall clock as an offset to this node's monotonic clock. A clock may show anything.
fn offset_us(wall_us: u64, now: Moment) -> i64 {
    let monotonic_us = i64::try_from(now.0).unwrap_or(i64::MAX);
    i64::try_from(wall_us).unwrap_or(i64::MAX).saturating_sub(monotonic_us)
}

#[cfg(test)]
mod tests;
