//! The service in storms of faults: no acknowledged score is ever lost, and the careless one is found out.

use slipring_example_scores::{CARELESS, Request, SCORES, Scores};
use slipring_model::BucketPolicy;
use slipring_model::bucket::{Durability, OnConflict};
use slipring_sim::{Answer, Exchange, Rng, Scenario, Simulation};

const PLAYERS: [&str; 3] = ["ada", "grace", "edsger"];

/// Clients raise scores; in the end each player's best must be the best that was acknowledged, or better.
struct Contest(&'static Scores);

impl Scenario for Contest {
    type Service = Scores;

    fn service(&self) -> &'static Scores {
        self.0
    }

    fn request(&self, rng: &mut Rng) -> Request {
        let player = rng.choice(PLAYERS).expect("there are players").into();
        if rng.bool() {
            Request::Raise { player, score: rng.u64(1..100_000) }
        } else {
            Request::Best { player }
        }
    }

    fn last_requests(&self) -> Vec<Request> {
        PLAYERS.map(|player| Request::Best { player: player.into() }).to_vec()
    }

    fn check(&self, history: &[Exchange<Scores>]) -> Result<(), String> {
        let best = |player: &str, is_counted: fn(&Exchange<Scores>) -> bool| {
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
            let player = String::from_utf8_lossy(player);
            let acked = best(&player, |raise| matches!(raise.answer, Some((_, Answer::Done(_)))));
            let attempted = best(&player, |raise| !matches!(raise.answer, Some((_, Answer::Refused(_)))));
            if !(acked..=attempted).contains(last) {
                return Err(format!("{player}'s best is {last}, but {acked} was acknowledged"));
            }
        }
        Ok(())
    }
}

fn simulation(service: &'static Scores) -> Simulation<Contest> {
    Simulation::of(Contest(service)).bucket(BucketPolicy {
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
    let report = simulation(&CARELESS).seeds(0..200).first_failure().expect("the bug is found");
    println!("{report}");
    assert!(report.story().contains("was acknowledged"), "{report}");
}
