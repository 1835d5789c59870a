//! A stopped node's way out when the layout group has lost its majority for good.

use std::collections::BTreeSet;

use slipring_consensus::{EntryId, LayoutGroup};
use slipring_model::NodeId;
use slipring_ring::Layout;
use slipring_storage::MetaStore;
use thiserror::Error;

use crate::builder::StartError;
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

impl Remains {
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
    let is_left = |voter: &&NodeId| !lost.contains(voter) && layout.nodes().contains_key(voter);
    let left = voters.iter().filter(is_left).count();
    if left > voters.len() / 2 {
        return Err(RecoverError::MajorityLeft { left, voters: voters.len() });
    }
    Ok(LayoutGroup::recover(&meta.database(), me, lost)?)
}
