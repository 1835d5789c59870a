//! Changes to several records of one partition that are applied together, under its lock.

use slipring_model::{Error, Position};
use slipring_service::Cell;
use slipring_storage::Write;

use super::live::Worth;
use super::{Bucket, Partition};
use crate::failure::stored;

/// The changes; keys and records lie in one buffer.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    changes: Vec<Changed>,
}

struct Changed {
    position: Position,
    was: Worth,
    is: Worth,
    /// Where its key ends in the buffer, and its record, if it is kept. It begins where the one before ends.
    key_end: usize,
    end: usize,
    is_kept: bool,
}

impl Batch {
    /// A record becomes this cell, or goes when there is none.
    pub(super) fn add(&mut self, position: Position, key: &[u8], was: Worth, cell: Option<&Cell<'_>>) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        cell.into_iter().for_each(|cell| cell.encode(&mut self.bytes));
        let is = cell.map(Worth::of).unwrap_or_default();
        let (end, is_kept) = (self.bytes.len(), cell.is_some());
        self.changes.push(Changed { position, was, is, key_end, end, is_kept });
    }

    /// A record becomes another, which counts for something else.
    pub(super) fn add_record(
        &mut self,
        position: Position,
        key: &[u8],
        (was, is): (Worth, Worth),
        record: &[u8],
    ) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(record);
        self.changes.push(Changed { position, was, is, key_end, end: self.bytes.len(), is_kept: true });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Each key and its new record.
    pub(super) fn records(&self) -> impl Iterator<Item = (Position, &[u8], Option<&[u8]>)> {
        let starts = std::iter::once(0).chain(self.changes.iter().map(|change| change.end));
        self.changes.iter().zip(starts).map(|(change, start)| {
            let key = self.bytes.get(start..change.key_end).unwrap_or_default();
            let record = self.bytes.get(change.key_end..change.end).unwrap_or_default();
            (change.position, key, change.is_kept.then_some(record))
        })
    }
}

impl Bucket {
    /// Stores all changes or, when it fails, perhaps all or none.
    pub(super) fn apply(&self, partition: &mut Partition, batch: &Batch) -> Result<(), Error> {
        let write = |(position, key, record)| Write { at: self.at(position, key), record };
        let writes: Vec<Write<'_>> = batch.records().map(write).collect();
        self.engine.apply(&writes).map_err(stored)?;
        for change in &batch.changes {
            partition.note(&self.live, change.position, change.was, change.is);
        }
        Ok(())
    }
}
