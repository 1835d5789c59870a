//! A game about founding: some nodes start at once, and at most one of them may ever found a cluster.
//!
//! What they tell each other comes late, twice, out of order or never; nodes die at any step and keep only what is on
//! disk, promises reach the disk some time after they were asked for, directories are lost, and ways are cut. Nodes
//! are fewer than twice as many as are expected: with more no rule could hold. At the end all are well, and unless
//! a directory was lost, all must come to be members of the one cluster.

use std::collections::{BTreeSet, VecDeque};

use fastrand::Rng;
use slipring_membership::founding::{Attempt, Effect, Founding, Input, Standing};
use slipring_model::{ClusterId, Moment, NodeId};

use super::referee::breach;
use crate::run::Violation;

/// The most words under way; more are lost.
const WORDS_MAX: usize = 64;
/// Turns after which all that are well must have become members: in each, everybody tells everybody.
const TURNS: usize = 40;

/// A machine of a node that belongs to no cluster.
pub trait FoundingMachine {
    /// Applies one input and appends what is to be done.
    fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>);
    /// What it tells others.
    fn standing(&self) -> Standing;
}

impl FoundingMachine for Founding {
    fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        Self::handle(self, now, input, effects);
    }

    fn standing(&self) -> Standing {
        Self::standing(self)
    }
}

/// Starts machines: those of the product, or ones with a flaw.
pub type Starter<'a> = &'a dyn Fn(NodeId, u64, u32, Option<Attempt>) -> Box<dyn FoundingMachine>;

/// What came of a game.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Formed {
    /// Attempts that were given up for another node's, or lost with their node.
    pub attempts: u64,
    /// Nodes that died.
    pub deaths: u64,
    /// Whether a cluster was founded before all was well.
    pub is_early: bool,
}

/// Plays so many steps, then lets all be well.
///
/// # Errors
/// The first rule that was broken.
pub fn play(seed: u64, steps: u64, start: Starter<'_>) -> Result<Formed, Violation> {
    let mut rng = Rng::with_seed(seed);
    let expected = rng.u8(1..6);
    let count = if rng.bool() { expected } else { rng.u8(expected..expected * 2) };
    let mut game = Game::new(rng, u32::from(expected), count, start);
    for _ in 0..steps {
        game.step()?;
    }
    game.formed.is_early = game.founded.is_some();
    game.finish()
}

/// One place where a node runs.
struct Seat {
    node: NodeId,
    incarnation: u64,
    /// On disk.
    promised: Option<Attempt>,
    cluster: Option<ClusterId>,
    /// While it runs and is no member.
    machine: Option<Box<dyn FoundingMachine>>,
    /// On their way to the disk, in order.
    persisting: VecDeque<Attempt>,
    is_up: bool,
}

impl Seat {
    fn standing(&self) -> Option<Standing> {
        match (self.is_up, self.cluster) {
            (false, _) => None,
            (true, Some(cluster)) => Some(Standing::member(self.node, self.incarnation, cluster)),
            (true, None) => self.machine.as_ref().map(|machine| machine.standing()),
        }
    }
}

struct Game<'a> {
    rng: Rng,
    start: Starter<'a>,
    expected: u32,
    now: Moment,
    seats: Vec<Seat>,
    /// To whom, and what.
    words: Vec<(usize, Standing)>,
    cuts: BTreeSet<(usize, usize)>,
    founded: Option<NodeId>,
    nodes: u8,
    has_lost_directory: bool,
    /// Whether nodes may still die.
    has_steps: bool,
    formed: Formed,
}

impl<'a> Game<'a> {
    fn new(rng: Rng, expected: u32, count: u8, start: Starter<'a>) -> Self {
        let mut game = Self {
            rng,
            start,
            expected,
            now: Moment(0),
            seats: Vec::new(),
            words: Vec::new(),
            cuts: BTreeSet::new(),
            founded: None,
            nodes: 0,
            has_lost_directory: false,
            has_steps: true,
            formed: Formed::default(),
        };
        for _ in 0..count {
            let seat = game.new_seat();
            game.seats.push(seat);
        }
        game
    }

