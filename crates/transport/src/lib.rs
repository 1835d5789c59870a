//! Connections between peers: one multiplexed stream per pair, with back-pressure.
//!
//! The node sees only [`Transport`] and [`Inbox`]; what lies between is gRPC here, and a simulated network
//! where a test wants one.

mod grpc;
mod identity;
mod link;
mod transport;

pub use grpc::{GrpcTransport, Settings};
pub use identity::{Identity, NodeKey, SIGNATURE_BYTES, is_signed_by};
pub use transport::{AskError, Inbox, SendError, Transport};
