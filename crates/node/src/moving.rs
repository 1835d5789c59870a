//! Data on its way to other nodes: taking a partition over, driving moves to their end, removing what is left.
//!
//! A move is agreed on in the layout. From then on requests need quorums of the old and of the next replicas;
//! each next replica takes over what a quorum of the old holds; when all have, whoever leads the layout group
//! proposes that the partition has arrived, and those that hold it no more remove it.
//!
//! Invariant: what a replica hands over, it hands over after it has begun to refuse requests that do not know
//! of the move. So whatever such a request was acknowledged for is among what a quorum hands over.

mod catch_up;
mod drive;
mod estimate;
mod hand_over;
mod held;
mod replace;
mod take_over;
mod wipe;

pub use estimate::Proposal;
pub(crate) use held::Moving;
