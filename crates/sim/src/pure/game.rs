//! One game: at each step something that may happen does, drawn from the seed.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use slipring_model::{Quorum, VersionVector};
use slipring_replication::{ReadInput, WriteInput};
use slipring_service::Change;

use crate::run::Violation;

use super::machines::Machines;
use super::network::{Bag, Body, Key, Message};
use super::referee::Referee;
use super::replica::{Replica, Waiter, decode, node};
use super::request::{Ask, Phase, Request};

/// The most requests under way; more are not begun.
const REQUESTS_MAX: usize = 12;

/// How a game is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Copies of each key, and the acknowledgements that reads and writes wait for; `r + w > n`.
    pub quorum: Quorum,
    /// How many keys there are, at most 255.
    pub keys: u8,
    /// How many steps are played before everything is delivered and exchanged.
    pub steps: u64,
    /// Whether a crash takes away what had not reached the disk.
    pub loses_power: bool,
}

impl Rules {
    /// The rules of a seed: three or five copies, a few keys, some hundred steps.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x0072_756c_6573);
        let n = if rng.u8(..4) == 0 { 5 } else { 3 };
        let w = rng.u8(1..=n);
        let r = rng.u8(n - w + 1..=n);
        Self {
            quorum: Quorum { n, r, w },
            keys: rng.u8(1..4),
            steps: rng.u64(100..600),
            loses_power: rng.bool(),
        }
    }
}

/// What a game saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Steps played.
    pub steps: u64,
    /// Writes answered as stored.
    pub stored: u64,
    /// Reads answered.
    pub read: u64,
    /// Requests that were answered without a result.
    pub failed: u64,
    /// Crashes.
    pub crashes: u64,
    /// Cells that reads brought other replicas up to.
    pub repairs: u64,
    /// Hints kept.
    pub hints: u64,
}

/// Plays the game of a seed; the same seed, rules and machines give the same score.
///
/// # Errors
/// The first rule that was broken.
pub fn play(seed: u64, rules: &Rules, machines: &dyn Machines) -> Result<Score, Violation> {
    let mut game = Game::new(seed, *rules, machines);
    for _ in 0..rules.steps {
        game.step()?;
    }
    game.settle()?;
    Ok(game.score)
}

/// A game under way.
pub(super) struct Game<'m> {
    pub(super) rules: Rules,
    pub(super) machines: &'m dyn Machines,
    pub(super) rng: Rng,
    pub(super) replicas: Vec<Replica>,
    pub(super) bag: Bag,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) referee: Referee,
    pub(super) score: Score,
    last_request: u64,
}

impl<'m> Game<'m> {
    fn new(seed: u64, rules: Rules, machines: &'m dyn Machines) -> Self {
        let mut rng = Rng::with_seed(seed);
        let replicas = (0..usize::from(rules.quorum.n)).map(|number| Replica::new(number, rng.u64(..50)));
        Self {
            rules,
            machines,
            replicas: replicas.collect(),
            rng,
            bag: Bag::default(),
            requests: BTreeMap::new(),
            referee: Referee::default(),
            score: Score::default(),
            last_request: 0,
        }
    }

