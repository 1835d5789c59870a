//! A seeded simulator: real nodes on a simulated clock, network and disk, with faults and checkers.
//!
//! A run is a seed: the same seed gives the same trace, byte for byte. Reading order: `run` is the way in and
//! names the phases; `plan` is what goes wrong; `world` moves time; `host` and `network` are the
//! machines; `workload` is what clients do and `history` what they saw; each rule in `check` has its own file.
//! `pure` plays the machines of the data path without nodes, many times faster.

pub mod check;
mod copies;
pub mod forming;
mod guest;
mod history;
mod host;
mod hunt;
mod journal;
pub mod kit;
mod network;
mod operator;
mod plan;
pub mod pure;
mod recovery;
mod run;
mod seeing;
mod shrink;
mod workload;
mod world;

pub use fastrand::Rng;
pub use history::{Action, BucketKind, History, Operation, Outcome};
pub use hunt::{HUNTS, Hunt};
pub use kit::{Answer, Exchange, Scenario, Simulation};
pub use plan::{Fault, Part, Plan};
pub use run::{Options, Report, Violation, find_failure, run, run_all};
pub use shrink::shrink;
pub use slipring_model::Mutant;
