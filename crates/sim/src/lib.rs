//! A seeded simulator of whole nodes, with faults and checkers.
//!
//! Real nodes run on simulated time, network and disks in one thread. A run is a seed: the same seed gives the
//! same trace, byte for byte. First faults and work, then everything is healed, and what is left is checked.

mod check;
mod clock;
mod history;
mod host;
mod network;
mod plan;
mod world;

pub use check::Violation;
pub use history::{Action, Operation, Outcome};
pub use plan::{Fault, Plan};
pub use world::{Options, Report, run};
