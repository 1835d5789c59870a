//! The layout's nodes and where each is reached: told to the machine whenever either changes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use slipring_membership::{Metadata, Zone};
use slipring_model::NodeId;
use slipring_ring::Layout;
use xxhash_rust::xxh3::xxh3_64;

use super::{Datagrams, Word};
use crate::core::Core;

/// How often names are looked up anew: a node may have moved.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// How long one name may take.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);
/// Names looked up at one time.
const LOOKUPS_AT_ONCE: usize = 16;

type Addresses = BTreeMap<NodeId, Option<SocketAddr>>;

/// Tells the driver who the layout names, for ever.
pub(super) async fn run(core: Arc<Core>, datagrams: Arc<dyn Datagrams>) {
    let Some(group) = core.group.get() else { return };
    let mut layouts = group.layout();
    let mut listed: Addresses = BTreeMap::new();
    let mut told: Option<(Addresses, Metadata)> = None;
    loop {
        let layout = layouts.borrow_and_update().clone();
        if let Some(layout) = newest(layout, &core) {
            listed = look_up(&core, &layout, &listed, datagrams.as_ref()).await;
            let metadata = match &told {
                Some((_, told)) if told.layout_epoch == layout.epoch() => told.clone(),
                _ => metadata(&layout, &core.settings.zone),
            };
            let now = (listed.clone(), metadata);
            if told.as_ref() != Some(&now) {
                if core.gossip.words.send(Word::Listed(now.0.clone(), now.1.clone())).await.is_err() {
                    return;
                }
                told = Some(now);
            }
        }
        tokio::select! {
            biased;
            changed = layouts.changed() => if changed.is_err() { return },
            () = core.whereabouts.changed.notified() => {}
            () = tokio::time::sleep(LOOKUP_INTERVAL) => {}
        }
    }
}

/// The later of what the group agreed on and what the node works with.
fn newest(agreed: Option<Arc<Layout>>, core: &Core) -> Option<Arc<Layout>> {
    let in_use = core.view().map(|view| Arc::clone(&view.layout));
    agreed.into_iter().chain(in_use).max_by_key(|layout| layout.epoch())
}

/// Where each node of a layout is; what cannot be looked up now is where it was before.
async fn look_up(core: &Core, layout: &Layout, before: &Addresses, datagrams: &dyn Datagrams) -> Addresses {
    let asked: Vec<_> = layout
        .nodes()
        .iter()
        .map(|(node, entry)| {
            let known = before.get(node).copied().flatten();
            let address = core.whereabouts.of(*node, &entry.addresses.peer);
            look_up_one(*node, datagrams.resolve(address), known)
        })
        .collect();
    stream::iter(asked).buffered(LOOKUPS_AT_ONCE).collect().await
}

async fn look_up_one(
    node: NodeId,
    asked: BoxFuture<'static, Option<SocketAddr>>,
    known: Option<SocketAddr>,
) -> (NodeId, Option<SocketAddr>) {
    let found = tokio::time::timeout(LOOKUP_PATIENCE, asked).await.ok().flatten();
    (node, found.or(known))
}

/// What this node tells of the layout it works with.
fn metadata(layout: &Layout, zone: &str) -> Metadata {
    let document = serde_json::to_vec(layout).expect("a layout is plain data");
    let zone = Zone::new(zone).expect("a zone of the settings has at most 64 bytes");
    Metadata { layout_epoch: layout.epoch(), layout_hash: xxh3_64(&document), zone }
}
