//! What each node holds on its disk, read while no node runs, and whether the copies are the same.

use std::path::PathBuf;

use slipring_model::{NodeId, PartitionId};
use slipring_ring::Layout;
use slipring_sim::check::convergence::{Copy, converged};
use slipring_sim::{BucketKind, Violation};
use slipring_storage::{DataDir, Engine};

/// The buckets that are on disk.
const ON_DISK: [BucketKind; 2] = [BucketKind::Buffered, BucketKind::Fsync];

/// Compares all replicas of all partitions on disk; `now_ms` is Unix time. How many records there are.
pub(crate) fn compare(
    layout: &Layout,
    nodes: &[(NodeId, PathBuf)],
    now_ms: u64,
) -> anyhow::Result<Result<usize, Violation>> {
    let mut copies = Vec::new();
    for (host, (node, directory)) in nodes.iter().enumerate() {
        let engine = DataDir::claim(directory)?.disk()?;
        for bucket in ON_DISK {
            for partition in (0..layout.partition_count()).map(PartitionId) {
                let replicas = layout.replicas(bucket.id(), partition);
                if replicas.iter().any(|replica| replica.node == *node) {
                    match copy(layout, &engine, host, bucket, partition)? {
                        Ok(copy) => copies.push(copy),
                        Err(violation) => return Ok(Err(violation)),
                    }
                }
            }
        }
    }
    let records = copies.iter().map(|copy| copy.records.len()).sum();
    Ok(converged(&copies, now_ms).map(|()| records))
}

fn copy(
    layout: &Layout,
    engine: &impl Engine,
    host: usize,
    bucket: BucketKind,
    partition: PartitionId,
) -> anyhow::Result<Result<Copy, Violation>> {
    let (mut records, mut damaged) = (std::collections::BTreeMap::new(), None);
    let range = partition.start(layout.bits())..=partition.end(layout.bits());
    engine.scan(bucket.id(), range, None, &mut |_, key, record| match record {
        Some(record) => {
            records.insert(key.to_vec(), record.to_vec());
            true
        }
        None => {
            damaged = Some(String::from_utf8_lossy(key).into_owned());
            false
        }
    })?;
    // No fault of a run touches bytes that are stored.
    let damage = damaged.map(|key| Violation::new("no_damage", format!("node {host}: {bucket:?}/{key}")));
    Ok(damage.map_or(Ok(Copy { host, bucket: bucket.name(), partition, records }), Err))
}
