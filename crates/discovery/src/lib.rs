//! Whom a node might contact first.
//!
//! Discovery answers that question and no other: it may fail, lag or lie at any time, and never decides who
//! is a member. [`StaticSeeds`] is a list that an operator wrote down; [`Sources`] are lists kept elsewhere,
//! each followed by a task of its own, retried when it fails, bounded in what it may say.

mod address;
mod announcement;
mod backoff;
#[cfg(feature = "libp2p")]
mod dht;
mod discovery;
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
mod follower;
mod http;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod location;
mod registry;
mod seeds;
mod source;
mod sources;
#[cfg(feature = "zookeeper")]
mod zookeeper;

pub use address::InvalidAddress;
pub use discovery::Discovery;
pub use location::InvalidLocation;
pub use registry::book::{ADDRESSES_MAX, Book, Refusal, TTL};
pub use seeds::StaticSeeds;
pub use sources::{InvalidSource, Sources};
