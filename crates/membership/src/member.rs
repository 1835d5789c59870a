//! A member as the cluster sees it: who, where, since which start, and the little that spreads with it.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use slipring_model::NodeId;

/// The longest zone name, in bytes.
const ZONE_BYTES_MAX: usize = 64;

/// Which life of a node a claim is about; the later one wins, whatever the claim says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// The start of the node: durable, one more at each start.
    pub start: u64,
    /// How often the node spoke for itself since: to refute a suspicion, or because its metadata changed.
    pub renewal: u64,
}

impl Incarnation {
    /// The first incarnation of a start.
    #[must_use]
    pub fn at_start(start: u64) -> Self {
        Self { start, renewal: 0 }
    }

    /// The next incarnation of the same start.
    pub(crate) fn renewed(self) -> Self {
        Self { start: self.start, renewal: self.renewal.saturating_add(1) }
    }
}

/// A zone name of at most 64 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(String);

/// A zone name that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a zone name has at most {ZONE_BYTES_MAX} bytes")]
pub struct InvalidZone;

impl Zone {
    /// Reads a zone name.
    ///
    /// # Errors
    /// When it has more than 64 bytes.
    pub fn new(name: &str) -> Result<Self, InvalidZone> {
        if name.len() > ZONE_BYTES_MAX { Err(InvalidZone) } else { Ok(Self(name.to_owned())) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<&str>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// What a member tells of itself beside being there. It spreads with every word of the member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The epoch of the layout the member runs on: how others learn that there is a newer one.
    pub layout_epoch: u64,
    /// That layout's hash: how two members see that they do not run on the same layout of one epoch.
    pub layout_hash: u64,
    /// The zone the member stands in.
    pub zone: Zone,
}

/// One member of the cluster, as it last spoke of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Who it is.
    #[serde(with = "id_bytes")]
    pub node: NodeId,
    /// Where its datagrams and its streams are received.
    pub address: SocketAddr,
    /// Which life it speaks from.
    pub incarnation: Incarnation,
    /// What it tells of itself.
    pub metadata: Metadata,
}

/// How a member is believed to be. A hint for routing, nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Liveness {
    /// It answers, or nobody has said otherwise.
    Alive,
    /// Somebody could not reach it; it has time to speak for itself.
    Suspected,
    /// It did not speak for itself in time.
    Down,
    /// It said that it would be gone for now. It stays in the layout.
    Left,
}

impl Liveness {
    /// Whether it is down or has left.
    #[must_use]
    pub fn is_gone(self) -> bool {
        matches!(self, Self::Down | Self::Left)
    }
}

/// Ids as raw bytes: datagrams have no room for hexadecimal.
pub(crate) mod id_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use slipring_model::NodeId;

    pub(crate) fn serialize<S: Serializer>(id: &NodeId, serializer: S) -> Result<S::Ok, S::Error> {
        id.0.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        <[u8; 32]>::deserialize(deserializer).map(NodeId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_beats_every_renewal_of_an_earlier_one() {
        let old = Incarnation { start: 4, renewal: 900 };
        assert!(Incarnation::at_start(5) > old);
        assert!(old.renewed() > old);
    }

    #[test]
    fn long_zone_names_are_refused_from_callers_and_from_peers() {
        let long = "z".repeat(65);
        assert_eq!(Zone::new(&long), Err(InvalidZone));
        let bytes = postcard::to_allocvec(long.as_str()).unwrap();
        assert!(postcard::from_bytes::<Zone>(&bytes).is_err());
    }
}
