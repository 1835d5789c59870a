//! Driving the machines of a game, and bringing it to its end.

use slipring_model::VersionVector;
use slipring_replication::{ReadEffect, ReadInput, ReadOutcome, WriteEffect, WriteInput, WriteOutcome};
use slipring_service::Cell;

use crate::run::Violation;

use super::game::Game;
use super::network::{Body, Message};
use super::referee::{breach, read_effects, write_effects};
use super::replica::{decode, node, replica_of};
use super::request::{Ask, Phase, Request};

/// Rounds of exchanges after which replicas must be equal.
const ROUNDS: usize = 2;

impl Request {
    /// Whether nothing more can come of it.
    pub(super) fn is_over(&self) -> bool {
        match &self.phase {
            Phase::Reading { is_settled, .. } => *is_settled,
            Phase::Writing { is_finished, .. } => *is_finished,
            Phase::Hinting { .. } => true,
        }
    }
}

impl Game<'_> {
    /// Hands one input to a read and does what it asks for.
    pub(super) fn drive_read(&mut self, number: u64, input: ReadInput) -> Result<(), Violation> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let repair = self.next_number();
            let Some(request) = self.requests.get_mut(&number) else { return Ok(()) };
            let (at, key) = (request.at, request.key);
            let Phase::Reading { machine, is_settled, repairs } = &mut request.phase else { return Ok(()) };
            let mut effects = Vec::new();
            machine.handle(input, &mut effects);
            read_effects(&effects, *is_settled)?;
            *is_settled |= matches!(effects.last(), Some(ReadEffect::Settle(_)));
            for effect in &effects {
                if let ReadEffect::Repair { to, .. } = effect {
                    repairs.insert(replica_of(*to), repair);
                }
            }
            for effect in effects {
                let (to, body) = match effect {
                    ReadEffect::Digest { to } => (to, Body::Digest),
                    ReadEffect::Fetch { to } => (to, Body::Fetch),
                    ReadEffect::Repair { to, cell } => {
                        self.score.repairs += 1;
                        (to, Body::Store { cell, repair })
                    }
                    ReadEffect::RepairHere { cell } => {
                        self.store(at, key, &cell)?;
                        continue;
                    }
                    ReadEffect::Settle(outcome) => {
                        self.answer_read(number, outcome)?;
                        continue;
                    }
                };
                self.is_another(at, to)?;
                if !self.replica(replica_of(to)).is_up {
                    inputs.push(ReadInput::Failed { from: to });
                } else {
                    self.send(at, replica_of(to), number, key, body);
                }
            }
        }
        Ok(())
    }

    /// Hands one input to a write and does what it asks for.
    pub(super) fn drive_write(&mut self, number: u64, input: WriteInput) -> Result<(), Violation> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let Some(request) = self.requests.get_mut(&number) else { return Ok(()) };
            let (at, key, was_answered) = (request.at, request.key, request.is_answered);
            let Phase::Writing { machine, cell, dot, is_finished } = &mut request.phase else {
                return Ok(());
            };
            let mut effects = Vec::new();
            machine.handle(input, &mut effects);
            write_effects(&effects, was_answered, *is_finished)?;
            *is_finished |= effects.contains(&WriteEffect::Finish);
            request.is_answered |= effects.iter().any(|effect| matches!(effect, WriteEffect::Settle(_)));
            let (cell, dot) = (cell.clone(), *dot);
            for effect in effects {
                match effect {
                    WriteEffect::Send { to } => {
                        self.is_another(at, to)?;
                        if !self.replica(replica_of(to)).is_up {
                            inputs.push(WriteInput::Failed { from: to });
                        } else {
                            self.send(
                                at,
                                replica_of(to),
                                number,
                                key,
                                Body::Store { cell: cell.clone(), repair: 0 },
                            );
                        }
                    }
                    WriteEffect::StoreHint { intended } => {
                        self.replica(at).add_hint(intended, key);
                        self.score.hints += 1;
                    }
                    WriteEffect::Settle(WriteOutcome::Stored) => {
                        self.score.stored += 1;
                        self.referee.stored(&self.replicas, key, dot, self.rules.quorum.w)?;
                    }
                    WriteEffect::Settle(WriteOutcome::Unknown { .. }) => self.score.failed += 1,
                    // No replica of a game says that it has overtaken a write.
                    WriteEffect::Remind | WriteEffect::Repeat | WriteEffect::Finish => {}
                }
            }
        }
        Ok(())
    }

    /// A replica has taken over a cell: of a write, of a read that repairs, or of a hint.
    pub(super) fn taken_over(&mut self, number: u64, from: usize, repair: u64) -> Result<(), Violation> {
        if let Some(Request { phase: Phase::Hinting { target }, at, key, .. }) = self.requests.get(&number) {
            let (at, key, target) = (*at, *key, *target);
            self.replica(at).remove_hint(node(target), key);
            self.requests.remove(&number);
            return Ok(());
        }
        if let Some(Request { phase: Phase::Reading { repairs, .. }, .. }) = self.requests.get(&number)
            && repairs.get(&from) == Some(&repair)
        {
            return self.drive_read(number, ReadInput::Repaired { from: node(from) });
        }
        self.drive_write(number, WriteInput::Acked { from: node(from) })
    }

    /// Whether `to` is a replica other than the one that coordinates.
    fn is_another(&self, at: usize, to: slipring_model::NodeId) -> Result<(), Violation> {
        if to == node(at) || replica_of(to) >= self.replicas.len() {
            return Err(breach("distinct_replicas", format!("replica {at} sends to {to:?}")));
        }
        Ok(())
    }

    fn answer_read(&mut self, number: u64, outcome: ReadOutcome) -> Result<(), Violation> {
        let Some(request) = self.requests.get_mut(&number) else { return Ok(()) };
        request.is_answered = true;
        let (at, key, ask, promised) =
            (request.at, request.key, request.ask.clone(), request.promised.clone());
        let ReadOutcome::Answered(answer) = outcome else {
            self.score.failed += 1;
            return Ok(());
        };
        self.referee.answered(&self.replicas, key, answer.as_deref(), &promised, self.rules.quorum.r)?;
        match ask {
            Ask::Looking(change) => {
                let local = self.replica(at).cell(key).cloned().unwrap_or_default();
                let context =
                    if local.is_empty() { VersionVector::default() } else { decode(&local).context };
                if !context.descends(&promised) {
                    let story = format!("replica {at} decides on {context:?}, but {promised:?} was promised");
                    return Err(breach("fresh_look", story));
                }
                let number = self.next_number();
                self.write(number, at, key, &change, promised)
            }
            Ask::Read | Ask::Blind(_) => {
                self.score.read += 1;
                // What a majority has read stays read, unless the power takes what had not reached a disk.
                if !self.rules.loses_power && 2 * self.rules.quorum.r > self.rules.quorum.n {
                    let cell = answer.as_deref().map_or_else(Cell::default, decode);
                    self.referee.promise(key, &cell.context);
                }
                Ok(())
            }
        }
    }

    /// Starts whoever is down, ends what is under way, delivers every hint, and exchanges until all are equal.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        let down = |replica: &&mut super::replica::Replica| !replica.is_up;
        self.replicas.iter_mut().filter(down).for_each(super::replica::Replica::start);
        let numbers: Vec<u64> = self.requests.keys().copied().collect();
        for number in numbers {
            self.expire(number)?;
        }
        for at in 0..self.replicas.len() {
            self.sync(at)?;
        }
        let is_open = |request: &&Request| {
            !request.is_answered || matches!(&request.phase, Phase::Writing { is_finished: false, .. })
        };
        if let Some(open) = self.requests.values().find(is_open) {
            let story = format!("a request on key {} is open beyond its time: {:?}", open.key, open.ask);
            return Err(breach("one_answer", story));
        }
        for _ in 0..ROUNDS {
            self.exchange_all()?;
        }
        self.referee.settled(&self.replicas)
    }

    fn exchange_all(&mut self) -> Result<(), Violation> {
        for at in 0..self.replicas.len() {
            for to in at + 1..self.replicas.len() {
                let page = self.replica(at).page();
                self.bag = super::network::Bag::default();
                self.receive(Message { from: at, to, request: 0, key: 0, body: Body::Page(page) })?;
                while self.bag.len() > 0 {
                    if let Some(message) = self.bag.draw(0, false) {
                        self.receive(message)?;
                    }
                }
            }
        }
        Ok(())
    }
}
