//! The layout group: a Raft group that agrees on who holds what.
//!
//! The only crate that names the Raft library. Commands go in, layouts come out; what it needs of the rest
//! is a database to keep its log in and a [`Courier`] that carries its messages.

mod courier;
mod document;
mod group;
mod log;
mod protocol;
mod reconcile;

pub use courier::{Courier, CourierError};
pub use group::{Ballot, EntryId, Error, GroupStatus, LayoutGroup, ProposeError, Settings};
