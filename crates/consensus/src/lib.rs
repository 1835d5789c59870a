//! The layout group: a Raft group that agrees on who holds what.
//!
//! The only crate that names the Raft library. Commands go in, layouts come out; what it needs of the rest
//! is a database to keep its log in and a [`Courier`] that carries its messages.

mod aside;
mod courier;
mod document;
mod group;
mod lineage;
mod log;
mod propose;
mod protocol;
mod reconcile;
mod recover;

pub use aside::aside;
pub use courier::{Courier, CourierError};
pub use group::{AnswerError, Ballot, EntryId, Error, GroupStatus, LayoutGroup, ProposeError, Settings};
pub use recover::Remains;
