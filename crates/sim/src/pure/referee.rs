//! What was promised, and whether it is kept: the rules of a game.
//!
//! Invariant: a rule is stated in dots: a write is kept where its dot, or what has seen it, is on disk.

use std::collections::BTreeMap;

use slipring_model::{Dot, VersionVector};
use slipring_replication::{ReadEffect, WriteEffect};
use slipring_service::{Cell, ValueKind};

use crate::run::Violation;

use super::network::Key;
use super::replica::{Replica, decode};

/// Keeps the score and calls breaches.
#[derive(Default)]
pub(super) struct Referee {
    /// Per key, the writes that every later read must have seen.
    promised: BTreeMap<Key, VersionVector>,
    /// Every increment ever made.
    increments: BTreeMap<(Key, Dot), i64>,
}

pub(super) fn breach(rule: &'static str, story: impl Into<String>) -> Violation {
    Violation::new(rule, story)
}

impl Referee {
    pub(super) fn promised(&self, key: Key) -> VersionVector {
        self.promised.get(&key).cloned().unwrap_or_default()
    }

    pub(super) fn promise(&mut self, key: Key, context: &VersionVector) {
        self.promised.entry(key).or_default().join(context);
    }

    pub(super) fn incremented(&mut self, key: Key, dot: Dot, delta: i64) {
        self.increments.insert((key, dot), delta);
    }

    /// A write is answered as stored: so many distinct replicas must have it on disk.
    pub(super) fn stored(
        &mut self,
        replicas: &[Replica],
        key: Key,
        dot: Dot,
        needed: u8,
    ) -> Result<(), Violation> {
        let holders = replicas.iter().filter(|replica| replica.is_durable(key, dot)).count();
        if holders < usize::from(needed) {
            let story = format!("{dot:?} of key {key} is stored, but on {holders} disks of {needed}");
            return Err(breach("durable_quorum", story));
        }
        self.promise(key, &[dot].into_iter().collect());
        Ok(())
    }

    /// A read is answered: what was promised when it began is in it, and so many replicas hold it.
    pub(super) fn answered(
        &self,
        replicas: &[Replica],
        key: Key,
        answer: Option<&[u8]>,
        promised: &VersionVector,
        needed: u8,
    ) -> Result<(), Violation> {
        let cell = answer.map_or_else(Cell::default, decode);
        if !cell.context.descends(promised) {
            return Err(breach("fresh_read", format!("key {key}: {promised:?} was promised, read {cell:?}")));
        }
        let holders = replicas.iter().filter(|replica| replica.has_held(key, &cell.context)).count();
        if !cell.context.is_empty() && holders < usize::from(needed) {
            let story = format!("key {key}: {holders} replicas of {needed} have held {cell:?}");
            return Err(breach("read_quorum", story));
        }
        self.adds_up(key, &cell)
    }

    /// A counter is the sum of exactly the increments that its cell has seen.
    pub(super) fn adds_up(&self, key: Key, cell: &Cell<'_>) -> Result<(), Violation> {
        if key.is_multiple_of(2) {
            return Ok(());
        }
        let seen = |((of, dot), delta): (&(Key, Dot), &i64)| {
            (*of == key && cell.context.covers(*dot)).then_some(*delta)
        };
        let expected: i64 = self.increments.iter().filter_map(seen).sum();
        let total = match cell.value(0).map(|value| value.kind) {
            Some(ValueKind::Counter(total)) => total,
            _ => 0,
        };
        if total == expected {
            return Ok(());
        }
        Err(breach("exact_counter", format!("key {key} is {total}, not {expected}: {cell:?}")))
    }

    /// At the end: all replicas hold the same, and nothing promised is missing.
    pub(super) fn settled(&self, replicas: &[Replica]) -> Result<(), Violation> {
        let Some((first, others)) = replicas.split_first() else { return Ok(()) };
        if let Some(other) = others.iter().find(|other| other.cells() != first.cells()) {
            let story = format!("{:?} and {:?}", first.cells(), other.cells());
            return Err(breach("convergence", story));
        }
        if others.iter().any(|other| other.root() != first.root()) {
            return Err(breach("convergence", "equal cells have different roots"));
        }
        for (key, promised) in &self.promised {
            let cell = first.cells().get(key).map_or_else(Cell::default, |bytes| decode(bytes));
            if !cell.context.descends(promised) {
                return Err(breach("kept_at_last", format!("key {key}: {promised:?} is not in {cell:?}")));
            }
            self.adds_up(*key, &cell)?;
        }
        Ok(())
    }
}

/// A write machine is answered for once and ends once; nothing is sent after it has ended.
pub(super) fn write_effects(
    effects: &[WriteEffect],
    was_answered: bool,
    was_finished: bool,
) -> Result<(), Violation> {
    let settled = effects.iter().filter(|effect| matches!(effect, WriteEffect::Settle(_))).count();
    let finished = effects.iter().filter(|effect| **effect == WriteEffect::Finish).count();
    if was_finished && !effects.is_empty() {
        return Err(breach("late_reply", format!("a finished write still does {effects:?}")));
    }
    if settled + usize::from(was_answered) > 1 || finished > 1 {
        return Err(breach("one_answer", format!("a write is settled or finished twice: {effects:?}")));
    }
    if finished == 1 && settled == 0 && !was_answered {
        return Err(breach("one_answer", "a write has finished without an answer"));
    }
    Ok(())
}

/// A read machine is answered for once, and does nothing after that.
pub(super) fn read_effects(effects: &[ReadEffect], was_settled: bool) -> Result<(), Violation> {
    let settled = effects.iter().filter(|effect| matches!(effect, ReadEffect::Settle(_))).count();
    if was_settled && !effects.is_empty() {
        return Err(breach("late_reply", format!("a settled read still does {effects:?}")));
    }
    if settled > 1 || settled == 1 && !matches!(effects.last(), Some(ReadEffect::Settle(_))) {
        return Err(breach("one_answer", format!("a read goes on after its answer: {effects:?}")));
    }
    Ok(())
}
