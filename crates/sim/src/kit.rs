//! The kit for authors: a service of one's own in simulated clusters, under `cargo test`.
//!
//! An author describes a [`Scenario`]: which requests clients make, and what must be true of the answers. A
//! [`Simulation`] runs it through storms of faults, one seed after the other. A seed that fails is shrunk to
//! the fewest faults that still make it fail, told as a story, and replayed with `SLIPRING_SEED=`.

mod load;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use slipring_model::BucketPolicy;
use slipring_service::Service;

use crate::guest::{Guest, GuestFactory};
use crate::plan::Plan;
use crate::run::{Options, Report, run_with};
use crate::shrink::shrink;
use load::Load;

/// Runs that shrinking a failure may take.
const SHRINK_TRIES: usize = 40;
/// Runs one seed, or all when it is absent.
const SEED_VARIABLE: &str = "SLIPRING_SEED";

/// What clients do with a service, and what must be true of it.
pub trait Scenario: Send + Sync + 'static {
    /// The service.
    type Service: Service<Request: Clone + Debug + Sync, Response: Clone + Debug + Sync>;

    /// The service, as nodes run it.
    fn service(&self) -> &'static Self::Service;

    /// The next request of a client. Everything drawn must come from `rng`.
    fn request(&self, rng: &mut fastrand::Rng) -> RequestOf<Self>;

    /// What every host is asked when all has healed.
    fn last_requests(&self) -> Vec<RequestOf<Self>>;

    /// Holds what the clients saw against what the service promises.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn check(&self, history: &[Exchange<Self::Service>]) -> Result<(), String>;
}

/// What a scenario's clients ask.
pub type RequestOf<S> = <<S as Scenario>::Service as Service>::Request;

/// One request and what came of it.
#[derive(Clone, Debug)]
pub struct Exchange<S: Service> {
    /// Who asked, and where.
    pub client: String,
    /// What was asked.
    pub request: S::Request,
    /// When, in milliseconds since the run began.
    pub asked_ms: u64,
    /// When and what was answered; nothing when the host died first, and then it may have happened.
    pub answer: Option<(u64, Answer<S::Response>)>,
    /// Whether it was asked after all had healed.
    pub is_last: bool,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<R> {
    /// The service's response.
    Done(R),
    /// It did not happen.
    Refused(String),
    /// It may have happened.
    Unknown(String),
}

/// A scenario and the seeds it is run with.
pub struct Simulation<S: Scenario> {
    scenario: Arc<S>,
    policy: BucketPolicy,
    seeds: Range<u64>,
    options: Options,
}

impl<S: Scenario> Simulation<S> {
    /// Fifty seeds of `scenario` on a durable bucket: three copies on disk, majorities.
    #[must_use]
    pub fn of(scenario: S) -> Self {
        Self {
            scenario: Arc::new(scenario),
            policy: BucketPolicy::durable(),
            seeds: 0..50,
            options: Options::default(),
        }
    }

    /// Promises this of the bucket instead; its service is set to the scenario's.
    #[must_use]
    pub fn bucket(mut self, policy: BucketPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Runs these seeds instead.
    #[must_use]
    pub fn seeds(mut self, seeds: Range<u64>) -> Self {
        self.seeds = seeds;
        self
    }

    /// Uses these faults in every run instead of drawing them.
    #[must_use]
    pub fn faults(mut self, plan: Plan) -> Self {
        self.options.plan = Some(plan);
        self
    }

    /// Runs on so many hosts instead of 3, and 5 for every fifth seed.
    #[must_use]
    pub fn hosts(mut self, hosts: usize) -> Self {
        self.options.hosts = Some(hosts);
        self
    }

    /// Runs every seed, or the one that the environment names.
    ///
    /// # Panics
    /// At the first seed that breaks a promise, with its story.
    pub fn run(&self) {
        if let Some(report) = self.first_failure() {
            let seed = report.seed;
            panic!("{}\nReplay it with {SEED_VARIABLE}={seed}", report.story());
        }
    }

    /// The first seed that breaks a promise, shrunk.
    #[must_use]
    pub fn first_failure(&self) -> Option<Report> {
        let guests = self.guests();
        let run = |seed: u64, options: &Options| run_with(seed, options, Some(&guests));
        let asked = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
        let mut seeds = asked.map_or(self.seeds.clone(), |seed: u64| seed..seed + 1);
        let failing =
            seeds.find_map(|seed| Some(run(seed, &self.options)).filter(|report| report.verdict.is_err()));
        let again = |seed, plan| run(seed, &Options { plan: Some(plan), ..self.options.clone() });
        failing.map(|report| shrink(report, SHRINK_TRIES, again))
    }

    fn guests(&self) -> GuestFactory {
        let scenario = Arc::clone(&self.scenario);
        let policy = BucketPolicy { service: S::Service::NAME.to_owned(), ..self.policy.clone() };
        Arc::new(move || {
            let guest: Arc<dyn Guest> = Arc::new(Load::new(Arc::clone(&scenario), policy.clone()));
            guest
        })
    }
}

#[cfg(test)]
mod tests {
    use slipring_apps::kv::{Condition, Expiry, Request};
    use slipring_apps::{KV, Kv};
    use slipring_model::Mutant;

    use super::*;

    /// Clients that write, and do not look.
    struct Blind;

    impl Scenario for Blind {
        type Service = Kv;

        fn service(&self) -> &'static Kv {
            &KV
        }

        fn request(&self, rng: &mut fastrand::Rng) -> Request {
            let (key, value) = (rng.u8(..8).to_string().into(), rng.u64(..).to_string().into());
            let condition = Condition::Always;
            Request::Set {
                key,
                value,
                expiry: Expiry::Default,
                condition,
                returns_previous: false,
                seen: None,
            }
        }

        fn last_requests(&self) -> Vec<Request> {
            Vec::new()
        }

        fn check(&self, _: &[Exchange<Kv>]) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn replicas_that_differ_are_seen_though_no_client_looks() {
        let mut simulation = Simulation::of(Blind).seeds(0..10);
        assert!(simulation.first_failure().is_none());
        simulation.options.mutant = Some(Mutant::SkipExchange);
        let failure = simulation.first_failure().expect("replicas that never compare");
        assert!(failure.verdict.is_err_and(|violation| violation.checker == "convergence"));
    }
}
