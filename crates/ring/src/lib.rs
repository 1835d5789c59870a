//! Who holds what: partitions, the placement solver and the layout document.
//!
//! Pure: the same input gives the same table on every node.

mod layout;
mod placement;

pub use layout::{
    Addresses, Applied, BucketEntry, Change, Changes, Command, Exposure, Holders, Layout, Move, MoveId,
    NodeChange, NodeEntry, NodeLoad, NodeState, NotOneMember, Plan, PlannedMove, Refused, Replica, Role,
    Spread, TableId, is_older, start_statement,
};
pub use placement::{Infeasible, Placement, Request, solve};
