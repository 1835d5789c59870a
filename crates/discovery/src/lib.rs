//! Whom a node might contact first.
//!
//! Discovery answers that question and no other: it may fail, lag or lie at any time, and never decides who
//! is a member.

mod seeds;

pub use seeds::{InvalidAddress, StaticSeeds};

/// A source of addresses to try.
pub trait Discovery: Send + Sync + 'static {
    /// Peer addresses (`host:port`) that may belong to members, in no particular order.
    fn candidates(&self) -> Vec<String>;
}
