//! The machines of the data path by themselves: games that must be clean, and flaws that must be found.

use std::time::Instant;

use bytes::Bytes;
use slipring_membership::founding::{Attempt, Effect, Founding, Input, Standing};
use slipring_model::{Moment, NodeId, Quorum};
use slipring_replication::{Comparison, PageEntry, ReadEffect, ReadInput, WriteEffect, WriteInput};
use slipring_sim::pure::{
    Formed, FoundingMachine, Machines, Product, ReadMachine, Rules, Score, WriteMachine, play, play_forming,
    play_layouts,
};

/// How many games a test plays, or as many as the environment asks for.
fn games(default: u64) -> u64 {
    std::env::var("SLIPRING_GAMES").ok().and_then(|asked| asked.parse().ok()).unwrap_or(default)
}

#[test]
fn the_machines_keep_every_rule() {
    let (begin, mut total) = (Instant::now(), Score::default());
    for seed in 0..games(600) {
        let rules = Rules::draw(seed);
        let score = play(seed, &rules, &Product);
        let score = score.unwrap_or_else(|violation| panic!("seed {seed}, {rules:?}: {violation}"));
        total.steps += score.steps;
        total.stored += score.stored;
        total.read += score.read;
        total.failed += score.failed;
        total.crashes += score.crashes;
        total.repairs += score.repairs;
        total.hints += score.hints;
    }
    let per_second = total.steps as f64 / begin.elapsed().as_secs_f64();
    println!("{total:?}, {per_second:.0} steps a second");
    let Score { stored, read, failed, crashes, repairs, hints, .. } = total;
    assert!([stored, read, failed, crashes, repairs, hints].iter().all(|count| *count > 100), "{total:?}");
}

#[test]
fn a_seed_plays_the_same_game_twice() {
    for seed in 0..20 {
        let rules = Rules::draw(seed);
        assert_eq!(play(seed, &rules, &Product), play(seed, &rules, &Product));
    }
    assert_ne!(play(1, &Rules::draw(1), &Product), play(2, &Rules::draw(1), &Product));
}

#[test]
fn layouts_stay_the_same_on_all_nodes() {
    let changes: u64 = (0..games(60))
        .map(|seed| play_layouts(seed, 300).unwrap_or_else(|violation| panic!("seed {seed}: {violation}")))
        .sum();
    assert!(changes > 600, "{changes}");
}

/// Founding with a machine that is as it should be.
fn sound(node: NodeId, incarnation: u64, expected: u32, kept: Option<Attempt>) -> Box<dyn FoundingMachine> {
    Box::new(Founding::new(node, incarnation, expected, kept))
}

#[test]
fn at_most_one_node_founds_and_all_end_in_its_cluster() {
    let (mut total, mut early) = (Formed::default(), 0);
    let games = games(3_000);
    for seed in 0..games {
        let formed = play_forming(seed, 400, &sound).unwrap_or_else(|found| panic!("seed {seed}: {found}"));
        total.attempts += formed.attempts;
        total.deaths += formed.deaths;
        early += u64::from(formed.is_early);
    }
    println!("{total:?}, {early} of {games} before all was well");
    assert!(total.attempts > games / 10 && total.deaths > games && early > games / 10 && early < games);
}

/// What is wrong with a machine that founds.
#[derive(Clone, Copy, Debug)]
enum Haste {
    /// It founds when it has seen enough nodes, before any has promised anything.
    FoundsOnSight,
    /// It promises to whoever asks, also while it is bound.
    FollowsEverybody,
    /// It forgets its promises when it dies.
    Forgets,
}

struct Hasty {
    machine: Founding,
    haste: Haste,
    asked: Option<Attempt>,
}

impl FoundingMachine for Hasty {
    fn handle(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        let own = self.machine.standing();
        if let Input::Heard(told) = input
            && told.is_attempting
        {
            let Standing { node: founder, incarnation, round, .. } = told;
            self.asked = Some(Attempt { founder, incarnation, round });
        }
        self.machine.handle(now, input, effects);
        let is_mine = |effect: &Effect| matches!(effect, Effect::Persist(of) if of.founder == own.node);
        if matches!(self.haste, Haste::FoundsOnSight) && effects.iter().any(is_mine) {
            effects.push(Effect::Found);
        }
    }

    fn standing(&self) -> Standing {
        let standing = self.machine.standing();
        match self.haste {
            Haste::FollowsEverybody => Standing { promised: self.asked.or(standing.promised), ..standing },
            _ => standing,
        }
    }
}

