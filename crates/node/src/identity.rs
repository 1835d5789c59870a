//! Who this node is: its key, its storage and how often it has started, kept in the meta store.
//!
//! Invariant: the incarnation rises, durably, before anything else happens; so no dot is ever issued twice.

use std::sync::Arc;

use slipring_membership::ClusterKey;
use slipring_model::{ClusterId, NodeId, StorageId};
use slipring_ring::Layout;
use slipring_storage::MetaStore;
use slipring_transport::NodeKey;

use crate::builder::StartError;
use crate::clock::Entropy;

const KEY: &str = "identity/key";
const STORAGE: &str = "identity/storage";
const INCARNATION: &str = "identity/incarnation";
const MEMBERSHIP: &str = "identity/membership";
const ADMISSION: &str = "identity/admission";
const CLUSTER_KEY: &str = "identity/cluster key";
const ROLLED_BACK: &str = "identity/rolled back";

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) key: Arc<NodeKey>,
    pub(crate) storage: StorageId,
    pub(crate) incarnation: u64,
    pub(crate) membership: Option<Membership>,
}

/// The cluster a node belongs to, and its number in the layout group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) cluster: ClusterId,
    pub(crate) raft_id: u64,
}

impl Identity {
    /// Reads the identity, or makes one on a new storage, and begins a new incarnation.
    pub(crate) fn begin(meta: &MetaStore, entropy: &Entropy) -> Result<Self, StartError> {
        refuse_retired(meta)?;
        let (seed, storage) = key_and_storage(meta, entropy)?;
        let key = Arc::new(key_of(&seed)?);
        let before = meta.get(INCARNATION)?.ok_or(StartError::DamagedIdentity)?;
        let incarnation = number(&before)? + 1;
        meta.put(&[(INCARNATION, &incarnation.to_be_bytes())])?;
        let membership = Membership::read(meta)?;
        Ok(Self { node: key.node(), key, storage, incarnation, membership })
    }

    /// The storage that the meta store belongs to; makes an identity in an empty one. No start begins.
    pub(crate) fn storage(meta: &MetaStore) -> Result<StorageId, StartError> {
        Ok(key_and_storage(meta, &Entropy::System)?.1)
    }

    /// The node and its number in the layout group; `None` when it belongs to no cluster. Nothing begins.
    pub(crate) fn member(meta: &MetaStore) -> Result<Option<(NodeId, u64)>, StartError> {
        refuse_retired(meta)?;
        let Some((seed, membership)) = meta.get(KEY)?.zip(meta.get(MEMBERSHIP)?) else { return Ok(None) };
        Ok(Some((key_of(&seed)?.node(), Membership::from_bytes(&membership)?.raft_id)))
    }
}

/// The node's key and its storage; makes them where there is nothing yet. Anything beside them that is there alone is
/// the rest of an identity that was lost.
fn key_and_storage(meta: &MetaStore, entropy: &Entropy) -> Result<(Vec<u8>, StorageId), StartError> {
    let (seed, storage) = match (meta.get(KEY)?, meta.get(STORAGE)?) {
        (Some(seed), Some(storage)) => (seed, storage),
        (None, None) if meta.is_empty()? => {
            let (seed, storage) = (entropy.bytes::<32>().to_vec(), entropy.bytes::<16>().to_vec());
            meta.put(&[(KEY, &seed), (STORAGE, &storage), (INCARNATION, &0_u64.to_be_bytes())])?;
            (seed, storage)
        }
        _ => return Err(StartError::DamagedIdentity),
    };
    Ok((seed, StorageId::from_slice(&storage).ok_or(StartError::DamagedIdentity)?))
}

fn refuse_retired(meta: &MetaStore) -> Result<(), StartError> {
    match meta.get(ROLLED_BACK)? {
        Some(_) => Err(StartError::RolledBack),
        None => Ok(()),
    }
}

fn key_of(seed: &[u8]) -> Result<NodeKey, StartError> {
    NodeKey::from_seed(seed).ok_or(StartError::DamagedIdentity)
}

/// Remembers that this directory must not be used again: a later start would look like an ordinary one.
pub(crate) fn retire(meta: &MetaStore) -> Result<(), slipring_storage::Error> {
    meta.put(&[(ROLLED_BACK, b"1")])
}

impl Membership {
    /// What is kept of it; `None` when the node belongs to no cluster.
    pub(crate) fn read(meta: &MetaStore) -> Result<Option<Self>, StartError> {
        let membership = meta.get(MEMBERSHIP)?.map(|bytes| Self::from_bytes(&bytes)).transpose()?;
        // The two are written together.
        match (membership, meta.get(ADMISSION)?) {
            (None, Some(_)) | (Some(_), None) => Err(StartError::DamagedIdentity),
            (membership, _) => Ok(membership),
        }
    }

