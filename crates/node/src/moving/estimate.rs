//! What a plan would move, in bytes: guessed from how many keys there are and how large some of them are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipring_consensus::aside;
use slipring_model::{Error, ErrorKind, NodeId, Position};
use slipring_ring::{Changes, Plan, TableId};

use crate::answer::Counted;
use crate::bucket::Bucket;
use crate::core::Core;
use crate::failure::{stored, unavailable};
use crate::scan::Region;

/// Records that are looked at for their size.
const SAMPLE: usize = 256;
/// What one record costs the node that takes it over, and how many bytes cost as much as a microsecond: measured by
/// `cargo xtask bench-moving`, roughly.
const RECORD_COST: Duration = Duration::from_micros(13);
const BYTES_PER_MICROSECOND: u64 = 100;

/// A plan and what it costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// What would move.
    pub plan: Plan,
    /// Copies of partitions that would be made.
    pub copies: u64,
    /// Their bytes, guessed.
    pub bytes: u64,
    /// How long that would take while no clients are served, guessed: each node that takes over works for itself.
    pub seconds: u64,
    /// The same while clients are served all the time, so that moving keeps to the `background_share` of the node
    /// that was asked.
    #[serde(default)]
    pub seconds_beside_clients: u64,
    /// Why it is not done unless it is forced.
    #[serde(default)]
    pub objection: Option<String>,
}

/// How much some partitions hold, or a node takes over.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    records: u64,
    bytes: u64,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self {
            records: self.records.saturating_add(other.records),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// So many of the `whole` parts that it has.
    fn parts(self, taken: u64, whole: u64) -> Self {
        let share = |all: u64| all.saturating_mul(taken) / whole.max(1);
        Self { records: share(self.records), bytes: share(self.bytes) }
    }

    /// The processor's time that taking it over takes.
    fn cost(self) -> Duration {
        let records = u32::try_from(self.records).unwrap_or(u32::MAX);
        RECORD_COST * records + Duration::from_micros(self.bytes / BYTES_PER_MICROSECOND)
    }
}

impl Core {
    /// What some changes would move, and how much that is.
    pub(crate) async fn propose_changes(&self, changes: &Changes) -> Result<Proposal, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let refused = |error: slipring_ring::Refused| Error::new(ErrorKind::Conflict, error.to_string());
        let plan = aside(|| view.layout.plan(changes)).map_err(refused)?;
        // A bucket that gets a table of its own is not of the one that it shares now.
        let next = aside(|| view.layout.with(changes)).map_err(refused)?;
        let mut of_table: BTreeMap<TableId, Amount> = BTreeMap::new();
        for bucket in view.buckets() {
            let Some(table) = next.table_of(bucket.bucket.id) else { continue };
            let records = self.count(bucket.bucket.id, &Region::whole(), Counted::Keys).await.unwrap_or(0);
            let amount = Amount { records, bytes: records.saturating_mul(record_bytes(&bucket.bucket)?) };
            let all = of_table.entry(table).or_default();
            *all = all.plus(amount);
        }
        let taken = copies_taken(&plan);
        let mut by_node: BTreeMap<NodeId, Amount> = BTreeMap::new();
        for ((node, table), copies) in &taken {
            let all = of_table.get(table).copied().unwrap_or_default();
            let amount = by_node.entry(*node).or_default();
            *amount = amount.plus(all.parts(*copies, u64::from(view.layout.partition_count())));
        }
        let slowest = by_node.values().map(|amount| amount.cost()).max().unwrap_or_default();
        let objection = self.objection(&view.layout, changes)?;
        Ok(Proposal {
            plan,
            copies: taken.values().sum(),
            bytes: by_node.values().map(|amount| amount.bytes).sum(),
            seconds: whole_seconds(slowest),
            seconds_beside_clients: whole_seconds(self.budget.stretched(slowest)),
            objection,
        })
    }
}

/// How many copies of each table each node would take over.
fn copies_taken(plan: &Plan) -> BTreeMap<(NodeId, TableId), u64> {
    let mut taken = BTreeMap::new();
    for moved in &plan.moves {
        for node in moved.to.iter().filter(|node| !moved.from.contains(node)) {
            *taken.entry((*node, moved.table)).or_insert(0) += 1;
        }
    }
    taken
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1_000) as u64
}

impl Core {
    /// What a split to `1 << bits` partitions would come to: no copy is made.
    pub(crate) fn propose_split(&self, bits: u8) -> Result<Proposal, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let refused = |error: slipring_ring::Refused| Error::new(ErrorKind::Conflict, error.to_string());
        let plan = aside(|| view.layout.plan_split(bits)).map_err(refused)?;
        Ok(Proposal { plan, copies: 0, bytes: 0, seconds: 0, seconds_beside_clients: 0, objection: None })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_over_costs_by_records_and_by_bytes() {
        let million = Amount { records: 1_000_000, bytes: 133_000_000 };
        assert_eq!(whole_seconds(million.parts(3, 4).cost()), 11, "measured: 9 s");
        let large = Amount { records: 1_000, bytes: 1_000_000_000 };
        assert_eq!(whole_seconds(large.cost()), 11);
        assert_eq!(whole_seconds(Amount::default().parts(1, 0).cost()), 0);
        let endless = Amount { records: u64::MAX, bytes: u64::MAX };
        assert!(endless.parts(u64::MAX, 1).cost() > Duration::from_secs(3_600));
    }
}
