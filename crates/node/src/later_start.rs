//! Starts later than this one: how a node learns that its directory is an older copy, and believes it of nobody.
//!
//! A node signs each of its starts, and the layout keeps the latest with that signature. Whoever meets the node with an
//! older start shows it the later one. It stops and marks its directory only for that: nothing but its own key can have
//! signed it, so no word of a peer has to be trusted, and a start that was really made cannot be taken back.
//!
//! Invariant: a directory is marked as rolled back only if the node itself has signed a start that makes it so.

use std::time::Duration;

use slipring_model::{NodeId, Signature, StorageId};
use slipring_ring::{Layout, NodeEntry, start_statement};
use slipring_transport::is_signed_by;
use slipring_wire::{Reply, Request};

use crate::core::Core;

/// How long a peer may take to hear of it. Its answer means nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// A start of this node, as somebody shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) storage: StorageId,
    pub(crate) incarnation: u64,
    pub(crate) boot: u64,
    pub(crate) signature: Signature,
}

impl Shown {
    fn of(entry: &NodeEntry) -> Option<Self> {
        let NodeEntry { storage, incarnation, boot, signature, .. } = entry;
        let (storage, incarnation, boot) = (*storage, *incarnation, *boot);
        signature.map(|signature| Self { storage, incarnation, boot, signature })
    }

    /// Whether it shows that a start of `node` in the same directory came from an older copy of it.
    fn outdates(&self, node: NodeId, storage: StorageId, (incarnation, boot): (u64, u64)) -> bool {
        let is_later = slipring_ring::is_older((incarnation, boot), (self.incarnation, self.boot));
        let statement = || start_statement(node, self.storage, self.incarnation, self.boot);
        storage == self.storage && is_later && is_signed_by(node, &statement(), &self.signature.0)
    }
}

impl Core {
    /// This node's signature under its start.
    pub(crate) fn sign_start(&self) -> Option<Signature> {
        let statement = start_statement(self.me, self.identity.storage, self.incarnation, self.boot);
        Signature::from_slice(&self.identity.key.sign(&statement))
    }

    /// Stops this node for good, if it is shown that it has started since from a later copy of its directory.
    pub(crate) fn look_at_start(&self, shown: &Shown) {
        if shown.outdates(self.me, self.identity.storage, (self.incarnation, self.boot)) {
            self.was_rolled_back();
        } else {
            self.metrics.refusals.starts.inc();
        }
    }

    /// The layout has another start of this node, which makes its directory an older copy.
    pub(crate) fn look_at_own_entry(&self, entry: &NodeEntry) {
        match Shown::of(entry) {
            Some(shown) if shown.outdates(self.me, self.identity.storage, (self.incarnation, self.boot)) => {
                self.was_rolled_back();
            }
            // It cannot go on either, but whoever is to blame, it is not this directory.
            _ => self.give_up(
                "the layout has a start of this node that this node has not signed; start it again, and if that does not \
                 help, compare `slipring status` of the other nodes"
                    .to_owned(),
            ),
        }
    }

    /// Shows a peer its latest start.
    pub(crate) fn show_start(&self, peer: NodeId, layout: &Layout) {
        let shown = layout.nodes().get(&peer).and_then(Shown::of);
        let (Some(core), Some(shown)) = (self.handle.upgrade(), shown) else { return };
        let Shown { storage, incarnation, boot, signature } = shown;
        tokio::spawn(async move {
            let request = Request::LaterStart { storage, incarnation, boot, signature };
            if let Some(Reply::Failed { message, .. }) = core.ask(peer, request, PATIENCE).await {
                tracing::debug!(peer = %peer.short(), message, "a node did not look at its latest start");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use slipring_transport::NodeKey;

    use super::*;

    #[test]
    fn only_a_later_start_that_the_node_has_signed_outdates_it() {
        let key = NodeKey::from_seed(&[1; 32]).expect("32 bytes");
        let forger = NodeKey::from_seed(&[2; 32]).expect("32 bytes");
        let (node, storage, other) = (key.node(), StorageId([1; 16]), StorageId([2; 16]));
        let shown = |signer: &NodeKey, storage, incarnation, boot| {
            let signature = signer.sign(&start_statement(node, storage, incarnation, boot));
            Shown {
                storage,
                incarnation,
                boot,
                signature: Signature::from_slice(&signature).expect("64 bytes"),
            }
        };
        let outdates = |shown: Shown| shown.outdates(node, storage, (5, 50));
        assert!(outdates(shown(&key, storage, 6, 1)), "a later one");
        assert!(outdates(shown(&key, storage, 5, 51)), "another one of the same number");
        assert!(!outdates(shown(&key, storage, 5, 50)), "this very one");
        assert!(!outdates(shown(&key, storage, 4, 1)), "an earlier one");
        assert!(!outdates(shown(&key, other, 6, 1)), "of another directory");
        assert!(!outdates(shown(&forger, storage, 6, 1)), "signed by another node");
        let altered = Shown { incarnation: 7, ..shown(&key, storage, 4, 1) };
        assert!(!outdates(altered), "of another start");
    }
}