    /// Keeps the cluster this node has founded or joined, the layout it was admitted to, and the cluster's key.
    pub(crate) fn keep(
        self,
        meta: &MetaStore,
        layout: &Layout,
        key: Option<&ClusterKey>,
    ) -> Result<(), StartError> {
        let bytes = [&self.cluster.0[..], &self.raft_id.to_be_bytes()].concat();
        let layout = serde_json::to_vec(layout).expect("a layout is plain data");
        let mut kept = vec![(MEMBERSHIP, &bytes[..]), (ADMISSION, &layout)];
        kept.extend(key.map(|key| (CLUSTER_KEY, &key.0[..])));
        Ok(meta.put(&kept)?)
    }

    /// The cluster's key, if its founder drew one.
    pub(crate) fn cluster_key(meta: &MetaStore) -> Result<Option<ClusterKey>, StartError> {
        let key = |bytes: Vec<u8>| <[u8; 32]>::try_from(bytes.as_slice()).map(ClusterKey);
        meta.get(CLUSTER_KEY)?.map(|bytes| key(bytes).map_err(|_| StartError::DamagedIdentity)).transpose()
    }

    /// The layout this node was admitted to; what it knows of the cluster until the group tells it more.
    pub(crate) fn admitted_to(meta: &MetaStore) -> Result<Option<Layout>, StartError> {
        let layout = meta.get(ADMISSION)?;
        layout.map(|json| serde_json::from_slice(&json).map_err(|_| StartError::DamagedIdentity)).transpose()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, StartError> {
        let (cluster, raft_id) = bytes.split_at_checked(16).ok_or(StartError::DamagedIdentity)?;
        let cluster = ClusterId::from_slice(cluster).ok_or(StartError::DamagedIdentity)?;
        Ok(Self { cluster, raft_id: number(raft_id)? })
    }
}

fn number(bytes: &[u8]) -> Result<u64, StartError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| StartError::DamagedIdentity)
}

#[cfg(test)]
mod tests {
    use slipring_storage::faults::FaultyFile;

    use super::*;

    fn begun() -> MetaStore {
        let meta = MetaStore::with_backend(FaultyFile::new()).expect("a store");
        assert_eq!(Identity::begin(&meta, &Entropy::seeded(1)).expect("begun").incarnation, 1);
        meta
    }

    /// A store with what `full` has under these names, and nothing else.
    fn copy(full: &MetaStore, names: &[&str]) -> MetaStore {
        let meta = MetaStore::with_backend(FaultyFile::new()).expect("a store");
        for name in names {
            let value = full.get(name).expect("read").expect("there");
            meta.put(&[(name, &value)]).expect("written");
        }
        meta
    }

    #[test]
    fn an_identity_is_made_in_an_empty_store_alone() {
        let full = begun();
        let layout =
            Layout::found(ClusterId([1; 16]), 4, (NodeId([1; 32]), crate::wholeness::tests::entry(1)));
        Membership { cluster: ClusterId([1; 16]), raft_id: 1 }.keep(&full, &layout, None).expect("kept");
        let all = [KEY, STORAGE, INCARNATION, MEMBERSHIP, ADMISSION];
        let begin = |meta: &MetaStore| Identity::begin(meta, &Entropy::seeded(2));
        assert_eq!(begin(&copy(&full, &all)).expect("it goes on").incarnation, 2);
        for lost in all {
            let left: Vec<&str> = all.into_iter().filter(|name| *name != lost).collect();
            let refused = begin(&copy(&full, &left));
            assert!(matches!(refused, Err(StartError::DamagedIdentity)), "without {lost}: {refused:?}");
            let refused = begin(&copy(&full, &[lost]));
            assert!(matches!(refused, Err(StartError::DamagedIdentity)), "with {lost} alone: {refused:?}");
        }
    }

    #[test]
    fn a_start_cut_short_before_it_joined_goes_on_as_the_same_node() {
        let meta = MetaStore::with_backend(FaultyFile::new()).expect("a store");
        let storage = Identity::storage(&meta).expect("made");
        assert_eq!(Identity::storage(&meta).expect("the same"), storage);
        let begun = Identity::begin(&meta, &Entropy::System).expect("begun");
        assert_eq!((begun.storage, begun.incarnation, begun.membership), (storage, 1, None));
    }
}
