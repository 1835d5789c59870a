//! What a plan would move, in bytes: guessed from how many keys there are and how large some of them are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use slipring_model::{Error, ErrorKind, Position};
use slipring_ring::{Changes, Plan, TableId};

use crate::bucket::Bucket;
use crate::core::Core;
use crate::failure::{stored, unavailable};

/// Records that are looked at for their size.
const SAMPLE: usize = 256;
/// How much a taking node fetches in a second, roughly, while clients are at work.
const BYTES_PER_SECOND: u64 = 20 * 1024 * 1024;

/// A plan and what it costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// What would move.
    pub plan: Plan,
    /// Copies of partitions that would be made.
    pub copies: u64,
    /// Their bytes, guessed.
    pub bytes: u64,
    /// How long that would take, guessed: each node that takes over works for itself.
    pub seconds: u64,
    /// Why it is not done unless it is forced.
    #[serde(default)]
    pub objection: Option<String>,
}

impl Core {
    /// What some changes would move, and how much that is.
    pub(crate) async fn propose_changes(&self, changes: &Changes) -> Result<Proposal, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let refused = |error: slipring_ring::Refused| Error::new(ErrorKind::Conflict, error.to_string());
        let plan = view.layout.plan(changes).map_err(refused)?;
        // A bucket that gets a table of its own is not of the one that it shares now.
        let next = view.layout.with(changes).map_err(refused)?;
        let mut bytes_of: BTreeMap<TableId, u64> = BTreeMap::new();
        for bucket in view.buckets() {
            let Some(table) = next.table_of(bucket.bucket.id) else { continue };
            let keys = self.count(bucket.bucket.id).await.unwrap_or(0);
            let bytes = keys * record_bytes(&bucket.bucket)? / u64::from(view.layout.partition_count());
            *bytes_of.entry(table).or_default() += bytes;
        }
        let (mut copies, mut by_node) = (0, BTreeMap::new());
        for moved in &plan.moves {
            for node in moved.to.iter().filter(|node| !moved.from.contains(node)) {
                copies += 1;
                *by_node.entry(*node).or_insert(0) += bytes_of.get(&moved.table).copied().unwrap_or(0);
            }
        }
        let slowest: u64 = by_node.values().copied().max().unwrap_or(0);
        let seconds = slowest.div_ceil(BYTES_PER_SECOND);
        let objection = self.objection(&view.layout, changes)?;
        Ok(Proposal { plan, copies, bytes: by_node.values().sum(), seconds, objection })
    }
}

impl Core {
    /// What a split to `1 << bits` partitions would come to: no copy is made.
    pub(crate) fn propose_split(&self, bits: u8) -> Result<Proposal, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let refused = |error: slipring_ring::Refused| Error::new(ErrorKind::Conflict, error.to_string());
        let plan = view.layout.plan_split(bits).map_err(refused)?;
        Ok(Proposal { plan, copies: 0, bytes: 0, seconds: 0, objection: None })
    }
}

/// The mean size of some records with their keys.
fn record_bytes(bucket: &Bucket) -> Result<u64, Error> {
    let (mut seen, mut bytes) = (0, 0);
    bucket
        .engine
        .scan(bucket.id, Position(0)..=Position(u64::MAX), None, &mut |_, key, record| {
            seen += 1;
            bytes += key.len() + record.map_or(0, <[u8]>::len);
            seen < SAMPLE
        })
        .map_err(stored)?;
    Ok(bytes.checked_div(seen).unwrap_or(0) as u64)
}
