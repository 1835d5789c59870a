//! Commands that change the layout, and what became of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use slipring_model::{BucketId, BucketName, BucketPolicy, NodeId, Signature, StorageId, Versions, limits};
use thiserror::Error;

use super::{Addresses, BucketEntry, Change, Changes, Layout, MoveId, NodeEntry, StandIns, TableId};

/// One change to the layout. Giving the same one twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A node joins; what is to be its share begins to move there.
    AddNode {
        /// The node.
        node: NodeId,
        /// What it says of itself; its raft id is set when the command is applied.
        entry: NodeEntry,
    },
    /// A member has started.
    UpdateNode {
        /// The node.
        node: NodeId,
        /// The data directory it runs on.
        storage: StorageId,
        /// How often it has started.
        incarnation: u64,
        /// Drawn at this start.
        boot: u64,
        /// Where it can be reached now.
        addresses: Addresses,
        /// The versions of the protocol that it speaks.
        #[serde(default)]
        versions: Versions,
        /// Its signature under this start.
        #[serde(default)]
        signature: Option<Signature>,
    },
    /// A bucket is made.
    CreateBucket {
        /// Its name.
        name: BucketName,
        /// What it promises.
        policy: BucketPolicy,
    },
    /// A bucket and all its data go.
    DeleteBucket {
        /// Its name.
        name: BucketName,
    },
    /// Nodes' roles change; partitions begin to move.
    Change {
        /// What is to be different.
        changes: Vec<Change>,
        /// The epoch they were planned for, if that matters.
        expected_epoch: Option<u64>,
    },
    /// Moves are over: the replicas they moved to have taken over everything.
    Arrived {
        /// Which. Those that are over already, or were given up, are passed over.
        moves: Vec<MoveId>,
    },
    /// The changes that the moves under way come from are taken back, and the moves with them.
    Revert,
    /// Every partition is halved where it lies; nothing moves. Read since version 4.
    Split {
        /// How many bits of a position are to name its partition: one more than now.
        bits: u8,
        /// The epoch it was planned for, if that matters.
        expected_epoch: Option<u64>,
    },
    /// Buckets get other numbers of copies, and nodes' roles change with them; partitions begin to move.
    Reshape {
        /// What is to be different.
        changes: Changes,
        /// The epoch they were planned for, if that matters.
        expected_epoch: Option<u64>,
    },
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Applied {
    /// The node is a member.
    Node {
        /// Its number in the layout group.
        raft_id: u64,
    },
    /// The bucket exists.
    Bucket(BucketId),
    /// Roles are as asked.
    Changed {
        /// The epoch from which on they are.
        epoch: u64,
    },
    /// It is done.
    Done,
}

/// Why a command did nothing.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The layout is no longer the one the proposer saw.
    #[error("the layout is at epoch {epoch} by now; look again and retry")]
    Moved {
        /// The epoch it is at.
        epoch: u64,
    },
    /// The node is no member.
    #[error("node {} is no member of this cluster; join first", node.short())]
    UnknownNode {
        /// Which.
        node: NodeId,
    },
    /// The node runs on another data directory than the one registered.
    #[error("node {} is registered with another data directory; if that one is lost, the node must be replaced", node.short())]
    OtherStorage {
        /// Which.
        node: NodeId,
    },
    /// The node has started more often before, or as often from the same copy: its directory is an older one.
    #[error(
        "the data directory was rolled back: start {registered} is registered and this is another start {incarnation}; remove it and join as a new node"
    )]
    RolledBack {
        /// The start that is registered.
        registered: u64,
        /// The one that asks.
        incarnation: u64,
    },
    /// The name is taken by a bucket with another policy.
    #[error("a bucket named \"{name}\" exists with another policy; choose another name")]
    NameTaken {
        /// The name.
        name: BucketName,
    },
    /// There is no such bucket.
    #[error("there is no bucket named \"{name}\"")]
    NoSuchBucket {
        /// The name.
        name: BucketName,
    },
    /// Some member could not read the command.
    #[error(
        "every member must speak version {needed} of the protocol for that, and one speaks only {level}; upgrade it first"
    )]
    Level {
        /// The version that is needed.
        needed: u8,
        /// The newest that all members speak.
        level: u8,
    },
    /// The node could not read what the layout says by now.
    #[error(
        "this cluster uses version {floor} of the protocol and the node speaks {newest} at most; start it with a newer release"
    )]
    TooOld {
        /// The version that the cluster uses.
        floor: u8,
        /// The newest that the node speaks.
        newest: u8,
    },
    /// Bucket 0 stays.
    #[error("the bucket \"default\" cannot be deleted: Redis clients begin in it")]
    DefaultBucket,
    /// The policy, or the cluster that would come of it, is not possible.
    #[error("{0}")]
    Impossible(String),
}

