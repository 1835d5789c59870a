//! Following the layout: each new version becomes a view, and its nodes the transport's peers.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use slipring_consensus::{Courier, CourierError, aside};
use slipring_model::bucket::EngineKind;
use slipring_model::{BucketId, Mutant, NodeId, PartitionId};
use slipring_ring::{Layout, NodeEntry};
use slipring_wire::{Reply, Request};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::bucket::Bucket;
use crate::core::Core;
use crate::failure::stored;
use crate::view::View;

/// How often a node looks whether its member of the layout group is alive.
const GROUP_WATCH_INTERVAL: Duration = Duration::from_millis(500);

impl Core {
    /// Works with each new layout as it is agreed.
    pub(crate) async fn run_follower(self: Arc<Self>) {
        let Some(group) = self.group.get() else { return };
        let mut layouts = group.layout();
        loop {
            let layout = layouts.borrow_and_update().clone();
            if let Some(layout) = layout {
                self.adopt(&layout);
            }
            if layouts.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the node when its member of the layout group cannot go on: it would work with a layout that grows
    /// older and older. Alone it stays, so that what it holds can be read.
    pub(crate) async fn run_group_watch(self: Arc<Self>) {
        let Some(group) = self.group.get() else { return };
        loop {
            tokio::time::sleep(GROUP_WATCH_INTERVAL).await;
            let has_peers = self.view().is_some_and(|view| view.layout.nodes().len() > 1);
            if let Some(reason) = group.failure().filter(|_| has_peers) {
                return self.give_up(format!("the layout group's member ended: {reason}"));
            }
        }
    }

    /// Makes `layout` the one this node works with, when it is newer.
    pub(crate) fn adopt(&self, layout: &Arc<Layout>) {
        // With many partitions this takes long.
        aside(|| self.adopt_now(layout));
    }

    fn adopt_now(&self, layout: &Arc<Layout>) {
        let before = self.view();
        if before.as_ref().is_some_and(|view| view.epoch() >= layout.epoch())
            && !Mutant::AdoptOlder.is_planted()
        {
            return;
        }
        let own = layout.nodes().get(&self.me);
        if let Some(own) = own.filter(|entry| entry.is_rolled_back(self.incarnation, self.boot)) {
            return self.look_at_own_entry(own);
        }
        let was_member = before.as_ref().is_some_and(|view| view.layout.nodes().contains_key(&self.me));
        if own.is_none() && was_member {
            return self.was_removed();
        }
        let opened: Result<BTreeMap<BucketId, Arc<Bucket>>, _> =
            layout.buckets().keys().map(|id| self.bucket(before.as_deref(), layout, *id)).collect();
        match opened {
            Ok(mut buckets) => {
                let turn = self.moving.turn.lock();
                if !self.moving.cut_anew(layout) {
                    let reason = "the layout has fewer partitions than one that this node has worked with";
                    return self.give_up(reason.to_owned());
                }
                if let Some(before) = before.as_ref().filter(|view| view.bits != layout.bits()) {
                    before.end();
                    buckets.values_mut().for_each(|bucket| cut_anew(bucket, layout.bits()));
                }
                let view = View::new(Arc::clone(layout), self.me, |id| {
                    buckets.remove(&id).expect("every bucket of the layout was opened")
                });
                self.close_leftovers(&view);
                let view = Arc::new(view);
                self.view.store(Some(Arc::clone(&view)));
                raise_fences(&view);
                drop(turn);
                if let Some(before) = before {
                    self.recovery.adopted(&before, &view);
                }
                self.metrics.epoch.set(layout.epoch() as i64);
                self.metrics.partitions.set(layout.partition_count().into());
                self.regroup_writes(&view);
                self.adopted.send_replace(layout.epoch());
                self.review_starts(layout);
                self.meet_peers(layout);
            }
            Err(error) => self.give_up(format!("a bucket could not be opened: {error}")),
        }
    }

    fn bucket(
        &self,
        before: Option<&View>,
        layout: &Layout,
        id: BucketId,
    ) -> Result<(BucketId, Arc<Bucket>), slipring_model::Error> {
        if let Some(known) = before.and_then(|view| view.bucket(id)) {
            return Ok((id, Arc::clone(&known.bucket)));
        }
        let entry = layout.buckets().get(&id).expect("the id comes from this layout");
        let engine = match entry.policy.engine {
            EngineKind::Disk => Arc::clone(&self.disk),
            EngineKind::Memory => Arc::clone(&self.memory),
        };
        let bucket = Bucket::open(id, entry.name.clone(), entry.policy.clone(), engine, layout.bits())?;
        self.take_stock(&bucket)?;
        Ok((id, Arc::new(bucket)))
    }

    /// Takes the count of keys that this node's last end has left; it counts for one start only.
    fn take_stock(&self, bucket: &Bucket) -> Result<(), slipring_model::Error> {
        let name = stock_name(bucket.id);
        let left = self.meta.get(&name).map_err(stored)?.filter(|left| !left.is_empty());
        if let Some(left) = left {
            if !bucket.is_counted() {
                bucket.take_stock(&left);
            }
            self.meta.put(&[(&name, &[])]).map_err(stored)?;
        }
        Ok(())
    }

    /// Leaves the counts of keys to the next start.
    pub(crate) fn leave_stock(&self) {
        let Some(view) = self.view() else { return };
        let on_disk = view.buckets().filter(|bucket| bucket.bucket.policy.engine == EngineKind::Disk);
        for bucket in on_disk {
            let Some(stock) = bucket.bucket.stock() else { continue };
            if let Err(error) = self.meta.put(&[(&stock_name(bucket.bucket.id), &stock)]) {
                tracing::debug!(%error, "the next start counts the keys again");
            }
        }
    }

    pub(crate) fn meet_peers(&self, layout: &Layout) {
        let mut peers = self.hearsay.newer_than(layout.epoch());
        let reached =
            |(node, entry): (&NodeId, &NodeEntry)| (*node, self.whereabouts.of(*node, &entry.addresses.peer));
        peers.extend(layout.nodes().iter().map(reached));
        peers.remove(&self.me);
        if let Some(transport) = self.transport.get() {
            transport.set_peers(peers);
        }
    }
}

/// Under which name the meta store keeps the count of a bucket's keys.
fn stock_name(bucket: BucketId) -> String {
    format!("stock/{}", bucket.0)
}

fn cut_anew(bucket: &mut Arc<Bucket>, bits: u8) {
    if bucket.bits() != bits {
        *bucket = Arc::new(bucket.cut_anew(bits));
    }
}

/// From now on requests of older layouts are refused where they mattered, and all where nothing is held; those
/// admitted before are done.
fn raise_fences(view: &View) {
    for bucket in view.buckets() {
        for (partition, place) in bucket.places.iter().enumerate() {
            let since = place.mine.map(|_| place.since);
            bucket.bucket.fence(PartitionId(partition as u16), since);
        }
    }
}

/// Carries the layout group's messages over the peer transport.
pub(crate) struct PeerCourier(pub(crate) Weak<Core>);

impl Courier for PeerCourier {
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CourierError>> {
        let core = self.0.upgrade();
        Box::pin(async move {
            let Some(core) = core else { return Err(CourierError::NotSent) };
            if !core.is_reachable(to) {
                return Err(CourierError::NotSent);
            }
            match core.ask(to, Request::Layout(request), deadline).await {
                Some(Reply::Layout(answer)) => Ok(answer),
                Some(Reply::Failed { message, .. }) => Err(CourierError::Refused(message)),
                _ if core.is_reachable(to) => Err(CourierError::TimedOut),
                _ => Err(CourierError::Unreachable),
            }
        })
    }
}
