//! Coordinated writes: one machine per client write.
//!
//! The coordinator, itself a replica, has applied the change; the machine sends the resulting cell to the
//! other replicas and settles once a quorum, itself among them, holds it; while the partition moves, one of
//! the old replicas and one of the next. It lives on until every replica has answered or the deadline has
//! passed, and leaves a hint for each that has not acknowledged.
//!
//! A replica that holds a value the coordinator had not seen, and that wins, does not acknowledge: it says that it
//! has overtaken the write. While enough others may still acknowledge, none of them had that value when the write
//! came, so it was not acknowledged before the write began, and order is as it should be. When they no longer can,
//! the write is to be run once more on top of that value. Waiting for the others first matters: where a quorum
//! held the write before that value came, a reader may have seen the write, and it must not return after the value.
//!
//! Invariant: settles and finishes exactly once; `Stored` only after acknowledgements of a quorum; hints never count.
//! Source: Dynamo (SOSP 2007), 4.5 and 4.6.

use slipring_model::{Mutant, NodeId};
use smallvec::SmallVec;

use crate::quorums::{Quorums, Shortfall};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteInput {
    /// The change is applied here; send it on.
    Started,
    /// This node's own copy is as durable as the bucket promises.
    Persisted,
    /// A replica holds the cell.
    Acked {
        /// Which.
        from: NodeId,
    },
    /// A replica holds the cell, and a value that wins over it and that this node had not seen.
    Overtaken {
        /// Which.
        from: NodeId,
    },
    /// A replica that has overtaken the write answered a while ago, and others have not answered yet.
    Dawdled,
    /// A replica refused, or its connection was lost.
    Failed {
        /// Which.
        from: NodeId,
    },
    /// No time is left.
    DeadlinePassed,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEffect {
    /// Send the cell to a replica.
    Send {
        /// Which.
        to: NodeId,
    },
    /// Remember that a replica lacks the cell.
    StoreHint {
        /// Which.
        intended: NodeId,
    },
    /// Be reminded in a while, by `Dawdled`.
    Remind,
    /// Run the write once more on top of what replicas hold; this machine has no more to do.
    Repeat,
    /// Tell the client.
    Settle(WriteOutcome),
    /// Nothing is awaited any more: the machine can go.
    Finish,
}

impl WriteEffect {
    /// The replica that this asks for something.
    #[must_use]
    pub fn asks(&self) -> Option<NodeId> {
        match self {
            Self::Send { to } => Some(*to),
            Self::StoreHint { .. } | Self::Remind | Self::Repeat | Self::Settle(_) | Self::Finish => None,
        }
    }
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// A quorum holds it.
    Stored,
    /// It is on some replicas and may be read, but no quorum acknowledged it.
    Unknown {
        /// Who did, and how many must.
        acked: Shortfall,
    },
}

/// One write under way.
#[derive(Debug)]
pub struct WriteCoordinator {
    me: NodeId,
    quorums: Quorums,
    acked: SmallVec<[NodeId; 3]>,
    is_persisted: bool,
    waiting: SmallVec<[NodeId; 3]>,
    has_been_overtaken: bool,
    is_settled: bool,
    is_finished: bool,
}

impl WriteCoordinator {
    /// A write that these quorums must hold; `me` is this node.
    #[must_use]
    pub fn new(me: NodeId, quorums: Quorums) -> Self {
        let waiting = quorums.nodes().into_iter().filter(|node| *node != me).collect();
        Self {
            me,
            quorums,
            acked: SmallVec::new(),
            is_persisted: false,
            waiting,
            has_been_overtaken: false,
            is_settled: false,
            is_finished: false,
        }
    }

    /// Whether the client has its answer.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// The partition has other replicas by now: their quorums count, and those that are new get the cell.
    ///
    /// What replicas have acknowledged stays acknowledged; those that are none any more count for nothing.
    pub fn regroup(&mut self, quorums: Quorums, effects: &mut Vec<WriteEffect>) {
        let nodes = quorums.nodes();
        let before = std::mem::replace(&mut self.quorums, quorums).nodes();
        if self.is_finished {
            return;
        }
        self.waiting.retain(|node| nodes.contains(node));
        // Who comes back later comes back without what it held.
        self.acked.retain(|node| nodes.contains(node));
        for to in nodes {
            let is_known = to == self.me || before.contains(&to);
            if !is_known {
                self.waiting.push(to);
                effects.push(WriteEffect::Send { to });
            }
        }
        self.conclude(effects);
    }

    /// A replica refused because it knows of another layout: it gets the cell again once this node does too.
    pub fn resend(&mut self, to: NodeId, effects: &mut Vec<WriteEffect>) {
        if self.waiting.contains(&to) && !self.is_finished {
            effects.push(WriteEffect::Send { to });
        }
    }

    /// Whether a replica's answer is still due.
    #[must_use]
    pub fn awaits(&self, node: NodeId) -> bool {
        self.waiting.contains(&node) && !self.is_finished
    }

    /// The partition has other replicas by now, so that an acknowledgement of before says nothing of order: the
    /// write is run once more, unless its client has its answer; whether it is.
    pub fn repeat(&mut self, effects: &mut Vec<WriteEffect>) -> bool {
        let is_open = !self.is_settled && !self.is_finished;
        if is_open {
            self.is_finished = true;
            effects.push(WriteEffect::Repeat);
        }
        is_open
    }

    /// Applies one input. Never blocks, never fails, never reads a clock.
    pub fn handle(&mut self, input: WriteInput, effects: &mut Vec<WriteEffect>) {
        if self.is_finished {
            return;
        }
        match input {
            WriteInput::Started => {
                effects.extend(self.waiting.iter().map(|to| WriteEffect::Send { to: *to }))
            }
            WriteInput::Persisted => self.is_persisted = true,
            WriteInput::Acked { from } => self.acked(from),
            WriteInput::Overtaken { from } => self.overtaken(from, effects),
            WriteInput::Dawdled => self.repeat_unless(|_| false, effects),
            WriteInput::Failed { from } => self.failed(from, effects),
            WriteInput::DeadlinePassed => self.deadline_passed(effects),
        }
        self.conclude(effects);
    }

    fn acked(&mut self, from: NodeId) {
        if self.stop_waiting_for(from) {
            self.acked.push(from);
        }
    }

    fn failed(&mut self, from: NodeId, effects: &mut Vec<WriteEffect>) {
        if self.stop_waiting_for(from) {
            effects.push(WriteEffect::StoreHint { intended: from });
            if Mutant::CountHintAsAck.is_planted() {
                self.acked.push(from);
            }
        }
    }

    fn overtaken(&mut self, from: NodeId, effects: &mut Vec<WriteEffect>) {
        if self.stop_waiting_for(from) && !self.is_settled {
            if !self.has_been_overtaken {
                effects.push(WriteEffect::Remind);
            }
            self.has_been_overtaken = true;
        }
    }

    /// Gives up this run of a write that was overtaken, unless a quorum holds it with those that may yet.
    fn repeat_unless(&mut self, may_yet: impl Fn(NodeId) -> bool, effects: &mut Vec<WriteEffect>) {
        let is_open = self.has_been_overtaken && !self.is_settled && !self.is_finished;
        let may_hold = |node| node == self.me || self.is_held_by(node) || may_yet(node);
        if is_open && !self.quorums.is_met(may_hold) {
            self.is_finished = true;
            effects.push(WriteEffect::Repeat);
        }
    }

    fn deadline_passed(&mut self, effects: &mut Vec<WriteEffect>) {
        effects.extend(self.waiting.drain(..).map(|intended| WriteEffect::StoreHint { intended }));
        self.settle_unknown(effects);
    }

    fn conclude(&mut self, effects: &mut Vec<WriteEffect>) {
        if !self.is_settled && self.quorums.is_met(|node| self.is_held_by(node)) {
            self.is_settled = true;
            effects.push(WriteEffect::Settle(WriteOutcome::Stored));
        }
        let waiting = self.waiting.clone();
        self.repeat_unless(|node| waiting.contains(&node), effects);
        if self.is_finished {
            return;
        }
        if self.waiting.is_empty() && self.is_persisted {
            self.settle_unknown(effects);
        }
        if self.waiting.is_empty() && self.is_settled && !self.is_finished {
            self.is_finished = true;
            effects.push(WriteEffect::Finish);
        }
    }

    fn settle_unknown(&mut self, effects: &mut Vec<WriteEffect>) {
        if !self.is_settled {
            self.is_settled = true;
            let acked = self.quorums.shortfall(|node| self.is_held_by(node));
            effects.push(WriteEffect::Settle(WriteOutcome::Unknown { acked }));
        }
    }

    /// Whether a replica is known to hold the cell.
    fn is_held_by(&self, node: NodeId) -> bool {
        if node == self.me { self.is_persisted } else { self.acked.contains(&node) }
    }

    fn stop_waiting_for(&mut self, peer: NodeId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| *waiting != peer);
        self.waiting.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorums::{QuorumSet, Side};

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const C: NodeId = NodeId([3; 32]);
    const D: NodeId = NodeId([4; 32]);

    fn of(members: &[NodeId], needed: u8) -> Quorums {
        Quorums::of(QuorumSet { members: members.iter().copied().collect(), needed })
    }

    fn acked(held: u8, needed: u8) -> Shortfall {
        Shortfall { held, needed, members: 3, side: Side::Only }
    }

    fn play(needed: u8, inputs: &[WriteInput]) -> Vec<WriteEffect> {
        let mut machine = WriteCoordinator::new(A, of(&[A, B, C], needed));
        let mut effects = Vec::new();
        inputs.iter().for_each(|input| machine.handle(*input, &mut effects));
        effects
    }

    #[test]
    fn settles_at_the_quorum_and_finishes_when_all_have_answered() {
        let effects = play(
            2,
            &[
                WriteInput::Started,
                WriteInput::Persisted,
                WriteInput::Acked { from: B },
                WriteInput::Acked { from: C },
            ],
        );
        assert_eq!(
            effects,
            [
                WriteEffect::Send { to: B },
                WriteEffect::Send { to: C },
                WriteEffect::Settle(WriteOutcome::Stored),
                WriteEffect::Finish,
            ]
        );
    }

    #[test]
    fn the_same_replica_counts_once() {
        let effects = play(
            3,
            &[
                WriteInput::Persisted,
                WriteInput::Acked { from: B },
                WriteInput::Acked { from: B },
                WriteInput::Acked { from: NodeId([9; 32]) },
            ],
        );
        assert_eq!(effects, []);
    }

    #[test]
    fn a_copy_that_is_not_yet_durable_here_does_not_count() {
        assert_eq!(play(2, &[WriteInput::Acked { from: B }]), []);
    }

    #[test]
    fn leaves_a_hint_for_each_silent_replica_and_never_counts_it() {
        let effects = play(
            2,
            &[
                WriteInput::Persisted,
                WriteInput::Failed { from: B },
                WriteInput::DeadlinePassed,
                WriteInput::Acked { from: C },
            ],
        );
        assert_eq!(
            effects,
            [
                WriteEffect::StoreHint { intended: B },
                WriteEffect::StoreHint { intended: C },
                WriteEffect::Settle(WriteOutcome::Unknown { acked: acked(1, 2) }),
                WriteEffect::Finish,
            ]
        );
    }

    #[test]
    fn a_refusal_leaves_its_hint_at_once_and_only_where_nothing_was_acknowledged() {
        let inputs =
            [WriteInput::Acked { from: B }, WriteInput::Failed { from: B }, WriteInput::Failed { from: C }];
        assert_eq!(play(2, &inputs), [WriteEffect::StoreHint { intended: C }]);
    }

    #[test]
    fn who_does_not_know_the_outcome_is_told_how_many_replicas_hold_it() {
        let twice = [WriteInput::Acked { from: B }, WriteInput::Acked { from: B }];
        let rest = [WriteInput::Persisted, WriteInput::DeadlinePassed];
        let effects = play(3, &[twice, rest].concat());
        let settled = WriteEffect::Settle(WriteOutcome::Unknown { acked: acked(2, 3) });
        assert_eq!(effects, [WriteEffect::StoreHint { intended: C }, settled, WriteEffect::Finish]);
    }

    #[test]
    fn while_the_partition_moves_those_are_counted_that_lack_a_quorum() {
        let set = |members: [NodeId; 3]| QuorumSet { members: members.into_iter().collect(), needed: 2 };
        let [e, f] = [NodeId([5; 32]), NodeId([6; 32])];
        let mut machine = WriteCoordinator::new(A, Quorums::joint(set([A, B, C]), set([D, e, f])));
        let mut effects = Vec::new();
        let inputs = [WriteInput::Persisted, WriteInput::Acked { from: B }, WriteInput::Acked { from: D }];
        inputs.into_iter().for_each(|input| machine.handle(input, &mut effects));
        assert_eq!(effects, []);
        machine.handle(WriteInput::DeadlinePassed, &mut effects);
        let acked = Shortfall { held: 1, needed: 2, members: 3, side: Side::To };
        assert!(effects.contains(&WriteEffect::Settle(WriteOutcome::Unknown { acked })), "{effects:?}");
    }

    #[test]
    fn the_cell_is_sent_again_only_to_who_has_not_acknowledged_it() {
        let mut machine = WriteCoordinator::new(A, of(&[A, B, C], 3));
        let mut effects = Vec::new();
        machine.handle(WriteInput::Acked { from: B }, &mut effects);
        [A, B, C, D].into_iter().for_each(|to| machine.resend(to, &mut effects));
        assert_eq!(effects, [WriteEffect::Send { to: C }]);
    }

    #[test]
    fn a_write_under_way_follows_its_partition() {
        let set = |members: [NodeId; 3]| QuorumSet { members: members.into_iter().collect(), needed: 2 };
        let mut machine = WriteCoordinator::new(A, of(&[A, B, C], 2));
        let mut effects = Vec::new();
        machine.handle(WriteInput::Started, &mut effects);
        machine.handle(WriteInput::Persisted, &mut effects);
        effects.clear();
        machine.regroup(Quorums::joint(set([A, B, C]), set([B, C, D])), &mut effects);
        assert_eq!(effects, [WriteEffect::Send { to: D }], "one of the next replicas has it, two are needed");
        machine.handle(WriteInput::Acked { from: D }, &mut effects);
        assert_eq!(effects.len(), 1);
        machine.handle(WriteInput::Acked { from: B }, &mut effects);
        assert_eq!(effects.last(), Some(&WriteEffect::Settle(WriteOutcome::Stored)));
        machine.regroup(of(&[B, D], 2), &mut effects);
        assert_eq!(
            effects.last(),
            Some(&WriteEffect::Finish),
            "nobody waits for what is no replica any more"
        );
    }

    #[test]
    fn an_overtaken_write_is_repeated_once_no_quorum_can_acknowledge_it() {
        let rest = [WriteInput::Persisted, WriteInput::Overtaken { from: B }];
        assert_eq!(play(2, &rest), [WriteEffect::Remind], "the other one may not have had that value");
        let stored = play(2, &[&rest[..], &[WriteInput::Acked { from: C }]].concat());
        assert_eq!(stored[1..], [WriteEffect::Settle(WriteOutcome::Stored), WriteEffect::Finish]);
        for last in [WriteInput::Overtaken { from: C }, WriteInput::Dawdled] {
            let inputs = [&rest[..], &[last, WriteInput::Acked { from: C }, WriteInput::Dawdled]].concat();
            assert_eq!(play(2, &inputs)[1..], [WriteEffect::Repeat], "{last:?}");
        }
        let failed = play(2, &[&rest[..], &[WriteInput::Failed { from: C }]].concat());
        assert_eq!(failed[1..], [WriteEffect::StoreHint { intended: C }, WriteEffect::Repeat]);
        let late = play(2, &[&rest[..], &[WriteInput::DeadlinePassed]].concat());
        assert_eq!(
            late[2..],
            [WriteEffect::Settle(WriteOutcome::Unknown { acked: acked(1, 2) }), WriteEffect::Finish]
        );
    }

    #[test]
    fn an_answered_write_is_never_repeated() {
        let mut machine = WriteCoordinator::new(A, of(&[A, B, C], 2));
        let mut effects = Vec::new();
        machine.handle(WriteInput::Persisted, &mut effects);
        machine.handle(WriteInput::Acked { from: B }, &mut effects);
        assert!(machine.is_settled() && machine.awaits(C) && !machine.awaits(B));
        assert!(!machine.repeat(&mut effects));
        machine.handle(WriteInput::Overtaken { from: C }, &mut effects);
        assert_eq!(effects, [WriteEffect::Settle(WriteOutcome::Stored), WriteEffect::Finish]);
    }

    #[test]
    fn a_write_that_meets_other_replicas_is_repeated_and_takes_no_late_answers() {
        let mut machine = WriteCoordinator::new(A, of(&[A, B, C], 2));
        let mut effects = Vec::new();
        machine.handle(WriteInput::Persisted, &mut effects);
        assert!(machine.repeat(&mut effects) && !machine.repeat(&mut effects));
        machine.resend(B, &mut effects);
        assert!(!machine.awaits(B));
        assert_eq!(effects, [WriteEffect::Repeat]);
    }
}
