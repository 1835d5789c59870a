//! Dropping what has expired, by the time that a majority of the members' clocks have passed.
//!
//! Each bucket knows which of its values end next, so a round reads those alone. It goes piece by piece, in a lane of the
//! background budget whose share grows with what waits.

use std::sync::Arc;
use std::time::Duration;

use slipring_model::{BucketId, PartitionId};

use crate::bucket::DropTimes;
use crate::budget::Class;
use crate::core::Core;
use crate::view::{BucketView, View};

impl Core {
    /// Drops expired values once an interval.
    pub(crate) async fn run_sweeper(self: Arc<Self>) {
        let interval = Duration::from_millis(self.settings.expiry_interval_ms);
        loop {
            tokio::time::sleep(interval).await;
            let Some(view) = self.view() else { continue };
            for bucket in view.buckets() {
                self.drop_expired(&view, bucket).await;
            }
        }
    }

    async fn drop_expired(&self, view: &View, bucket: &BucketView) {
        let is_mine = |partition: PartitionId| {
            bucket.places.get(partition.index()).is_some_and(|place| place.mine.is_some())
        };
        let backlog = bucket.bucket.backlog(self.drop_times().drop_ms, is_mine);
        let is_alone =
            |partition| is_mine(partition).then(|| self.is_alone(view, bucket.bucket.id, partition));
        let mut next = Some(PartitionId(0));
        while let Some(from) = next {
            // Each piece goes by the time of its turn: a clock may have stepped.
            let piece = || bucket.bucket.drop_some(from, self.drop_times(), is_alone);
            match self.budget.run(Class::Expiry(backlog), piece).await {
                Ok(dropped) => {
                    self.metrics.expired.inc_by(dropped.count as u64);
                    next = dropped.next;
                }
                Err(error) => {
                    tracing::warn!(bucket = %bucket.bucket.name, %error, "expired values could not be dropped");
                    return;
                }
            }
        }
    }

    fn drop_times(&self) -> DropTimes {
        DropTimes { now_ms: self.agreed_ms(), drop_ms: self.drop_ms().unwrap_or(0) }
    }

    /// Whether this node has the only copy of a partition, by the layout it works with now.
    fn is_alone(&self, view: &View, bucket: BucketId, partition: PartitionId) -> bool {
        let now = self.view();
        let place = now.as_ref().and_then(|now| now.place(bucket, partition.start(view.bits)));
        place.is_some_and(|(_, place)| place.alone().is_some())
    }
}
