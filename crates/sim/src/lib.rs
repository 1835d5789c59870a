//! A seeded simulator: real nodes on a simulated clock, network and disk, with faults and checkers.
//!
//! A run is a seed: the same seed gives the same trace, byte for byte. Reading order: `run` is the way in and
//! names the phases; `plan` is what goes wrong; `world` moves time; `host` and `network` are the
//! machines; `workload` is what clients do and `history` what they saw; each rule in `check` has its own file.
//! `pure` plays the machines of the data path without nodes, many times faster.

pub mod check;
mod history;
mod host;
mod journal;
mod network;
mod plan;
pub mod pure;
mod run;
mod sabotage;
mod workload;
mod world;

pub use history::{Action, BucketKind, Operation, Outcome};
pub use plan::{Fault, Plan};
pub use run::{Options, Report, Violation, run, run_all};
pub use sabotage::Sabotage;
