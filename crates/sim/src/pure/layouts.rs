//! A game about the layout document: some nodes apply the same log of commands, each at its own pace.
//!
//! Commands are drawn, some repeated, some stale, some impossible. Nodes that have applied the same commands
//! hold the same document; a change raises the epoch by one and a refusal changes nothing; every partition
//! lies on distinct members and moves to distinct ones, as many as its bucket asks for and take part; who holds
//! it changes only by the arrival of a move that was under way; a pair of partition and node that comes into
//! being is numbered by its command, so no number returns, and neither does a bucket's; a split leaves both parts
//! of a partition as the whole was.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use slipring_model::{BucketId, BucketPolicy, ClusterId, NodeId, PartitionId, StorageId, Versions};
use slipring_ring::{
    Addresses, Change, Changes, Command, Holders, Layout, NodeChange, NodeEntry, NodeState, Replica, Role,
    Spread,
};

use crate::run::Violation;

use super::referee::breach;

/// Nodes that follow the log.
const FOLLOWERS: usize = 3;
/// Nodes and buckets that commands name.
const NAMES: u8 = 7;
const BITS: u8 = 3;
/// How often partitions are halved, at most: with more of them the game takes too long.
const SPLITS: u8 = 2;
/// What all but a few nodes speak.
const NEWEST: Versions = Versions { oldest: 2, newest: 4 };
/// The index of what the first layout places. In the log it is the first leader's empty entry.
const FOUNDING: u64 = 1;

/// Plays so many steps; how many commands changed the document.
///
/// # Errors
/// The first rule that was broken.
pub fn play(seed: u64, steps: u64) -> Result<u64, Violation> {
    let mut rng = Rng::with_seed(seed);
    let first = Layout::found(ClusterId::default(), BITS, (NodeId([1; 32]), entry(1, 1)));
    let mut log: Vec<Command> = Vec::new();
    let mut newest = Followed::at(first.clone());
    let mut followers = vec![Followed::at(first); FOLLOWERS];
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
    /// The newest version that a command in the log needs: who does not speak it is kept out.
    needed: u8,
}

impl Followed {
    fn at(layout: Layout) -> Self {
        Self { layout, applied: 0, needed: Versions::UNTOLD.newest }
    }

