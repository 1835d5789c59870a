//! What is done to whole partitions beside clients' requests: sums for exchanges, scrub, and dropping what has
//! expired. All of it goes page by page, each a piece of the background budget.

use bytes::Bytes;
use slipring_model::{Error, Mutant, PartitionId, Position};
use slipring_replication::root_of;
use slipring_service::Cell;
use slipring_storage::Write;

use super::{Bucket, is_mortal};
use crate::budget::{Budget, Class, PIECE_RECORDS};
use crate::failure::{stored, unavailable};

/// What one page held that may expire.
#[derive(Default)]
struct Mortals {
    expired: Vec<(Position, Bytes)>,
    /// Whether anything may expire, now or later.
    has_any: bool,
    /// Where to go on, if any records are left.
    next: Option<Position>,
}

impl Bucket {
    /// The sum over all cells of a partition; equal on replicas that hold the same.
    pub(crate) async fn root(
        &self,
        partition: PartitionId,
        (budget, class): (&Budget, Class),
    ) -> Result<u128, Error> {
        let version = {
            let guard = self.partition(partition.start(self.bits));
            if guard.is_over {
                return Err(unavailable("the partition was just split; try again"));
            }
            match guard.root {
                Some((version, root)) if version == guard.version => return Ok(root),
                _ => guard.version,
            }
        };
        let (mut root, mut from) = (0_u128, Some(partition.start(self.bits)));
        while let Some(start) = from {
            let range = start..=partition.end(self.bits);
            let (page, next) = budget.run(class, || self.page(range, PIECE_RECORDS)).await?;
            root = page.iter().fold(root, |sum, entry| sum.wrapping_add(root_of(&entry.key, entry.digest)));
            from = next;
        }
        let mut guard = self.partition(partition.start(self.bits));
        if guard.version == version {
            guard.root = Some((version, root));
        }
        Ok(root)
    }

    /// Reads every record of a partition; damage is noted for healing.
    pub(crate) async fn scrub(&self, partition: PartitionId, budget: &Budget) -> Result<(), Error> {
        let (mut next, end) = (Some(partition.start(self.bits)), partition.end(self.bits));
        while let Some(from) = next {
            next = budget.run(Class::Upkeep, || self.page(from..=end, PIECE_RECORDS)).await?.1;
        }
        Ok(())
    }

    /// Drops the bytes of values of one partition that have expired; whole records while this is the only copy.
    pub(crate) async fn sweep(
        &self,
        partition: PartitionId,
        now_ms: u64,
        is_alone: impl Fn() -> bool,
        budget: &Budget,
    ) -> Result<u64, Error> {
        let version = {
            let guard = self.partition(partition.start(self.bits));
            if !guard.is_mortal {
                return Ok(0);
            }
            guard.version
        };
        let (mut count, mut has_mortals) = (0, false);
        let (mut next, end) = (Some(partition.start(self.bits)), partition.end(self.bits));
        while let Some(from) = next {
            let page = budget.run(Class::Upkeep, || self.sweep_page(from, end, (now_ms, is_alone()))).await?;
            count += page.expired.len() as u64;
            has_mortals |= page.has_any;
            next = page.next;
        }
        let mut guard = self.partition(partition.start(self.bits));
        if !has_mortals && guard.version == version {
            guard.is_mortal = false;
        }
        Ok(count)
    }

    fn sweep_page(
        &self,
        from: Position,
        end: Position,
        (now_ms, is_alone): (u64, bool),
    ) -> Result<Mortals, Error> {
        let (mut page, mut visited, mut last) = (Mortals::default(), 0, None);
        self.engine
            .scan(self.id, from..=end, None, &mut |position, key, record| {
                if visited >= PIECE_RECORDS && last != Some(position) {
                    page.next = Some(position);
                    return false;
                }
                (visited, last) = (visited + 1, Some(position));
                if let Some(cell) = self.decode(position, key, record) {
                    page.has_any |= is_mortal(&cell);
                    if cell.expired(now_ms).is_some() {
                        page.expired.push((position, Bytes::copy_from_slice(key)));
                    }
                }
                true
            })
            .map_err(stored)?;
        for (position, key) in &page.expired {
            self.expire(*position, key, now_ms, is_alone)?;
        }
        Ok(page)
    }

    fn expire(&self, position: Position, key: &[u8], now_ms: u64, is_alone: bool) -> Result<(), Error> {
        let mut guard = self.partition(position);
        let partition = &mut *guard;
        if partition.is_over {
            return Ok(());
        }
        let mut kept = None;
        self.read(position, key, &mut |record| {
            let cell = record.and_then(|bytes| Cell::decode(bytes).ok());
            if let Some(expired) = cell.and_then(|cell| cell.expired(now_ms)) {
                partition.scratch.clear();
                expired.encode(&mut partition.scratch);
                let is_last = is_alone || Mutant::DropExpired.is_planted();
                kept = Some(!(is_last && expired.is_bare()));
            }
        })?;
        if let Some(is_kept) = kept {
            let record = is_kept.then_some(partition.scratch.as_slice());
            self.engine.apply(&[Write { at: self.at(position, key), record }]).map_err(stored)?;
            partition.note(&self.live, position, true, false);
            partition.tidy();
        }
        Ok(())
    }
}
