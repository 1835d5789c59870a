//! What gossip keeps over a restart: known peers, and the start that the cluster knows of this node.
//!
//! Kept beside the driver, so that a slow disk does not look like a pause of the node. Of two lists that come
//! while one is being kept, only the later is.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use slipring_membership::KnownPeer;
use slipring_storage::MetaStore;
use tokio::sync::watch;

use crate::core::Core;

/// Where it is kept in the meta store.
const NAME: &str = "gossip";

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The latest start that was raised; 0 if none was.
    start: u64,
    peers: Vec<KnownPeer>,
}

/// The driver's side.
pub(super) struct Keeper(watch::Sender<Kept>);

impl Keeper {
    /// The number of a start: later than the incarnation of the process before, and than what was ever raised.
    pub(super) fn next_start(&self, incarnation: u64) -> u64 {
        let raised = self.0.borrow().start;
        incarnation.max(raised.saturating_add(u64::from(raised > 0)))
    }

    pub(super) fn known_peers(&self) -> Vec<KnownPeer> {
        self.0.borrow().peers.clone()
    }

    pub(super) fn keep_peers(&self, peers: Vec<KnownPeer>) {
        self.0.send_modify(|kept| kept.peers = peers);
    }

    pub(super) fn keep_start(&self, start: u64) {
        self.0.send_modify(|kept| kept.start = start);
    }
}

/// What was kept before, as the beginning of what is kept from now on. A record that cannot be read is only a list
/// of addresses lost: the layout has them too.
pub(super) fn channel(meta: &MetaStore) -> (Keeper, watch::Receiver<Kept>) {
    let read = meta.get(NAME).unwrap_or_else(|error| {
        tracing::warn!(%error, "what was kept of known peers cannot be read");
        None
    });
    let kept = read.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let (sender, receiver) = watch::channel(kept);
    (Keeper(sender), receiver)
}

/// Keeps what the driver hands over, until it ends.
pub(super) async fn run(core: Arc<Core>, mut kept: watch::Receiver<Kept>) {
    while kept.changed().await.is_ok() {
        let json = serde_json::to_vec(&*kept.borrow_and_update()).expect("addresses are plain data");
        let meta = core.meta.clone();
        let result = core.syncer.on_disk(move || meta.put(&[(NAME, &json)])).await;
        if let Err(error) = result {
            tracing::warn!(%error, "known peers could not be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use slipring_storage::faults::FaultyFile;

    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_each_start_is_later() {
        let meta = MetaStore::with_backend(FaultyFile::new()).expect("a store");
        let (keeper, _) = channel(&meta);
        assert_eq!((keeper.next_start(4), keeper.known_peers()), (4, Vec::new()));
        let peer = KnownPeer { address: "10.0.0.1:1".parse().expect("one"), node: None, seen_unix_ms: 7 };
        let kept = Kept { start: 9, peers: vec![peer.clone()] };
        let json = serde_json::to_vec(&kept).expect("plain data");
        meta.put(&[(NAME, &json)]).expect("kept");
        let (keeper, _) = channel(&meta);
        assert_eq!((keeper.next_start(5), keeper.known_peers()), (10, vec![peer]));
        assert_eq!(keeper.next_start(12), 12);
        meta.put(&[(NAME, b"damaged")]).expect("kept");
        assert_eq!(channel(&meta).0.known_peers(), Vec::new());
    }
}