    /// Applies the next command; whether it changed anything.
    fn advance(&mut self, log: &[Command], history: &mut History) -> Result<bool, Violation> {
        let Some(command) = log.get(self.applied) else { return Ok(false) };
        let before = self.layout.clone();
        let index = FOUNDING + self.applied as u64 + 1;
        let applied = self.layout.apply(index, command);
        self.applied += 1;
        let is_changed = self.layout != before;
        // What was refused is in the log all the same: it may keep older nodes out, and do nothing else.
        let is_needed = (self.needed + 1..=before.level()).contains(&command.level());
        self.needed = if is_needed { command.level() } else { self.needed };
        if applied.is_err() && is_changed != is_needed {
            let story = format!("{command:?} was refused; before {before:?}, then {:?}", self.layout);
            return Err(breach("refused", story));
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
        let splits = after.bits().checked_sub(before.bits()).filter(|splits| *splits <= 1);
        let Some(splits) = splits else {
            let story =
                format!("from {} to {} partitions", before.partition_count(), after.partition_count());
            return Err(breach("split", story));
        };
        for (id, bucket) in after.buckets() {
            let name = bucket.name.to_string();
            let is_new = !before.buckets().contains_key(id);
            if is_new && self.buckets.insert(*id, name).is_some() {
                return Err(breach("bucket_number", format!("{id:?} has come back")));
            }
            for partition in (0..after.partition_count()).map(PartitionId) {
                // A new bucket comes into a table that others may use; after that its holders are its own.
                let table = bucket.table(*id);
                let known = if is_new {
                    before.buckets().iter().find(|(other, entry)| entry.table(**other) == table)
                } else {
                    before.buckets().get_key_value(id)
                };
                let whole = PartitionId(partition.0 >> splits);
                let before = known.and_then(|(other, _)| before.holders(*other, whole));
                let place = format!("{id:?} {partition:?} after command {index}");
                if let Some(story) = wrong(after, *id, partition, before, index) {
                    return Err(breach("placement", format!("{place}: {story}")));
                }
            }
        }
        Ok(())
    }
}

/// What is wrong about where one partition of one bucket lies, and where it moves.
fn wrong(
    after: &Layout,
    bucket: BucketId,
    partition: PartitionId,
    before: Option<&Holders>,
    index: u64,
) -> Option<String> {
    let Some(now) = after.holders(bucket, partition) else { return Some("nobody holds it".to_owned()) };
    let is_member = |replica: &Replica| after.nodes().contains_key(&replica.node);
    let distinct = |replicas: &[Replica]| {
        let nodes: BTreeSet<NodeId> = replicas.iter().map(|replica| replica.node).collect();
        nodes.len() == replicas.len() && replicas.iter().all(is_member)
    };
    let taking_part = after.nodes().values().filter(|entry| entry.role.share() > 0).count();
    let wanted = after.buckets().get(&bucket).map_or(0, |entry| usize::from(entry.policy.replicas));
    if !distinct(&now.replicas) || !distinct(now.target()) || now.target().len() != wanted.min(taking_part) {
        return Some(format!("{now:?} is no set of members"));
    }
    let known = |replica: &Replica| before.is_some_and(|before| before.of(replica.node) == Some(*replica));
    let numbered = |replica: &Replica| known(replica) || replica.assignment >> 3 == index;
    if !now.replicas.iter().chain(now.target()).all(numbered) {
        return Some(format!("{now:?} has an old number; before {before:?}"));
    }
    let members: BTreeSet<Replica> = now.replicas.iter().chain(now.target()).copied().collect();
    let numbers: BTreeSet<u64> = members.iter().map(|replica| replica.assignment).collect();
    if numbers.len() != members.len() {
        return Some(format!("two replicas of {now:?} would issue the same dots"));
    }
    let before = before?;
    let set = |replicas: &[Replica]| replicas.iter().copied().collect::<BTreeSet<_>>();
    let has_arrived = set(&now.replicas) == set(before.target()) && now.next.is_none();
    if set(&now.replicas) != set(&before.replicas) && !(before.next.is_some() && has_arrived) {
        return Some(format!("{now:?} without a move from {before:?}"));
    }
    let is_same = set(&now.replicas) == set(&before.replicas)
        && now.next.as_ref().map(|next| next.session) == before.next.as_ref().map(|next| next.session);
    let is_fenced = if is_same { now.since == before.since } else { now.since == after.epoch() };
    (!is_fenced).then(|| format!("{now:?} counts from another epoch; before {before:?}"))
}

fn entry(storage: u8, incarnation: u64) -> NodeEntry {
    NodeEntry {
        storage: StorageId([storage; 16]),
        incarnation,
        boot: 1,
        raft_id: 0,
        addresses: Addresses::default(),
        role: Role { zone: (storage % 3).to_string(), weight: 100, state: NodeState::Active },
        versions: NEWEST,
        signature: None,
    }
}

/// Some buckets get other numbers of copies, now and then a node another weight with them.
fn reshape(rng: &mut Rng, layout: &Layout, change: Change) -> Command {
    let nodes = if rng.u8(..4) == 0 { vec![change] } else { Vec::new() };
    let ids: Vec<BucketId> = layout.buckets().keys().copied().collect();
    let count = rng.usize(1..3);
    let chosen = rng.choose_multiple(&ids, count);
    let spreads =
        chosen.into_iter().map(|bucket| Spread { bucket: *bucket, replicas: rng.u8(..7) }).collect();
    Command::Reshape { changes: Changes { nodes, spreads }, expected_epoch: None }
}

fn draw(rng: &mut Rng, layout: &Layout) -> Command {
    let named = rng.u8(1..=NAMES);
    let node = NodeId([named; 32]);
    let storage = if rng.u8(..8) == 0 { named + 1 } else { named };
    let name = format!("bucket-{named}").parse().expect("the name is valid");
    let changed = |change| Command::Change { changes: vec![Change { node, change }], expected_epoch: None };
    match rng.u8(..22) {
        0..=2 => {
            let versions = if rng.u8(..16) == 0 { Versions::UNTOLD } else { NEWEST };
            Command::AddNode { node, entry: NodeEntry { versions, ..entry(storage, 1) } }
        }
        3 => {
            let incarnation = rng.u64(..20);
            let NodeEntry { storage, addresses, versions, .. } = entry(storage, 1);
            Command::UpdateNode {
                node,
                storage,
                incarnation,
                boot: incarnation,
                addresses,
                versions,
                signature: None,
            }
        }
        4 | 5 => {
            let policy = BucketPolicy { replicas: rng.u8(..6), ..BucketPolicy::durable() };
            Command::CreateBucket { name, policy }
        }
        6 => Command::DeleteBucket { name },
        7 => changed(NodeChange::Weight(rng.u32(..3) * 50)),
        8 => changed(NodeChange::Zone(rng.u8(..3).to_string())),
        9 => changed(NodeChange::State(NodeState::Active)),
        10 => changed(NodeChange::State(NodeState::Drained)),
        11 => changed(NodeChange::State(NodeState::Leaving)),
        12 => changed(NodeChange::State(NodeState::Lost)),
        13 => Command::Revert,
        14..=16 => reshape(rng, layout, Change { node, change: NodeChange::Weight(50) }),
        17 if layout.bits() < BITS + SPLITS => {
            let bits = (layout.bits() + rng.u8(..4)).saturating_sub(1);
            Command::Split { bits, expected_epoch: rng.bool().then(|| layout.epoch()) }
        }
        18 => changed(NodeChange::Replaces(NodeId([rng.u8(1..=NAMES); 32]))),
        _ => {
            let mut moves: Vec<_> = layout.moves().map(|(id, _)| id).collect();
            moves.retain(|_| rng.u8(..3) > 0);
            // Some are late: of an earlier session.
            moves.iter_mut().for_each(|id| id.session -= u64::from(rng.u8(..8) == 0));
            Command::Arrived { moves }
        }
    }
}
