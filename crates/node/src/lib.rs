//! The one place where the machines meet time, disk and network.
//!
//! A [`Node`] is put together from parts (stores, transport, clock, entropy) so that the same code runs on
//! real ones and on simulated ones. Reading order: `node` is the way in, `coordinate` runs requests, `inbox`
//! and `answer` deal with peers, `forming` and `follow` with the layout, `gossip` with who is there, the rest works in
//! the background.

mod acks;
mod answer;
mod authority;
mod bucket;
mod budget;
mod builder;
mod call;
mod change;
mod clear;
mod clients;
mod clock;
mod clocks;
mod coordinate;
mod core;
mod exchange;
mod expiry;
mod failure;
mod follow;
mod forming;
mod gossip;
mod handler;
mod heal;
mod health;
mod hearsay;
mod hints;
mod identity;
mod inbox;
mod later_start;
mod lost_majority;
mod metrics;
mod moving;
mod muster;
mod node;
mod overwrite;
mod presence;
mod recovery;
mod requests;
mod room;
mod scan;
mod settings;
mod status;
mod sync;
mod view;
mod whereabouts;
mod wholeness;

pub use builder::{Builder, StartError, TransportFactory};
pub use call::{Call, CallOptions, Pending};
pub use change::Force;
pub use clients::{ClientLimits, ClientMemory, Held};
pub use clock::{Clock, Entropy, SystemClock};
pub use forming::Rival;
pub use gossip::{
    ClusterSecret, Datagrams, GossipStatus, InvalidSecret, MemberState, MemberStatus, UdpDatagrams,
};
pub use lost_majority::{Losses, RecoverError, Remains, recover};
pub use moving::Proposal;
pub use node::Node;
pub use presence::Presence;
pub use scan::{Region, ScanPage};
pub use settings::Settings;
pub use slipring_membership::Settings as MembershipSettings;
pub use status::{BucketStatus, GroupPlace, NodeStatus, OwnStatus, Status};
pub use sync::DiskWaits;
pub use wholeness::Wholeness;
