//! Frames between peers: their encoding, versions and limits.
//!
//! Pure. A frame carries many messages, each framed by its length, so that one that this version does not
//! know is set aside without losing the rest.

mod frame;
mod greeting;
mod message;

pub use frame::{DecodeError, Frame, PROTOCOL_VERSION, PROTOCOL_VERSIONS};
pub use greeting::{Greeting, Greetings, Hello, Nonce, Side};
pub use message::{Message, Reply, Request};