impl Command {
    /// The first version of the protocol whose nodes can read it.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self {
            Self::AddNode { .. }
            | Self::UpdateNode { .. }
            | Self::CreateBucket { .. }
            | Self::DeleteBucket { .. }
            | Self::Arrived { .. }
            | Self::Revert => Versions::UNTOLD.newest,
            Self::Change { changes, .. } if !changes.iter().any(Change::is_replacement) => {
                Versions::UNTOLD.newest
            }
            Self::Change { .. } | Self::Split { .. } | Self::Reshape { .. } => 4,
        }
    }
}

/// A start of a node, and its signature under it.
struct Start {
    incarnation: u64,
    boot: u64,
    signature: Option<Signature>,
}

impl Layout {
    /// Applies one agreed command; `index` is its place in the group's log.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed but what a member must be able to read, as the command is in the log.
    pub fn apply(&mut self, index: u64, command: &Command) -> Result<Applied, Refused> {
        self.can_read(command)?;
        let before = self.epoch;
        let mut next = self.clone();
        let applied = next.run(index, command);
        if applied.is_ok() {
            *self = next;
        }
        self.raise_floor(command.level(), before);
        applied
    }

    /// Whether a command would be refused, as this layout stands. Asked on the leader before it appends the command.
    ///
    /// # Errors
    /// That of [`Layout::apply`].
    pub fn check(&self, command: &Command) -> Result<(), Refused> {
        self.clone().apply(u64::MAX, command).map(drop)
    }

    fn run(&mut self, index: u64, command: &Command) -> Result<Applied, Refused> {
        match command {
            Command::AddNode { node, entry } => self.add_node(index, *node, entry),
            Command::UpdateNode { node, storage, incarnation, boot, addresses, versions, signature } => {
                let start = Start { incarnation: *incarnation, boot: *boot, signature: *signature };
                self.update_node(*node, *storage, start, (addresses, *versions))
            }
            Command::CreateBucket { name, policy } => self.create_bucket(index, name, policy),
            Command::DeleteBucket { name } => self.delete_bucket(index, name),
            Command::Change { changes, expected_epoch } => {
                self.apply_change(index, &changes.clone().into(), *expected_epoch)
            }
            Command::Reshape { changes, expected_epoch } => {
                self.apply_change(index, changes, *expected_epoch)
            }
            Command::Arrived { moves } => Ok(self.apply_arrived(moves)),
            Command::Revert => {
                self.revert(index)?;
                Ok(Applied::Changed { epoch: self.epoch })
            }
            Command::Split { bits, expected_epoch } => self.split(*bits, *expected_epoch),
        }
    }

    /// A command of this level is in the log, whatever came of it: who could not read it is no member from now on.
    fn raise_floor(&mut self, level: u8, epoch_before: u64) {
        // Documents of older releases tell no floor; what those can read must not make a difference to it.
        let is_raised = level > self.floor.max(Versions::UNTOLD.newest);
        self.floor = self.floor.max(level);
        if is_raised && self.epoch == epoch_before {
            self.epoch += 1;
        }
    }

    /// Whether every member can read a command, as far as this layout knows. Asked before it is proposed, too.
    ///
    /// # Errors
    /// [`Refused::Level`].
    pub fn can_read(&self, command: &Command) -> Result<(), Refused> {
        let (needed, level) = (command.level(), self.level());
        if level < needed { Err(Refused::Level { needed, level }) } else { Ok(()) }
    }

    /// Whether a node that speaks these versions can read every command since the founding.
    pub(super) fn can_be_read_by(&self, versions: Versions) -> Result<(), Refused> {
        let (floor, newest) = (self.floor, versions.newest);
        if newest < floor { Err(Refused::TooOld { floor, newest }) } else { Ok(()) }
    }

