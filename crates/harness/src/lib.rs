//! Faults on real processes: nodes behind fault proxies, Redis clients, and the simulator's checkers.
//!
//! A run is not deterministic, but its plan is: a seed gives the same faults at the same times. Reading order: `run`
//! is the way in and names the phases; `plan` is what goes wrong and `storm` carries it out; `place` is where
//! nodes stand, `process` is one node and `disk` its disk, `cluster` all of them; `proxy` and `link` are the ways
//! between them; `client` and `workload` are who asks; `copies` compares what is on disk.

mod binary;
mod client;
mod cluster;
mod copies;
mod disk;
mod link;
mod place;
mod plan;
mod process;
mod proxy;
mod report;
mod run;
mod storm;
mod story;
mod wait;
mod workload;

pub use binary::{Profile, build};
pub use place::namespaces_missing;
pub use plan::{Fault, KINDS, Plan};
pub use proxy::Traffic;
pub use report::{Finding, Report};
pub use run::{Options, Watch, run};
pub use wait::interrupt;
