//! A stopped node's way out when the layout group has lost its majority for good.

use std::collections::BTreeSet;

use slipring_consensus::{EntryId, LayoutGroup};
use slipring_model::{NodeId, PartitionId};
use slipring_ring::{Layout, NodeState};
use slipring_storage::MetaStore;
use thiserror::Error;

use crate::builder::StartError;
use crate::change::may_cost_writes;
use crate::identity::Identity;

/// What a stopped node knows of its cluster.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The node itself.
    pub node: NodeId,
    /// The latest layout it has heard of.
    pub layout: Layout,
    /// The last entry of the layout group's log here: who holds the latest of all that are left must be recovered.
    pub last: Option<EntryId>,
    /// Who votes in the group.
    pub voters: BTreeSet<NodeId>,
}

/// Why a node cannot be recovered.
#[derive(Debug, Error)]
pub enum RecoverError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] StartError),
    /// It belongs to no cluster, or has never heard of its layout.
    #[error("this data directory belongs to no cluster")]
    NoMember,
    /// The node itself is among those that are to be given up.
    #[error("a node cannot give itself up")]
    Itself,
    /// Most of those who vote are left, and can agree to giving the others up.
    #[error(
        "{left} of {voters} voters would be left, which is a majority: start them, and use `slipring remove --lost`"
    )]
    MajorityLeft {
        /// Voters that are members and not given up.
        left: usize,
        /// All voters.
        voters: usize,
    },
    /// What is stored of the group cannot be read, or the nodes cannot be given up.
    #[error("the layout group cannot be recovered: {0}")]
    Group(#[from] slipring_consensus::Error),
}

/// What goes with nodes that are given up, in partitions over all buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// They have no copy any more.
    pub without_copy: u64,
    /// Those that are left may lack writes that were acknowledged.
    pub without_quorum: u64,
}

impl Remains {
    /// What goes with the nodes in `lost`, and with those that were given up before.
    #[must_use]
    pub fn losses(&self, lost: &BTreeSet<NodeId>) -> Losses {
        let is_lost = |node: &NodeId| {
            let entry = self.layout.nodes().get(node);
            lost.contains(node) || entry.is_none_or(|entry| entry.role.state == NodeState::Lost)
        };
        let mut losses = Losses::default();
        for (id, bucket) in self.layout.buckets() {
            for partition in (0..self.layout.partition_count()).map(PartitionId) {
                let replicas = self.layout.replicas(*id, partition);
                let gone = replicas.iter().filter(|replica| is_lost(&replica.node)).count();
                let is_all = gone == replicas.len();
                losses.without_copy += u64::from(is_all);
                let may_lack = !is_all && may_cost_writes(&bucket.policy, replicas.len(), gone);
                losses.without_quorum += u64::from(may_lack);
            }
        }
        losses
    }

    /// Reads them from a claimed data directory.
    ///
    /// # Errors
    /// It cannot be read, or belongs to no cluster.
    pub fn read(meta: &MetaStore) -> Result<Self, RecoverError> {
        let (node, _) = Identity::member(meta)?.ok_or(RecoverError::NoMember)?;
        let remains = LayoutGroup::remains(&meta.database())?.ok_or(RecoverError::NoMember)?;
        Ok(Self { node, layout: remains.layout, last: remains.last, voters: remains.voters })
    }
}

/// Makes a stopped node the only voter of the layout group and gives the nodes in `lost` up. It leads when it
/// is started, and the members that are left follow it. The layout then.
///
/// What the group had agreed on and this node had not heard of is lost.
///
/// # Errors
/// The directory cannot be used, or the nodes cannot be given up.
pub fn recover(meta: &MetaStore, lost: &[NodeId]) -> Result<Layout, RecoverError> {
    let me = Identity::member(meta)?.ok_or(RecoverError::NoMember)?;
    if lost.contains(&me.0) {
        return Err(RecoverError::Itself);
    }
    let Remains { layout, voters, .. } = Remains::read(meta)?;
    // A voter that the cluster has let go takes part no more, and is no member that could be given up.
    let is_member =
        |voter: &NodeId| layout.nodes().get(voter).is_some_and(|entry| entry.role.state != NodeState::Lost);
    let is_left = |voter: &&NodeId| !lost.contains(voter) && is_member(voter);
    let left = voters.iter().filter(is_left).count();
    if left > voters.len() / 2 {
        return Err(RecoverError::MajorityLeft { left, voters: voters.len() });
    }
    Ok(LayoutGroup::recover(&meta.database(), me, lost)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wholeness::tests::{layout, node};

    #[test]
    fn what_is_lost_is_told_by_partitions() {
        let remains = Remains { node: node(1), layout: layout(3), last: None, voters: BTreeSet::new() };
        let losses = |lost: &[u8]| remains.losses(&lost.iter().map(|n| node(*n)).collect());
        let partitions = u64::from(remains.layout.partition_count());
        assert_eq!(losses(&[]), Losses::default());
        assert_eq!(
            losses(&[2]),
            Losses::default(),
            "two of three copies, and one of two in the cache, are enough"
        );
        let two = losses(&[2, 3]);
        assert_eq!(two.without_quorum, partitions, "of three copies one is left");
        assert!((1..partitions).contains(&two.without_copy), "both of two copies lay there, but not always");
        assert_eq!(losses(&[1, 2, 3]), Losses { without_copy: 2 * partitions, without_quorum: 0 });
    }
}