    fn add_node(&mut self, index: u64, node: NodeId, entry: &NodeEntry) -> Result<Applied, Refused> {
        self.can_be_read_by(entry.versions)?;
        if let Some(known) = self.nodes.get(&node) {
            return if known.storage == entry.storage {
                Ok(Applied::Node { raft_id: known.raft_id })
            } else {
                Err(Refused::OtherStorage { node })
            };
        }
        if self.nodes.len() >= limits::NODES_MAX {
            return Err(Refused::Impossible(format!("a cluster has at most {} nodes", limits::NODES_MAX)));
        }
        let before = self.nodes.iter().map(|(node, entry)| (*node, entry.role.clone())).collect();
        self.nodes.insert(node, NodeEntry { raft_id: index, ..entry.clone() });
        self.replace_all(index, before, &StandIns::new())?;
        Ok(Applied::Node { raft_id: index })
    }

    fn apply_change(
        &mut self,
        index: u64,
        changes: &Changes,
        expected_epoch: Option<u64>,
    ) -> Result<Applied, Refused> {
        let mut asked = self.clone();
        if !asked.change(index, changes)? {
            return Ok(Applied::Changed { epoch: self.epoch });
        }
        if expected_epoch.is_some_and(|expected| expected != self.epoch) {
            return Err(Refused::Moved { epoch: self.epoch });
        }
        *self = asked;
        Ok(Applied::Changed { epoch: self.epoch })
    }

    fn apply_arrived(&mut self, moves: &[MoveId]) -> Applied {
        let since = self.epoch + 1;
        if self.arrive(moves, since) {
            self.settle();
            self.epoch = since;
        }
        Applied::Done
    }

    fn update_node(
        &mut self,
        node: NodeId,
        storage: StorageId,
        Start { incarnation, boot, signature }: Start,
        (addresses, versions): (&Addresses, Versions),
    ) -> Result<Applied, Refused> {
        let entry = self.nodes.get(&node).ok_or(Refused::UnknownNode { node })?;
        if entry.storage != storage {
            return Err(Refused::OtherStorage { node });
        }
        if entry.is_rolled_back(incarnation, boot) {
            return Err(Refused::RolledBack { registered: entry.incarnation, incarnation });
        }
        self.can_be_read_by(versions)?;
        let entry = self.nodes.get_mut(&node).ok_or(Refused::UnknownNode { node })?;
        if (entry.incarnation, entry.boot) != (incarnation, boot) {
            (entry.incarnation, entry.boot, entry.signature) = (incarnation, boot, signature);
            (entry.addresses, entry.versions) = (addresses.clone(), versions);
            self.epoch += 1;
        }
        Ok(Applied::Done)
    }

    fn create_bucket(
        &mut self,
        index: u64,
        name: &BucketName,
        policy: &BucketPolicy,
    ) -> Result<Applied, Refused> {
        policy.validate().map_err(Refused::Impossible)?;
        if let Some((id, entry)) = self.buckets.iter().find(|(_, entry)| entry.name == *name) {
            return if entry.policy == *policy {
                Ok(Applied::Bucket(*id))
            } else {
                Err(Refused::NameTaken { name: name.clone() })
            };
        }
        if self.buckets.len() >= limits::BUCKETS_MAX {
            return Err(Refused::Impossible(format!(
                "a cluster has at most {} buckets",
                limits::BUCKETS_MAX
            )));
        }
        let id = BucketId(self.next_bucket);
        self.next_bucket += 1;
        self.buckets.insert(id, BucketEntry::new(name.clone(), policy.clone()));
        self.refit(index)?;
        self.epoch += 1;
        Ok(Applied::Bucket(id))
    }

    fn delete_bucket(&mut self, index: u64, name: &BucketName) -> Result<Applied, Refused> {
        let found = self.buckets.iter().find(|(_, entry)| entry.name == *name).map(|(id, _)| *id);
        let id = found.ok_or_else(|| Refused::NoSuchBucket { name: name.clone() })?;
        if id == BucketId(0) {
            return Err(Refused::DefaultBucket);
        }
        self.buckets.remove(&id);
        self.copies_before.remove(&id);
        self.refit(index)?;
        self.epoch += 1;
        Ok(Applied::Done)
    }

    /// Makes the tables that the buckets ask for, and drops those that none does.
    fn refit(&mut self, index: u64) -> Result<(), Refused> {
        let used: BTreeSet<TableId> = self.copies_by_table().into_keys().collect();
        self.tables.retain(|id, _| used.contains(id));
        let placed = self.place(index, self.epoch + 1, &StandIns::new());
        placed.map_err(|error| Refused::Impossible(error.to_string()))?;
        self.settle();
        Ok(())
    }
}