    /// A node that was never there before. Ids do not follow the order of starts.
    fn new_seat(&mut self) -> Seat {
        let mut id = [self.rng.u8(..); 32];
        id[31] = self.nodes;
        self.nodes += 1;
        Seat {
            node: NodeId(id),
            incarnation: 0,
            promised: None,
            cluster: None,
            machine: None,
            persisting: VecDeque::new(),
            is_up: false,
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.now = Moment(self.now.0 + self.rng.u64(..400_000));
        let seat = self.rng.usize(..self.seats.len());
        let other = self.rng.usize(..self.seats.len());
        match self.rng.u8(..32) {
            0..=9 => self.tell(seat, other),
            10..=19 => return self.deliver(),
            20..=24 => return self.give(seat, Input::Asked),
            25..=27 => return self.persist(seat),
            28 => self.power(seat),
            29 => drop(self.cuts.insert((seat, other))),
            30 if self.rng.bool() => drop(self.cuts.pop_first()),
            30 => self.cuts.clear(),
            _ if self.rng.u8(..8) == 0 => self.lose_directory(seat),
            _ => {}
        }
        Ok(())
    }

    fn tell(&mut self, from: usize, to: usize) {
        let standing = self.seats.get(from).and_then(Seat::standing);
        if let Some(standing) = standing.filter(|_| from != to && !self.cuts.contains(&(from, to)))
            && self.words.len() < WORDS_MAX
        {
            self.words.push((to, standing));
        }
    }

    fn deliver(&mut self) -> Result<(), Violation> {
        if self.words.is_empty() {
            return Ok(());
        }
        let place = self.rng.usize(..self.words.len());
        let (to, standing) = match self.rng.u8(..8) {
            0 => *self.words.get(place).expect("it was drawn"),
            _ => self.words.swap_remove(place),
        };
        if self.rng.u8(..8) == 0 { Ok(()) } else { self.give(to, Input::Heard(standing)) }
    }

    fn persist(&mut self, seat: usize) -> Result<(), Violation> {
        let Some(attempt) = self.seat(seat).persisting.pop_front() else { return Ok(()) };
        self.seat(seat).promised = Some(attempt);
        self.give(seat, Input::Persisted(attempt))
    }

    /// Ends a node that is up, and starts one that is not.
    fn power(&mut self, seat: usize) {
        let (start, expected, has_synced) = (self.start, self.expected, self.rng.bool());
        let seat = self.seat(seat);
        seat.is_up = !seat.is_up;
        if seat.is_up {
            seat.incarnation += 1;
            seat.machine = Some(start(seat.node, seat.incarnation, expected, seat.promised));
            return;
        }
        let was_attempting = seat.machine.take().is_some_and(|machine| machine.standing().is_attempting);
        // The first of what was under way may have reached the disk.
        let reached = seat.persisting.pop_front().filter(|_| has_synced);
        seat.promised = reached.or(seat.promised);
        seat.persisting.clear();
        self.formed.deaths += 1;
        self.formed.attempts += u64::from(was_attempting);
    }

    /// Puts a new node in the place of one, as long as they are fewer than twice the expected number.
    fn lose_directory(&mut self, seat: usize) {
        if u32::from(self.nodes) < self.expected * 2 - 1 {
            let new = self.new_seat();
            *self.seat(seat) = new;
            self.has_lost_directory = true;
        }
    }

    fn give(&mut self, index: usize, input: Input) -> Result<(), Violation> {
        let now = self.now;
        let seat = self.seat(index);
        let Some(machine) = seat.machine.as_mut().filter(|_| seat.cluster.is_none()) else { return Ok(()) };
        let was_attempting = machine.standing().is_attempting;
        let mut effects = Vec::new();
        machine.handle(now, input, &mut effects);
        let has_stepped_back = was_attempting && !machine.standing().is_attempting;
        self.formed.attempts += u64::from(has_stepped_back);
        for effect in effects {
            match effect {
                Effect::Persist(attempt) => self.seat(index).persisting.push_back(attempt),
                Effect::Found => self.found(index)?,
                Effect::Join(cluster) => self.seat(index).cluster = Some(cluster),
                Effect::Refuse(refusal) => {
                    return Err(breach("refusal", format!("seat {index}: {refusal:?}")));
                }
            }
        }
        Ok(())
    }

    fn found(&mut self, index: usize) -> Result<(), Violation> {
        if self.rng.u8(..8) == 0 && self.has_steps {
            // It dies before that is on disk.
            self.power(index);
            return Ok(());
        }
        let node = self.seat(index).node;
        if let Some(other) = self.founded.replace(node) {
            let story = format!("{} founds after {}", node.short(), other.short());
            return Err(breach("one_founder", story));
        }
        let cluster = ClusterId([1; 16]);
        self.seat(index).cluster = Some(cluster);
        Ok(())
    }

    /// Starts all, hears all, and waits until all are members.
    fn finish(mut self) -> Result<Formed, Violation> {
        self.has_steps = false;
        self.cuts.clear();
        for seat in 0..self.seats.len() {
            if !self.seat(seat).is_up {
                self.power(seat);
            }
        }
        for _ in 0..TURNS {
            self.now = Moment(self.now.0 + 500_000);
            self.turn()?;
        }
        let is_whole = self.seats.iter().all(|seat| seat.cluster.is_some());
        match is_whole || self.has_lost_directory {
            true => Ok(self.formed),
            false => {
                let standings: Vec<_> = self.seats.iter().map(Seat::standing).collect();
                Err(breach("one_cluster", format!("after {TURNS} turns: {standings:?}")))
            }
        }
    }

    fn turn(&mut self) -> Result<(), Violation> {
        for (to, standing) in std::mem::take(&mut self.words) {
            self.give(to, Input::Heard(standing))?;
        }
        for from in 0..self.seats.len() {
            for to in 0..self.seats.len() {
                let standing = self.seat(from).standing().filter(|_| from != to);
                standing.map_or(Ok(()), |standing| self.give(to, Input::Heard(standing)))?;
            }
        }
        for seat in 0..self.seats.len() {
            while !self.seat(seat).persisting.is_empty() {
                self.persist(seat)?;
            }
            self.give(seat, Input::Asked)?;
        }
        Ok(())
    }

    fn seat(&mut self, index: usize) -> &mut Seat {
        self.seats.get_mut(index).expect("seats are drawn from those there are")
    }
}
