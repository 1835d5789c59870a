//! Coordinated reads and writes, read repair, hints and exchanges, as pure machines.
//!
//! Each machine takes one input at a time and appends effects to a buffer its caller owns; it never blocks
//! and never reads a clock. The node turns effects into messages and messages back into inputs.

mod exchange;
mod hint;
mod quorums;
mod read;
mod write;

pub use exchange::{Comparison, PageEntry, compare, root_of};
pub use hint::{HINTS, Hint};
pub use quorums::{QuorumSet, Quorums, Shortfall, Side};
pub use read::{ReadCoordinator, ReadEffect, ReadInput, ReadOutcome};
pub use write::{WriteCoordinator, WriteEffect, WriteInput, WriteOutcome};
