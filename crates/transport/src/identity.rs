//! Who a node is to its peers: its greeting, the key that its id names, and where nonces come from.
//!
//! Source: Bernstein et al., "High-speed high-security signatures" (2011), Ed25519.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use slipring_model::NodeId;
use slipring_wire::{Hello, Nonce};

/// The bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// The secret key of a node; its id is the public one.
pub struct NodeKey(Ed25519KeyPair);

impl NodeKey {
    /// The key that these 32 secret bytes make; `None` when there are not so many.
    #[must_use]
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// The id of the node with this key.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::from_slice(self.0.public_key().as_ref()).expect("a public key of Ed25519 has 32 bytes")
    }

    /// Signs a statement.
    #[must_use]
    pub fn sign(&self, statement: &[u8]) -> Vec<u8> {
        self.0.sign(statement).as_ref().to_vec()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.node().short())
    }
}

/// Whether a node has signed a statement.
#[must_use]
pub fn is_signed_by(node: NodeId, statement: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, node.0).verify(statement, signature).is_ok()
}

/// What a transport must know of its own node.
#[derive(Clone)]
pub struct Identity {
    /// How it greets.
    pub hello: Hello,
    /// What it proves its id with.
    pub key: Arc<NodeKey>,
    /// Draws a nonce; never the same one twice.
    pub nonces: Arc<dyn Fn() -> Nonce + Send + Sync>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_statement_and_its_node_alone() {
        let (one, other) = (NodeKey::from_seed(&[1; 32]), NodeKey::from_seed(&[2; 32]));
        let (one, other) = (one.expect("32 bytes"), other.expect("32 bytes"));
        let signature = one.sign(b"statement");
        assert_eq!(signature.len(), SIGNATURE_BYTES);
        assert!(is_signed_by(one.node(), b"statement", &signature));
        assert!(!is_signed_by(other.node(), b"statement", &signature));
        assert!(!is_signed_by(one.node(), b"another one", &signature));
        for wrong in [&signature[1..], &[], &[0; SIGNATURE_BYTES]] {
            assert!(!is_signed_by(one.node(), b"statement", wrong));
        }
        assert!(NodeKey::from_seed(&[1; 31]).is_none());
    }
}
