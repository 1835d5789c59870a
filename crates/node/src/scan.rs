//! Looking at a whole bucket from any node: pages of keys, and counts.
//!
//! A cursor names a place on the ring, so it means the same on every node and after every restart. Each
//! partition is asked of its first healthy replica; a key that was there throughout is seen at least once.

mod pages;
mod region;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use slipring_model::{BucketId, Error, NodeId, PartitionId};
use slipring_wire::{Reply, Request};

use crate::answer::{Counted, STILL_COUNTING, no_bucket};
use crate::budget::Class;
use crate::core::Core;
use crate::failure::unavailable;
use crate::view::{BucketView, Place, View};

pub use pages::ScanPage;
pub use region::Region;

/// How long to wait for a replica that counts its keys.
const COUNT_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How often new buckets are looked at, whether they hold keys to count.
const COUNT_INTERVAL: Duration = Duration::from_millis(200);

impl Core {
    /// How many keys of a region of whole partitions the bucket holds, each partition as its first healthy replica counts
    /// it. One that has just started is waited for a little.
    pub(crate) async fn count(
        &self,
        bucket: BucketId,
        region: &Region,
        counted: Counted,
    ) -> Result<u64, Error> {
        let deadline = self.now().after(self.settings.request_timeout());
        loop {
            match self.count_now(bucket, region, counted).await {
                Err(error) if error.message == STILL_COUNTING && self.now() < deadline => {
                    tokio::time::sleep(COUNT_AGAIN_AFTER).await;
                }
                counted => return counted,
            }
        }
    }

    async fn count_now(&self, bucket: BucketId, region: &Region, counted: Counted) -> Result<u64, Error> {
        let view = self.view().ok_or_else(no_bucket)?;
        let places = &view.bucket(bucket).ok_or_else(no_bucket)?.places;
        let mut by_node: BTreeMap<NodeId, Vec<u16>> = BTreeMap::new();
        for (partition, place) in (0..).map(PartitionId).zip(places.iter()) {
            if region.contains(partition.start(view.bits)) {
                by_node.entry(self.first_healthy(place)?).or_default().push(partition.0);
            }
        }
        let mut total = 0;
        for (node, partitions) in by_node {
            total += if node == self.me {
                self.count_here((bucket, counted), Some(view.bits), &partitions)?
            } else {
                let request = count_request(&view, (bucket, counted), partitions);
                match self.ask(node, request, self.settings.request_timeout()).await {
                    Some(Reply::Count(count)) => count,
                    Some(Reply::Failed { kind, message }) => return Err(Error::new(kind, message)),
                    _ => return Err(unavailable("a replica did not answer the count in time; try again")),
                }
            };
        }
        Ok(total)
    }

    fn first_healthy(&self, place: &Place) -> Result<NodeId, Error> {
        if place.is_held_by(self.me) && self.may_serve() {
            return Ok(self.me);
        }
        let healthy =
            place.replicas.iter().copied().find(|node| *node != self.me && self.is_reachable(*node));
        healthy.ok_or_else(|| unavailable("no replica of a partition can be reached; try again"))
    }

    /// Counts the keys that were there when buckets were opened, as background work.
    pub(crate) async fn run_counter(self: Arc<Self>) {
        loop {
            if let Some(view) = self.view() {
                for bucket in view.buckets().filter(|bucket| !bucket.bucket.is_counted()) {
                    if let Err(error) = self.count_bucket(bucket).await {
                        tracing::warn!(bucket = %bucket.bucket.name, %error, "keys could not be counted yet");
                    }
                }
            }
            tokio::time::sleep(COUNT_INTERVAL).await;
        }
    }

    async fn count_bucket(&self, bucket: &BucketView) -> Result<(), Error> {
        for partition in (0..1_u16 << bucket.bucket.bits()).map(PartitionId) {
            while self.budget.run(Class::Upkeep, || bucket.bucket.count_some(partition)).await? {}
        }
        if bucket.bucket.finish_counting() {
            tracing::debug!(bucket = %bucket.bucket.name, "all keys are counted");
        }
        Ok(())
    }
}

/// Who knows of a split says how the ring is cut; before there was one, nodes of older releases may be asked.
fn count_request(view: &View, (bucket, counted): (BucketId, Counted), partitions: Vec<u16>) -> Request {
    match (counted, view.is_cut_into(None)) {
        (Counted::Keys, true) => Request::Count { bucket, partitions },
        (Counted::Keys, false) => Request::CountOfCut { bucket, bits: view.bits, partitions },
        (Counted::Ending, _) => Request::CountEnding { bucket, bits: view.bits, partitions },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::{settled, split, view_of};

    #[test]
    fn counts_name_the_cut_once_there_was_a_split() {
        let mut layout = settled(2);
        let (bucket, partitions) = (BucketId(0), vec![1]);
        let request = |layout: &_| count_request(&view_of(layout, 1), (bucket, Counted::Keys), vec![1]);
        assert_eq!(request(&layout), Request::Count { bucket, partitions: partitions.clone() });
        split(&mut layout);
        assert_eq!(request(&layout), Request::CountOfCut { bucket, bits: 2, partitions });
    }
}
