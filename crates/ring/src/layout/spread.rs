//! How many copies buckets have, and which table each of them uses.
//!
//! Buckets that were made with the same number of copies share a table, which is called by that number. A bucket
//! whose number changes gets a table of its own, for good: at first it is the one it shared, the same replicas
//! under the same assignments, so that nothing moves but the copies that come or go.
//!
//! Invariant: a bucket comes into a table that others use only when it is made. So the assignments of a bucket's
//! partition are those of one line of holders, whichever tables it was in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use slipring_model::{BucketId, Mutant, limits};

use super::{BucketEntry, Layout, Refused};

/// A table's number: that of its copies while buckets share it, else one that only its bucket ever has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub u32);

impl TableId {
    /// The table of the buckets that were made with so many copies.
    #[must_use]
    pub fn shared(copies: u8) -> Self {
        Self(u32::from(copies))
    }

    /// The table of one bucket alone.
    #[must_use]
    pub fn own(bucket: BucketId) -> Self {
        Self((u32::from(limits::REPLICAS_MAX) + 1).saturating_add(bucket.0))
    }
}

/// How many copies a bucket is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// The bucket.
    pub bucket: BucketId,
    /// Copies of each key, `1..=7`.
    pub replicas: u8,
}

impl BucketEntry {
    /// The table that says who holds the partitions of this bucket, whose number is `id`.
    #[must_use]
    pub fn table(&self, id: BucketId) -> TableId {
        if self.made_with.is_some() { TableId::own(id) } else { TableId::shared(self.policy.replicas) }
    }
}

impl Layout {
    /// The table that a bucket uses.
    #[must_use]
    pub fn table_of(&self, bucket: BucketId) -> Option<TableId> {
        Some(self.buckets.get(&bucket)?.table(bucket))
    }

    /// The tables that buckets use, and the copies of each that are asked for.
    #[must_use]
    pub fn copies_by_table(&self) -> BTreeMap<TableId, u8> {
        self.buckets.iter().map(|(id, entry)| (entry.table(*id), entry.policy.replicas)).collect()
    }

    /// Gives buckets other numbers of copies; nothing is placed yet.
    pub(super) fn respread(&mut self, spreads: &[Spread]) -> Result<(), Refused> {
        let mut named = BTreeSet::new();
        for spread in spreads {
            if !named.insert(spread.bucket) {
                let twice =
                    format!("bucket {} is named twice; give it one number of copies", spread.bucket.0);
                return Err(Refused::Impossible(twice));
            }
            self.respread_one(*spread)?;
        }
        Ok(())
    }

    fn respread_one(&mut self, Spread { bucket, replicas }: Spread) -> Result<(), Refused> {
        let gone = || Refused::Impossible(format!("there is no bucket {}", bucket.0));
        let entry = self.buckets.get_mut(&bucket).ok_or_else(gone)?;
        let before = entry.policy.replicas;
        if before == replicas {
            return Ok(());
        }
        let shared = entry.table(bucket);
        entry.policy.replicas = replicas;
        let why = |error| Refused::Impossible(format!("bucket \"{}\": {error}", entry.name));
        entry.policy.validate().map_err(why)?;
        if entry.made_with.is_none() {
            entry.made_with = Some(before);
            let shared = self.tables.get(&shared).filter(|_| !Mutant::JumpTables.is_planted());
            let table = shared.cloned().unwrap_or_default();
            self.tables.insert(TableId::own(bucket), table);
        }
        self.copies_before.entry(bucket).or_insert(before);
        Ok(())
    }

    /// Takes back what [`Layout::respread`] did since nothing moved. Tables stay with their buckets.
    pub(super) fn spread_back(&mut self) {
        for (bucket, replicas) in std::mem::take(&mut self.copies_before) {
            if let Some(entry) = self.buckets.get_mut(&bucket) {
                entry.policy.replicas = replicas;
            }
        }
    }
}

#[cfg(test)]
mod tests;
