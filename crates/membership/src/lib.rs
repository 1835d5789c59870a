//! Who is there: SWIM with local health, sealed datagrams and rejoining, as a pure machine.
//!
//! [`Membership`] takes one [`Input`] at a time and appends [`Effect`]s to a buffer its caller owns; it knows no
//! socket, no clock and no entropy of its own. What it offers is a **view for routing**: whom to ask first, whom
//! to leave alone for now. Liveness never changes placement, quorums or ownership; those lie in the layout.
//!
//! [`founding`] is another machine, of nodes that belong to no cluster yet: which of them founds one.
//!
//! Source: Das, Gupta, Motivala, "SWIM" (DSN 2002); Dadgar, Phillips, Currey, "Lifeguard" (DSN-W 2018).

mod member;
mod settings;

pub mod founding;

mod awareness;
mod broadcasts;
mod known;
mod message;
mod replay;
mod seal;
mod suspicion;
mod table;

mod machine;

pub use known::KnownPeer;
pub use machine::{Counters, Effect, Input, Membership, Start, Timer};
pub use member::{Incarnation, InvalidZone, Liveness, Member, Metadata, Zone};
pub use message::DATAGRAM_BYTES_MAX;
pub use seal::{ClusterKey, Keyring, SealError};
pub use settings::{InvalidSettings, Settings};
