//! What is in a datagram: who sends it, what it asks or answers, and news about members.
//!
//! The news fill what is left of the datagram and follow each other without a count.

use serde::{Deserialize, Serialize};
use slipring_model::NodeId;

use crate::member::{Incarnation, Member, id_bytes};
use crate::seal::SEAL_BYTES;

/// The longest datagram, in bytes, sealed.
pub const DATAGRAM_BYTES_MAX: usize = 1_400;
/// The longest plain text of a datagram, in bytes.
pub(crate) const PLAIN_BYTES_MAX: usize = DATAGRAM_BYTES_MAX - SEAL_BYTES;

/// What every datagram begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// One more for each datagram since the sender's start.
    pub(crate) counter: u64,
    /// The sender, speaking for itself.
    pub(crate) from: Member,
    pub(crate) message: Message,
}

/// What a datagram asks or answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Answer with `Ack`, if you are `target` or no target is named. It is known from `incarnation`.
    Ping { token: u64, target: Option<Target>, incarnation: Incarnation },
    /// Ping `target` for me, and pass its `Ack` on, or say `Nack`.
    PingRequest { token: u64, target: Target },
    /// The pinged member is there.
    Ack { token: u64 },
    /// I am here, but the member I was asked to ping did not answer me.
    Nack { token: u64 },
    /// Nothing but news.
    Gossip,
    /// Tell me all you know, unless your view has this digest too.
    Pull { digest: u64, is_answer: bool },
}

/// The id of the node a probe is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target(#[serde(with = "id_bytes")] pub(crate) NodeId);

/// One piece of news about one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Claim {
    /// It is there, and this is what it says of itself.
    Alive(Member),
    /// `by` could not reach it.
    Suspected { node: Target, incarnation: Incarnation, by: Target },
    /// It did not speak for itself in time.
    Down { node: Target, incarnation: Incarnation },
    /// It said that it would be gone.
    Left { node: Target, incarnation: Incarnation },
}

impl Claim {
    /// Whom it is about.
    pub(crate) fn node(&self) -> NodeId {
        match self {
            Self::Alive(member) => member.node,
            Self::Suspected { node, .. } | Self::Down { node, .. } | Self::Left { node, .. } => node.0,
        }
    }
}

/// A plain text that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Envelope {
    /// The envelope as the beginning of a plain text.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, Vec::with_capacity(PLAIN_BYTES_MAX)).expect("plain data always encodes")
    }

    /// Reads a plain text.
    pub(crate) fn decode(plain: &[u8]) -> Result<(Self, Vec<Claim>), Malformed> {
        let (envelope, mut rest) = postcard::take_from_bytes::<Self>(plain).map_err(|_| Malformed)?;
        let mut claims = Vec::new();
        while !rest.is_empty() {
            let (claim, left) = postcard::take_from_bytes::<Claim>(rest).map_err(|_| Malformed)?;
            claims.push(claim);
            rest = left;
        }
        Ok((envelope, claims))
    }
}

/// Appends a claim if it fits; whether it did.
pub(crate) fn append(plain: &mut Vec<u8>, claim: &Claim) -> bool {
    let before = plain.len();
    let grown = postcard::to_extend(claim, std::mem::take(plain)).expect("plain data always encodes");
    *plain = grown;
    let fits = plain.len() <= PLAIN_BYTES_MAX;
    if !fits {
        plain.truncate(before);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::{Metadata, Zone};

    fn member(byte: u8) -> Member {
        let incarnation = Incarnation { start: u64::MAX, renewal: u64::MAX };
        let zone = Zone::new(&"z".repeat(64)).unwrap();
        let metadata = Metadata { layout_epoch: u64::MAX, layout_hash: u64::MAX, zone };
        let address = "[2001:db8::1]:65535".parse().unwrap();
        Member { node: NodeId([byte; 32]), address, incarnation, metadata }
    }

    #[test]
    fn datagrams_survive_their_encoding_and_stay_within_their_size() {
        let message = Message::PingRequest { token: u64::MAX, target: Target(NodeId([2; 32])) };
        let envelope = Envelope { counter: u64::MAX, from: member(1), message };
        let mut plain = envelope.encode();
        let claims: Vec<Claim> = (0..40)
            .map(|byte| match byte % 2 {
                0 => Claim::Alive(member(byte)),
                _ => Claim::Down { node: Target(NodeId([byte; 32])), incarnation: Incarnation::default() },
            })
            .take_while(|claim| append(&mut plain, claim))
            .collect();
        assert!(claims.len() >= 8, "only {} claims fit", claims.len());
        assert!(plain.len() <= PLAIN_BYTES_MAX);
        assert_eq!(Envelope::decode(&plain), Ok((envelope, claims)));
        assert_eq!(Envelope::decode(&plain[..plain.len() - 1]), Err(Malformed));
    }
}
