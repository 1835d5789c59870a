//! A game about the layout document: some nodes apply the same log of commands, each at its own pace.
//!
//! Commands are drawn, some repeated, some stale, some impossible. Nodes that have applied the same commands
//! hold the same document; a change raises the epoch by one and a refusal changes nothing; every partition
//! lies on distinct nodes, as many as its bucket asks for and there are; a pair of partition and node that
//! comes into being is numbered by its command, so no number returns, and neither does a bucket's.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use slipring_model::{BucketId, BucketPolicy, ClusterId, NodeId, PartitionId, StorageId};
use slipring_ring::{Addresses, Command, Layout, NodeEntry, Replica};

use crate::run::Violation;

use super::referee::breach;

/// Nodes that follow the log.
const FOLLOWERS: usize = 3;
/// Nodes and buckets that commands name.
const NAMES: u8 = 7;
const BITS: u8 = 3;

/// Plays so many steps; how many commands changed the document.
///
/// # Errors
/// The first rule that was broken.
pub fn play(seed: u64, steps: u64) -> Result<u64, Violation> {
    let mut rng = Rng::with_seed(seed);
    let first = Layout::found(ClusterId::default(), BITS, (NodeId([1; 32]), entry(1, 1)));
    let mut log: Vec<Command> = Vec::new();
    let mut newest = Followed { layout: first.clone(), applied: 0 };
    let mut followers = vec![Followed { layout: first, applied: 0 }; FOLLOWERS];
    let mut history = History::default();
    history.changed(&newest.layout, &newest.layout, 0)?;
    let mut documents = vec![newest.layout.clone()];
    let mut changes = 0;
    for _ in 0..steps {
        if rng.u8(..3) == 0 {
            let command = match log.last() {
                Some(last) if rng.u8(..4) == 0 => last.clone(),
                _ => draw(&mut rng, &newest.layout),
            };
            log.push(command);
            changes += u64::from(newest.advance(&log, &mut history)?);
            documents.push(newest.layout.clone());
        } else {
            let follower = rng.usize(..FOLLOWERS);
            let Some(follower) = followers.get_mut(follower) else { continue };
            if follower.applied < log.len() {
                follower.advance(&log, &mut History::default())?;
            }
            if documents.get(follower.applied) != Some(&follower.layout) {
                let story = format!("after {} commands: {:?}", follower.applied, follower.layout);
                return Err(breach("same_document", story));
            }
        }
    }
    Ok(changes)
}

#[derive(Clone)]
struct Followed {
    layout: Layout,
    applied: usize,
}

impl Followed {
    /// Applies the next command; whether it changed anything.
    fn advance(&mut self, log: &[Command], history: &mut History) -> Result<bool, Violation> {
        let Some(command) = log.get(self.applied) else { return Ok(false) };
        let before = self.layout.clone();
        let index = self.applied as u64 + 1;
        let applied = self.layout.apply(index, command);
        self.applied += 1;
        let is_changed = self.layout != before;
        if applied.is_err() && is_changed {
            return Err(breach("refused", format!("{command:?} was refused and changed {before:?}")));
        }
        if self.layout.epoch() != before.epoch() + u64::from(is_changed) {
            let story = format!("{command:?} took epoch {} to {}", before.epoch(), self.layout.epoch());
            return Err(breach("epoch", story));
        }
        if is_changed {
            history.changed(&before, &self.layout, index)?;
        }
        Ok(is_changed)
    }
}

/// Numbers that must not return.
#[derive(Default)]
struct History {
    buckets: BTreeMap<BucketId, String>,
}

impl History {
    fn changed(&mut self, before: &Layout, after: &Layout, index: u64) -> Result<(), Violation> {
        for (id, bucket) in after.buckets() {
            let name = bucket.name.to_string();
            let is_new = !before.buckets().contains_key(id);
            if is_new && self.buckets.insert(*id, name).is_some() {
                return Err(breach("bucket_number", format!("{id:?} has come back")));
            }
            for partition in (0..after.partition_count()).map(PartitionId) {
                let held = if is_new { &[][..] } else { before.replicas(*id, partition) };
                placed(after, *id, partition, held, index)?;
            }
        }
        Ok(())
    }
}

/// Checks where one partition of one bucket lies.
fn placed(
    after: &Layout,
    bucket: BucketId,
    partition: PartitionId,
    held: &[Replica],
    index: u64,
) -> Result<(), Violation> {
    let replicas = after.replicas(bucket, partition);
    let wanted = after.buckets().get(&bucket).map_or(0, |entry| usize::from(entry.policy.replicas));
    let nodes: BTreeSet<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    let is_right = nodes.len() == replicas.len()
        && nodes.len() == wanted.min(after.nodes().len())
        && nodes.iter().all(|node| after.nodes().contains_key(node));
    if !is_right {
        return Err(breach("placement", format!("{bucket:?} {partition:?} lies on {replicas:?}")));
    }
    let is_kept = |replica: &Replica| held.contains(replica);
    let is_numbered = |replica: &Replica| {
        let was_there = held.iter().any(|before| before.node == replica.node);
        held.is_empty() || replica.assignment == index && !was_there
    };
    match replicas.iter().find(|replica| !is_kept(replica) && !is_numbered(replica)) {
        Some(replica) => {
            Err(breach("assignment", format!("{replica:?} of {partition:?} after command {index}")))
        }
        None => Ok(()),
    }
}

fn entry(storage: u8, incarnation: u64) -> NodeEntry {
    NodeEntry {
        storage: StorageId([storage; 16]),
        incarnation,
        boot: 1,
        raft_id: 0,
        addresses: Addresses::default(),
        zone: (storage % 3).to_string(),
        weight: 100,
    }
}

fn draw(rng: &mut Rng, layout: &Layout) -> Command {
    let named = rng.u8(1..=NAMES);
    let node = NodeId([named; 32]);
    let storage = if rng.u8(..8) == 0 { named + 1 } else { named };
    let name = format!("bucket-{named}").parse().expect("the name is valid");
    match rng.u8(..10) {
        0..=3 => {
            let expected_epoch = layout.epoch() - u64::from(rng.u8(..4) == 0);
            Command::AddNode { node, entry: entry(storage, 1), expected_epoch }
        }
        4 | 5 => {
            let incarnation = rng.u64(..20);
            let NodeEntry { storage, addresses, .. } = entry(storage, 1);
            Command::UpdateNode { node, storage, incarnation, boot: incarnation, addresses }
        }
        6 | 7 => {
            let policy = BucketPolicy { replicas: rng.u8(..6), ..BucketPolicy::durable() };
            Command::CreateBucket { name, policy }
        }
        8 => Command::DeleteBucket { name },
        _ => Command::Bump,
    }
}
