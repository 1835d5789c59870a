//! The framework contract: services, cells and the context they run in.
//!
//! An application is a [`Service`]: one deterministic function from a request and the cell of its key to
//! a response. Its author never sees replicas, clocks or disks; the bucket decides what its copies promise.
//!
//! Pure: no sockets, files, threads, clocks or randomness.

mod cell;
mod cells;
mod contract;

pub use cell::{Cell, Content, InvalidCell, Sibling, Value, ValueKind};
pub use cells::{Cells, Change};
pub use contract::{Access, Context, Service};