#[test]
fn haste_is_found_within_some_games() {
    for haste in [Haste::FoundsOnSight, Haste::FollowsEverybody, Haste::Forgets] {
        let start = |node, incarnation, expected, kept: Option<Attempt>| {
            let kept = kept.filter(|_| !matches!(haste, Haste::Forgets));
            let machine = Founding::new(node, incarnation, expected, kept);
            let hasty: Box<dyn FoundingMachine> = Box::new(Hasty { machine, haste, asked: None });
            hasty
        };
        let two = |seed| play_forming(seed, 400, &start).err().filter(|found| found.checker == "one_founder");
        let found = (0..30_000).find_map(|seed| two(seed).map(|found| (seed, found)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{haste:?} was not found"));
        println!("{haste:?} was found by seed {seed}: {violation}");
    }
}

/// What is wrong with the machines.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    /// A replica that failed counts as one that holds the cell, as if its hint were an acknowledgement.
    HintsCount,
    /// The coordinator's own copy counts before it is on disk.
    AckBeforeSync,
    /// Each acknowledgement counts for another replica, too.
    AckCountsTwice,
    /// A write goes on after its end.
    AnswersLate,
    /// Reads do not wait for the repairs they ask for.
    RepairsLater,
    /// An exchange does not look at the last key of a page.
    SkipsLastKey,
}

struct Flawed<M> {
    machine: M,
    flaw: Flaw,
    others: Vec<NodeId>,
    is_finished: bool,
}

impl Machines for Flaw {
    fn write(&self, needed: u8, others: Vec<NodeId>) -> Box<dyn WriteMachine> {
        let machine = Product.write(needed, others.clone());
        Box::new(Flawed { machine, flaw: *self, others, is_finished: false })
    }

    fn read(&self, needed: u8, own: Option<(Bytes, u64)>, others: Vec<NodeId>) -> Box<dyn ReadMachine> {
        let machine = Product.read(needed, own, others.clone());
        Box::new(Flawed { machine, flaw: *self, others, is_finished: false })
    }

    fn compare(&self, theirs: &[PageEntry<Vec<u8>>], ours: &[PageEntry<Vec<u8>>]) -> Comparison<Vec<u8>> {
        match self {
            Self::SkipsLastKey => Product.compare(theirs, ours.split_last().map_or(&[], |(_, front)| front)),
            _ => Product.compare(theirs, ours),
        }
    }
}

impl WriteMachine for Flawed<Box<dyn WriteMachine>> {
    fn handle(&mut self, input: WriteInput, effects: &mut Vec<WriteEffect>) {
        let second = match (self.flaw, input) {
            (Flaw::AckBeforeSync, WriteInput::Started) => Some(WriteInput::Persisted),
            (Flaw::AckCountsTwice, WriteInput::Acked { from }) => self
                .others
                .iter()
                .find(|other| **other != from)
                .map(|other| WriteInput::Acked { from: *other }),
            _ => None,
        };
        let input = match (self.flaw, input) {
            (Flaw::HintsCount, WriteInput::Failed { from }) => WriteInput::Acked { from },
            _ => input,
        };
        if matches!(self.flaw, Flaw::AnswersLate) && self.is_finished {
            effects
                .extend(self.others.first().map(|intended| WriteEffect::StoreHint { intended: *intended }));
        }
        self.machine.handle(input, effects);
        if let Some(second) = second {
            self.machine.handle(second, effects);
        }
        self.is_finished |= effects.contains(&WriteEffect::Finish);
    }
}

impl ReadMachine for Flawed<Box<dyn ReadMachine>> {
    fn handle(&mut self, input: ReadInput, effects: &mut Vec<ReadEffect>) {
        self.machine.handle(input, effects);
        if matches!(self.flaw, Flaw::RepairsLater) {
            let repaired: Vec<NodeId> = effects
                .iter()
                .filter_map(
                    |effect| if let ReadEffect::Repair { to, .. } = effect { Some(*to) } else { None },
                )
                .collect();
            for from in repaired {
                self.machine.handle(ReadInput::Repaired { from }, effects);
            }
        }
    }
}

#[test]
fn flaws_are_found_within_a_few_games() {
    let expected = [
        (Flaw::HintsCount, "durable_quorum"),
        (Flaw::AckBeforeSync, "durable_quorum"),
        (Flaw::AckCountsTwice, "durable_quorum"),
        (Flaw::AnswersLate, "late_reply"),
        (Flaw::RepairsLater, "read_quorum"),
        (Flaw::SkipsLastKey, "convergence"),
    ];
    for (flaw, rule) in expected {
        let rules = |seed| Rules { quorum: Quorum { n: 3, r: 2, w: 2 }, steps: 400, ..Rules::draw(seed) };
        let found =
            (0..200).find_map(|seed| play(seed, &rules(seed), &flaw).err().map(|found| (seed, found)));
        let (seed, violation) = found.unwrap_or_else(|| panic!("{flaw:?} was not found"));
        println!("{flaw:?} was found by seed {seed}: {violation}");
        assert_eq!(violation.checker, rule, "{flaw:?} in seed {seed}: {violation}");
    }
}