    /// Lets one thing happen.
    fn step(&mut self) -> Result<(), Violation> {
        self.score.steps += 1;
        let replica = self.rng.usize(..self.replicas.len());
        let is_up = self.replica(replica).is_up;
        match self.rng.u8(..64) {
            0..=7 if is_up => self.begin(replica),
            8..=41 => self.deliver(),
            42..=51 if is_up => self.sync(replica),
            52 | 53 => self.hurry(),
            54 | 55 if is_up => self.hint(replica),
            56 | 57 if is_up => {
                self.exchange(replica);
                Ok(())
            }
            58 => self.disconnect(replica),
            59 if is_up && self.rng.u8(..4) == 0 => self.crash(replica),
            60..=62 if !is_up => {
                self.replica(replica).start();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn replica(&mut self, number: usize) -> &mut Replica {
        self.replicas.get_mut(number).expect("replicas are drawn from those there are")
    }

    fn draw_ask(&mut self, key: Key) -> Ask {
        let value = Bytes::from(self.last_request.to_string());
        match self.rng.u8(..8) {
            0..=2 => Ask::Read,
            draw if key % 2 == 1 => {
                let change = Change::Add(i64::from(draw));
                if self.rng.bool() { Ask::Blind(change) } else { Ask::Looking(change) }
            }
            3..=5 => Ask::Blind(Change::Put { value, expires_at: None, seen: None }),
            6 => Ask::Looking(Change::Remove { seen: None }),
            _ => Ask::Looking(Change::Put { value, expires_at: None, seen: Some(VersionVector::default()) }),
        }
    }

    /// A client asks a replica.
    fn begin(&mut self, at: usize) -> Result<(), Violation> {
        if !self.has_room() {
            return Ok(());
        }
        let number = self.next_number();
        let key = self.rng.u8(..self.rules.keys);
        let ask = self.draw_ask(key);
        let promised = self.referee.promised(key);
        match ask {
            Ask::Blind(change) => self.write(number, at, key, &change, promised),
            Ask::Read | Ask::Looking(_) => self.read(number, at, key, ask, promised),
        }
    }

    /// Whether one more request may begin; one that is over makes room.
    fn has_room(&mut self) -> bool {
        if self.requests.len() >= REQUESTS_MAX {
            let over = self.requests.iter().find(|(_, request)| request.is_over());
            let over = over.map(|(number, _)| *number);
            return over.is_some_and(|over| self.requests.remove(&over).is_some());
        }
        true
    }

    /// A number that no request has had: a late reply never finds another request.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    fn others(&mut self, at: usize) -> Vec<slipring_model::NodeId> {
        let mut others: Vec<_> = (0..self.replicas.len()).filter(|other| *other != at).map(node).collect();
        self.rng.shuffle(&mut others);
        others
    }

    fn read(
        &mut self,
        number: u64,
        at: usize,
        key: Key,
        ask: Ask,
        promised: VersionVector,
    ) -> Result<(), Violation> {
        let (own, others) = (self.replica(at).own(key), self.others(at));
        let machine = self.machines.read(self.rules.quorum.r, own, others);
        let phase = Phase::Reading { machine, is_settled: false, repairs: BTreeMap::new() };
        self.requests.insert(number, Request { at, key, ask, phase, promised, is_answered: false });
        self.drive_read(number, ReadInput::Started)
    }

    pub(super) fn write(
        &mut self,
        number: u64,
        at: usize,
        key: Key,
        change: &Change,
        promised: VersionVector,
    ) -> Result<(), Violation> {
        let (now, others) = (self.score.steps, self.others(at));
        let (dot, cell) = self.replica(at).change(key, change, now);
        if let Change::Add(delta) = change {
            self.referee.incremented(key, dot, *delta);
        }
        let machine = self.machines.write(self.rules.quorum.w, others);
        let phase = Phase::Writing { machine, cell, dot, is_finished: false };
        let ask = Ask::Blind(change.clone());
        self.requests.insert(number, Request { at, key, ask, phase, promised, is_answered: false });
        self.replica(at).waiters.push(Waiter::Write { request: number });
        self.drive_write(number, WriteInput::Started)
    }

    /// A message arrives, or is lost.
    fn deliver(&mut self) -> Result<(), Violation> {
        if self.bag.len() == 0 {
            return Ok(());
        }
        let (place, fate) = (self.rng.usize(..self.bag.len()), self.rng.u8(..32));
        match self.bag.draw(place, fate == 0) {
            Some(message) if fate != 1 && self.replica(message.to).is_up => self.receive(message),
            _ => Ok(()),
        }
    }

    /// A replica's memory reaches its disk.
    pub(super) fn sync(&mut self, at: usize) -> Result<(), Violation> {
        for waiter in self.replica(at).sync() {
            match waiter {
                Waiter::Write { request } => self.drive_write(request, WriteInput::Persisted)?,
                Waiter::Peer { to, request, key, repair } => {
                    self.send(at, to, request, key, Body::Stored { repair });
                }
            }
        }
        Ok(())
    }

    /// Some request runs out of time, or out of patience.
    fn hurry(&mut self) -> Result<(), Violation> {
        if self.requests.is_empty() {
            return Ok(());
        }
        let place = self.rng.usize(..self.requests.len());
        let Some(number) = self.requests.keys().nth(place).copied() else { return Ok(()) };
        if self.rng.bool() { self.expire(number) } else { self.drive_read(number, ReadInput::Dawdled) }
    }

    /// A request runs out of time.
    pub(super) fn expire(&mut self, number: u64) -> Result<(), Violation> {
        self.drive_read(number, ReadInput::DeadlinePassed)?;
        self.drive_write(number, WriteInput::DeadlinePassed)?;
        // What has come to its end is kept for a while, to see that it leaves late replies alone.
        self.requests.retain(|other, request| *other != number || !request.is_over());
        Ok(())
    }

    /// A replica delivers one of its hints, with the cell as it is by now.
    fn hint(&mut self, at: usize) -> Result<(), Violation> {
        let count = self.replica(at).hint_count();
        if count == 0 || !self.has_room() {
            return Ok(());
        }
        let place = self.rng.usize(..count);
        let Some((target, key)) = self.replica(at).hint(place) else { return Ok(()) };
        let Some(cell) = self.replica(at).cell(key).cloned() else { return Ok(()) };
        let target = super::replica::replica_of(target);
        let number = self.next_number();
        let promised = VersionVector::default();
        let phase = Phase::Hinting { target };
        let request = Request { at, key, ask: Ask::Read, phase, promised, is_answered: true };
        self.requests.insert(number, request);
        self.send(at, target, number, key, Body::Store { cell, repair: 0 });
        Ok(())
    }

    /// A replica sends what it holds to another one, to compare.
    fn exchange(&mut self, at: usize) {
        let to = (at + self.rng.usize(1..self.replicas.len())) % self.replicas.len();
        let page = self.replica(at).page();
        self.send(at, to, 0, 0, Body::Page(page));
    }

    /// A replica loses its connection with another one.
    fn disconnect(&mut self, at: usize) -> Result<(), Violation> {
        let other = (at + self.rng.usize(1..self.replicas.len())) % self.replicas.len();
        self.end_connection(at, other)
    }

    fn end_connection(&mut self, a: usize, b: usize) -> Result<(), Violation> {
        self.bag.cut(a, b);
        let numbers: Vec<(u64, usize)> =
            self.requests.iter().map(|(number, request)| (*number, request.at)).collect();
        for (number, at) in numbers {
            let from = match at {
                _ if at == a => node(b),
                _ if at == b => node(a),
                _ => continue,
            };
            self.drive_read(number, ReadInput::Failed { from })?;
            self.drive_write(number, WriteInput::Failed { from })?;
        }
        Ok(())
    }

    fn crash(&mut self, at: usize) -> Result<(), Violation> {
        let loses_power = self.rules.loses_power;
        self.replica(at).crash(loses_power);
        self.requests.retain(|_, request| request.at != at);
        self.score.crashes += 1;
        for other in (0..self.replicas.len()).filter(|other| *other != at) {
            self.end_connection(at, other)?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, from: usize, to: usize, request: u64, key: Key, body: Body) {
        self.bag.put(Message { from, to, request, key, body });
    }

    /// A replica answers a message, or a coordinator hears of one.
    pub(super) fn receive(&mut self, message: Message) -> Result<(), Violation> {
        let Message { from, to: at, request, key, body } = message;
        let from_node = node(from);
        match body {
            Body::Store { cell, repair } => self.store(at, key, &cell).map(|()| {
                self.replica(at).waiters.push(Waiter::Peer { to: from, request, key, repair });
            }),
            Body::Digest => {
                let digest = self.replica(at).own(key).map(|(_, digest)| digest);
                self.send(at, from, request, key, Body::Digested(digest));
                Ok(())
            }
            Body::Fetch => {
                let cell = self.replica(at).cell(key).cloned();
                self.send(at, from, request, key, Body::Fetched(cell));
                Ok(())
            }
            Body::Stored { repair } => self.taken_over(request, from, repair),
            Body::Digested(digest) => {
                self.drive_read(request, ReadInput::Digested { from: from_node, digest })
            }
            Body::Fetched(cell) => self.drive_read(request, ReadInput::Fetched { from: from_node, cell }),
            Body::Page(page) => {
                let found = self.machines.compare(&page, &self.replica(at).page());
                let keys = |keys: Vec<Vec<u8>>| keys.into_iter().filter_map(|key| key.first().copied());
                let wanted = keys(found.wanted).collect();
                let cells = keys(found.unknown_there)
                    .filter_map(|key| Some((key, self.replica(at).cell(key).cloned()?)))
                    .collect();
                self.send(at, from, request, 0, Body::Compared { wanted, cells });
                Ok(())
            }
            Body::Compared { wanted, cells } => {
                for (key, cell) in cells {
                    self.store(at, key, &cell)?;
                }
                for key in wanted {
                    if let Some(cell) = self.replica(at).cell(key).cloned() {
                        self.send(at, from, 0, key, Body::Store { cell, repair: 0 });
                    }
                }
                Ok(())
            }
        }
    }

    pub(super) fn store(&mut self, at: usize, key: Key, cell: &Bytes) -> Result<(), Violation> {
        if self.replica(at).merge(key, cell) {
            let bytes = self.replica(at).cell(key).cloned().unwrap_or_default();
            return self.referee.adds_up(key, &decode(&bytes));
        }
        Err(super::referee::breach("inflation", format!("replica {at} has forgotten a write of key {key}")))
    }
}
