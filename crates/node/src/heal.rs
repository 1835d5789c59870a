//! Healing: a record that fails its check is fetched from the other replicas and written anew.
//!
//! Whoever comes upon damage notes the key in its bucket. Until it is healed this replica neither
//! acknowledges nor answers for the key, so it counts as one that failed.
//!
//! Invariant: a healed copy descends every acknowledged write, because it merges the cells of so many others
//! that one of them took part in each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use slipring_model::{BucketId, Error, ErrorKind, NodeId, PartitionId, Position};
use slipring_wire::{Reply, Request};
use smallvec::SmallVec;

use crate::core::Core;
use crate::failure::unavailable;
use crate::requests::Work;
use crate::view::{BucketView, Place, View};

/// How often damage is looked for.
const INTERVAL: Duration = Duration::from_millis(250);
/// Keys of a bucket that are healed in one turn.
const KEYS_PER_TURN: usize = 64;

impl Core {
    /// Heals what was found damaged, for ever.
    pub(crate) async fn run_healer(self: Arc<Self>) {
        // Of each bucket the key tried last: what cannot be healed must not hold up the rest.
        let mut tried: BTreeMap<BucketId, (Position, Bytes)> = BTreeMap::new();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(view) = self.view().filter(|_| self.may_serve()) else { continue };
            for bucket in view.buckets() {
                let last = tried.entry(bucket.bucket.id).or_default();
                let keys = bucket.bucket.damaged(last, KEYS_PER_TURN);
                *last = keys.last().cloned().unwrap_or_default();
                let healing = keys.iter().map(|(position, key)| self.heal(&view, bucket, *position, key));
                if let Some(Err(error)) = join_all(healing).await.into_iter().find(Result::is_err) {
                    tracing::warn!(bucket = %bucket.bucket.name, %error, "damaged records could not be healed yet");
                }
            }
        }
    }

    /// Reads all that the disk holds, one partition after the other, so that damage is found while there are
    /// other copies.
    pub(crate) async fn run_scrubber(self: Arc<Self>) {
        let interval = Duration::from_millis(self.settings.scrub_interval_ms);
        let mut next: u16 = 0;
        loop {
            tokio::time::sleep(interval).await;
            let Some(view) = self.view() else { continue };
            let partition = PartitionId(next % view.layout.partition_count());
            next = next.wrapping_add(1);
            for bucket in view.buckets() {
                if let Err(error) = bucket.bucket.scrub(partition, &self.budget).await {
                    tracing::warn!(bucket = %bucket.bucket.name, %error, "a partition could not be read through");
                }
            }
        }
    }

    async fn heal(
        &self,
        view: &View,
        bucket: &BucketView,
        position: Position,
        key: &Bytes,
    ) -> Result<(), Error> {
        let (_, place) = view
            .place(bucket.bucket.id, position)
            .filter(|(_, place)| place.mine.is_some())
            .ok_or_else(|| unavailable("this node holds no copy of the key any more"))?;
        let asked = join_all(place.others(self.me).map(async |node| {
            let request = Request::Fetch { bucket: bucket.bucket.id, epoch: view.epoch(), key: key.clone() };
            match self.ask(node, request, self.settings.request_timeout()).await {
                Some(Reply::Cell(cell)) => Some((node, cell)),
                _ => None,
            }
        }));
        let cells: Vec<(NodeId, Option<Bytes>)> = asked.await.into_iter().flatten().collect();
        let told = cells.iter().filter(|(node, _)| place.is_held_by(*node)).count();
        if told < others_needed(place) {
            return Err(unavailable(format!("only {told} other replicas told theirs")));
        }
        let cells = cells.iter().filter_map(|(_, cell)| cell.as_deref());
        bucket.bucket.restore(position, key, cells, view.epoch())?;
        self.syncer.mark_dirty();
        self.metrics.healed.inc();
        tracing::info!(bucket = %bucket.bucket.name, "a damaged record was healed from other replicas");
        Ok(())
    }

    /// A request could not be run on this node's copy and did nothing: another replica should run it.
    pub(crate) fn pass_on(&self, work: Work, reason: &Error) {
        let error = match reason.kind {
            ErrorKind::Overloaded => reason.clone(),
            _ => unavailable(reason.message.clone()),
        };
        if work.is_forwarded {
            return self.reply(work.reply_to, Err(error));
        }
        self.submit_avoiding(work, SmallVec::from_slice(&[self.me]), Some(error));
    }
}

/// Whether an error says that this node's record is damaged.
pub(crate) fn is_damage(error: &Error) -> bool {
    error.kind == ErrorKind::Corrupt
}

/// How many others must tell their cells, so that each acknowledged write is known to one of them.
fn others_needed(place: &Place) -> usize {
    let (n, w) = (usize::from(place.quorum.n), usize::from(place.quorum.w));
    (n - w.min(n) + 1).min(n - 1).max(1)
}
