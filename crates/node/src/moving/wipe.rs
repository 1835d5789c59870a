//! Removing what this node holds no more, and what an earlier assignment left behind.

use std::sync::Arc;
use std::time::Duration;

use slipring_model::Error;
use slipring_ring::TableId;

use crate::bucket::Wiped;
use crate::budget::Class;
use crate::core::Core;
use crate::failure::stored;
use crate::view::{BucketView, View};

use super::held::Leftover;

/// How long to rest when something could not be removed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl Core {
    /// Refuses requests on partitions of a coming view whose data here is of an earlier assignment. Where there
    /// is no such data the assignment is noted at once.
    pub(crate) fn close_leftovers(&self, view: &View) {
        self.moving.carry_over(&view.layout);
        let (left, clean): (Vec<_>, Vec<_>) =
            self.moving.leftovers(view).into_iter().partition(Leftover::has_data);
        close(view, &left);
        if !clean.is_empty()
            && let Err(error) = self.moving.settle(&self.meta, &clean)
        {
            self.give_up(format!("what this node holds could not be noted: {error}"));
        }
        if !left.is_empty() {
            self.moving.wake_wiper.notify_one();
        }
    }

    /// Removes leftovers, for ever.
    pub(crate) async fn run_wiper(self: Arc<Self>) {
        loop {
            tokio::select! {
                biased;
                () = self.moving.wake_wiper.notified() => {}
                () = tokio::time::sleep(RETRY_AFTER) => {}
            }
            let Some((view, leftovers)) = self.leftovers_now() else { continue };
            if !leftovers.is_empty()
                && let Err(error) = self.wipe(&view, &leftovers).await
            {
                tracing::warn!(%error, "what this node holds no more could not be removed yet");
            }
        }
    }

    /// The view this node works with, and what is left over by it.
    fn leftovers_now(&self) -> Option<(Arc<View>, Vec<Leftover>)> {
        // What is noted must not be of a later view.
        let _turn = self.moving.turn.lock();
        let view = self.view()?;
        let leftovers = self.moving.leftovers(&view);
        Some((view, leftovers))
    }

    /// Removes leftovers and notes those that are gone. One that a later view gave back is not: this node may have to
    /// give it away again, and then its data is still there.
    async fn wipe(&self, view: &Arc<View>, leftovers: &[Leftover]) -> Result<(), Error> {
        let mut gone = Vec::with_capacity(leftovers.len());
        for leftover in leftovers {
            if leftover.had.is_none() || self.wipe_one(view, leftover).await? {
                gone.push(*leftover);
            }
        }
        self.syncer.mark_dirty();
        // Else a loss of power could bring back what the note below says is gone.
        self.synced().await?;
        let _turn = self.moving.turn.lock();
        let Some(now) = self.view() else { return Ok(()) };
        let still = self.moving.leftovers(&now);
        let settled: Vec<Leftover> = gone.into_iter().filter(|leftover| still.contains(leftover)).collect();
        self.moving.settle(&self.meta, &settled).map_err(stored)?;
        for leftover in settled {
            of_table(&now, leftover.table).for_each(|bucket| bucket.bucket.close(leftover.partition, false));
        }
        Ok(())
    }

    /// Removes a leftover; `false` when a later view does not have it any more.
    async fn wipe_one(&self, view: &View, leftover: &Leftover) -> Result<bool, Error> {
        for bucket in of_table(view, leftover.table) {
            // Under the partition's lock: a later view may have given it back.
            let is_left = || {
                self.view().is_some_and(|now| {
                    now.layout.table_of(bucket.bucket.id) == Some(leftover.table)
                        && self.moving.is_left(&now, leftover)
                })
            };
            let mut from = leftover.partition.start(view.bits);
            loop {
                let wipe = || bucket.bucket.wipe_some(leftover.partition, from, is_left);
                match self.budget.run(Class::Upkeep, wipe).await? {
                    Wiped::Until(next) => from = next,
                    Wiped::All => break,
                    Wiped::Nothing => return Ok(false),
                }
            }
        }
        Ok(true)
    }
}

/// Refuses requests on partitions that this node is to hold anew.
fn close(view: &View, left: &[Leftover]) {
    for leftover in left.iter().filter(|leftover| leftover.now.is_some()) {
        of_table(view, leftover.table).for_each(|bucket| bucket.bucket.close(leftover.partition, true));
    }
}

/// The buckets that use a table.
pub(super) fn of_table(view: &View, table: TableId) -> impl Iterator<Item = &BucketView> {
    view.buckets().filter(move |bucket| bucket.table == table)
}

#[cfg(test)]
mod tests {
    use slipring_model::PartitionId;

    use super::*;
    use crate::view::tests::{settled, view_of};

    #[test]
    fn only_what_is_to_be_held_anew_is_closed_and_only_in_its_own_table() {
        let view = view_of(&settled(3), 1);
        let left = |partition, now| Leftover {
            table: TableId(3),
            partition: PartitionId(partition),
            bits: 1,
            had: Some(1),
            now,
        };
        close(&view, &[left(0, Some(2)), left(1, None)]);
        let closed = |bucket: &BucketView| [0, 1].map(|at| bucket.bucket.is_closed(PartitionId(at)));
        assert_eq!(view.buckets().map(closed).collect::<Vec<_>>(), [[true, false], [false, false]]);
        assert_eq!(of_table(&view, TableId(2)).count(), 1);
    }
}
