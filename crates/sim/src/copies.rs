//! What hosts keep of each bucket, looked at from outside: equal where it is held, gone where it is not.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use slipring_model::bucket::EngineKind;
use slipring_model::{BucketId, PartitionId, Position};
use slipring_storage::Engine;

use crate::check::convergence::{Copy, converged};
use crate::check::{Terms, expiry};
use crate::guest::{BUCKET, BUCKET_NAME};
use crate::history::BucketKind;
use crate::journal::EPOCH_MS;
use crate::run::{HEALING_MS, Violation, down};
use crate::world::World;

/// How long replicas have to drop what expired, after they are equal: a sweep of all partitions takes 16 turns.
const SWEEPING_MS: u64 = 1_500;
/// How long a node that is the only one left drops nothing after a start, and some more.
const LONELY_MS: u64 = 610_000;

/// A bucket of the run.
#[derive(Clone, Copy, Debug)]
struct Kept {
    name: &'static str,
    id: BucketId,
    is_in_memory: bool,
    /// Nothing can heal a damaged record that has no other copy.
    is_single: bool,
}

impl World {
    /// The buckets that clients use.
    fn buckets(&self) -> Vec<Kept> {
        match &self.guest {
            Some(guest) => {
                let policy = guest.policy();
                let is_in_memory = policy.engine == EngineKind::Memory;
                vec![Kept { name: BUCKET_NAME, id: BUCKET, is_in_memory, is_single: policy.replicas == 1 }]
            }
            None => BucketKind::ALL
                .map(|bucket| Kept {
                    name: bucket.name(),
                    id: bucket.id(),
                    is_in_memory: bucket == BucketKind::Cache,
                    is_single: bucket == BucketKind::Single,
                })
                .to_vec(),
        }
    }

    /// What a host holds no more must be gone from it.
    pub(crate) fn clean_up(&mut self) -> Result<(), Violation> {
        let mut left = None;
        let is_clean = self.run_until(HEALING_MS, |world| {
            left = world.leftovers().next();
            left.is_none()
        })?;
        if is_clean {
            return Ok(());
        }
        let story = format!("what was moved away is still there {HEALING_MS} ms after healing: {left:?}");
        Err(Violation::new("leftovers", story))
    }

    /// Hosts with data of partitions that they do not hold.
    fn leftovers(&self) -> impl Iterator<Item = (usize, &'static str, PartitionId)> + '_ {
        let buckets = self.buckets();
        self.members().filter_map(|host| Some((host, self.node(host)?))).flat_map(move |(host, node)| {
            let layout = node.layout();
            let partitions = (0..layout.partition_count()).map(PartitionId);
            let pairs =
                partitions.flat_map(|partition| buckets.iter().map(move |bucket| (*bucket, partition)));
            pairs
                .filter(|(bucket, partition)| {
                    let holders = layout.holders(bucket.id, *partition);
                    let range = partition.start(layout.bits())..=partition.end(layout.bits());
                    let engine = self.engine(host, bucket);
                    holders.is_some_and(|holders| holders.of(node.id()).is_none())
                        && engine.is_some_and(|engine| {
                            records(engine, bucket.id, range).is_ok_and(|records| !records.is_empty())
                        })
                })
                .map(|(bucket, partition)| (host, bucket.name, partition))
                .collect::<Vec<_>>()
        })
    }

    /// Where a host keeps a bucket.
    fn engine(&self, host: usize, bucket: &Kept) -> Option<&dyn Engine> {
        let host = self.hosts.get(host)?;
        let process = host.process.as_ref()?;
        Some(if bucket.is_in_memory { process.memory.as_ref() } else { &host.disk })
    }

    /// All replicas of each partition must come to hold the same.
    pub(crate) fn converge(&mut self) -> Result<(), Violation> {
        let end = self.journal.now_ms() + HEALING_MS;
        loop {
            let differing = match converged(&self.copies()?, EPOCH_MS + self.journal.now_ms()) {
                Ok(()) => return Ok(()),
                Err(violation) => violation,
            };
            if self.journal.now_ms() >= end {
                return Err(differing);
            }
            self.run_until(250, |_| false)?;
        }
    }

    /// What replicas hold once they are equal and have had time to sweep.
    pub(crate) fn look_at_copies(&mut self, terms: &Terms) -> Result<(), Violation> {
        if self.members().count() == 1 {
            self.rest(self.journal.now_ms() + LONELY_MS)?;
        }
        self.run_until(SWEEPING_MS, |_| false)?;
        expiry::check_copies(&self.copies()?, EPOCH_MS + self.journal.now_ms(), terms)
    }

    /// What every replica of every partition holds.
    fn copies(&self) -> Result<Vec<Copy>, Violation> {
        let first = self.members().next().unwrap_or_default();
        let layout = self.node(first).ok_or_else(|| down(first))?.layout();
        let mut copies = Vec::new();
        for host in self.members().filter_map(|host| self.hosts.get(host)) {
            let Some(node) = host.node() else { return Err(down(host.index)) };
            let is_whole = |bucket: &&Kept| !bucket.is_single || !self.is_damaged(host.index);
            for bucket in self.buckets().iter().filter(is_whole) {
                let Some(engine) = self.engine(host.index, bucket) else { return Err(down(host.index)) };
                let is_held = |partition: &PartitionId| {
                    let replicas = layout.replicas(bucket.id, *partition);
                    replicas.iter().any(|replica| replica.node == node.id())
                };
                for partition in (0..layout.partition_count()).map(PartitionId).filter(is_held) {
                    let range = partition.start(layout.bits())..=partition.end(layout.bits());
                    let records = records(engine, bucket.id, range)?;
                    copies.push(Copy { host: host.index, bucket: bucket.name, partition, records });
                }
            }
        }
        Ok(copies)
    }
}

fn records(
    engine: &dyn Engine,
    bucket: BucketId,
    range: RangeInclusive<Position>,
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Violation> {
    let mut records = BTreeMap::new();
    engine
        .scan(bucket, range, None, &mut |_, key, record| {
            records.insert(key.to_vec(), record.unwrap_or_default().to_vec());
            true
        })
        .map_err(|error| Violation::new("convergence", error.to_string()))?;
    Ok(records)
}
