//! The service in storms of faults: no acknowledged score is ever lost, and the careless one is found out.

use bytes::Bytes;
use slipring_example_scores::{CARELESS, Request, SCORES, Scores};
use slipring_model::BucketPolicy;
use slipring_model::bucket::{Durability, OnConflict};
use slipring_sim::{Answer, Exchange, Rng, Scenario, Simulation};

/// Several: a player who has tried often hardly ever beats the own best, and only then can a score be lost.
const PLAYERS: u32 = 8;
/// Replicas raise the same score unknown to each other only within moments, the more of them the sooner.
const HOSTS: usize = 5;

/// Clients raise scores; in the end each player's best must be the best that was acknowledged until it was asked
/// for, or better.
struct Contest(&'static Scores);

impl Scenario for Contest {
    type Service = Scores;

    fn service(&self) -> &'static Scores {
        self.0
    }

    fn request(&self, rng: &mut Rng) -> Request {
        let player = name(rng.u32(0..PLAYERS));
        if rng.bool() {
            Request::Raise { player, score: rng.u64(1..100_000) }
        } else {
            Request::Best { player }
        }
    }

    fn last_requests(&self) -> Vec<Request> {
        (0..PLAYERS).map(|number| Request::Best { player: name(number) }).collect()
    }

    fn check(&self, history: &[Exchange<Scores>]) -> Result<(), String> {
        let best = |player: &Bytes, is_counted: &dyn Fn(&Exchange<Scores>) -> bool| {
            let scores = history.iter().filter(|exchange| is_counted(exchange));
            let raised = scores.filter_map(|exchange| match &exchange.request {
                Request::Raise { player: whose, score } if whose == player => Some(*score),
                _ => None,
            });
            raised.max().unwrap_or(0)
        };
        for exchange in history.iter().filter(|exchange| exchange.is_last) {
            let (Request::Best { player }, Some((_, Answer::Done(last)))) =
                (&exchange.request, &exchange.answer)
            else {
                continue;
            };
            let asked_ms = exchange.asked_ms;
            let is_told = |raise: &Exchange<Scores>| match raise.answer {
                Some((told_ms, Answer::Done(_))) => told_ms < asked_ms,
                _ => false,
            };
            let acked = best(player, &is_told);
            let attempted = best(player, &|raise| !matches!(raise.answer, Some((_, Answer::Refused(_)))));
            if !(acked..=attempted).contains(last) {
                return Err(format!("{player:?}'s best is {last}, but {acked} was acknowledged"));
            }
        }
        Ok(())
    }
}

fn name(player: u32) -> Bytes {
    format!("player {player}").into()
}

fn simulation(service: &'static Scores) -> Simulation<Contest> {
    Simulation::of(Contest(service)).hosts(HOSTS).bucket(BucketPolicy {
        durability: Durability::Fsync,
        on_conflict: OnConflict::Siblings,
        ..BucketPolicy::durable()
    })
}

#[test]
fn no_acknowledged_score_is_lost() {
    simulation(&SCORES).seeds(0..30).run();
}

#[test]
fn the_careless_service_is_found_out() {
    let report = simulation(&CARELESS).seeds(0..500).first_failure().expect("the bug is found");
    println!("{report}");
    assert!(report.story().contains("was acknowledged"), "{report}");
}
