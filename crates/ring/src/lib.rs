//! Who holds what: partitions, the placement solver and the layout document.
//!
//! Pure: the same input gives the same table on every node.

mod layout;
mod placement;

pub use layout::{
    Addresses, Applied, BucketEntry, Command, Layout, NodeEntry, NodeLoad, Refused, Replica, Spread,
};
pub use placement::{Infeasible, Placement, Request, solve};
