//! Admitting a node that asks to be a member.
//!
//! A node that is admitted is a member at once and holds nothing yet: what is to be its share moves to it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipring_consensus::ProposeError;
use slipring_model::{ClusterId, Error, ErrorKind, NodeId, Signature, StorageId, Versions};
use slipring_ring::{Addresses, Applied, Command, Layout, NodeEntry, NodeState, Role};
use slipring_wire::Reply;

use crate::core::Core;
use crate::failure::unavailable;

/// How long one step of an admission may take.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a node that asks to join says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Descriptor {
    pub(crate) node: NodeId,
    pub(crate) storage: StorageId,
    pub(crate) incarnation: u64,
    pub(crate) boot: u64,
    pub(crate) addresses: Addresses,
    pub(crate) zone: String,
    pub(crate) weight: u32,
    /// Members of older releases pass over this.
    #[serde(default)]
    pub(crate) spare: bool,
    /// Whether it joins although the address of another member is its own.
    #[serde(default)]
    pub(crate) as_new: bool,
    #[serde(default)]
    pub(crate) versions: Versions,
    /// The node's own, under its start.
    #[serde(default)]
    pub(crate) signature: Option<Signature>,
}

/// What it is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Admission {
    pub(crate) cluster: ClusterId,
    pub(crate) raft_id: u64,
    pub(crate) layout: Layout,
    /// The key that the founder drew; none where each node gets the cluster's key from its operator.
    #[serde(default)]
    pub(crate) cluster_key: Option<[u8; 32]>,
}

impl Descriptor {
    pub(crate) fn entry(&self, raft_id: u64) -> NodeEntry {
        let state = if self.spare { NodeState::Drained } else { NodeState::Active };
        NodeEntry {
            storage: self.storage,
            incarnation: self.incarnation,
            boot: self.boot,
            raft_id,
            addresses: self.addresses.clone(),
            role: Role { zone: self.zone.clone(), weight: self.weight, state },
            versions: self.versions,
            signature: self.signature,
        }
    }
}

impl Core {
    /// Admits a node to the cluster.
    ///
    /// # Errors
    /// It asks for another node than itself, `asker`, or cannot be admitted.
    pub(crate) async fn admit_node(&self, asker: NodeId, descriptor: &Bytes) -> Result<Reply, Error> {
        let descriptor: Descriptor = serde_json::from_slice(descriptor).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the request to join cannot be read: {error}"))
        })?;
        if descriptor.node != asker {
            let message = format!("node {} may ask for no other node to be admitted", asker.short());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let admission = self.admit(&descriptor).await?;
        let bytes = serde_json::to_vec(&admission).expect("an admission is plain data");
        Ok(Reply::Joined(bytes.into()))
    }

    async fn admit(&self, descriptor: &Descriptor) -> Result<Admission, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        if let Some(entry) = view.layout.nodes().get(&descriptor.node) {
            if entry.storage != descriptor.storage {
                let message = "a member has this key but another data directory; it was lost or copied, so the \
                               node must be replaced, not joined";
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            return Ok(self.admission(entry.raft_id, &view.layout));
        }
        check_place(&view.layout, descriptor)?;
        let command = Command::AddNode { node: descriptor.node, entry: descriptor.entry(0) };
        match self.propose_to_group(command).await.map_err(proposal_failed)? {
            Applied::Node { raft_id } => {
                let layout = self.layout_with(descriptor.node).await?;
                Ok(self.admission(raft_id, &layout))
            }
            _ => Err(Error::new(ErrorKind::Internal, "the layout group answered out of turn")),
        }
    }

    fn admission(&self, raft_id: u64, layout: &Layout) -> Admission {
        let cluster_key = self.key_to_hand_over();
        Admission { cluster: layout.cluster(), raft_id, layout: layout.clone(), cluster_key }
    }

    /// The layout once `node` is a member.
    async fn layout_with(&self, node: NodeId) -> Result<Arc<Layout>, Error> {
        let mut layouts =
            self.group.get().ok_or_else(|| unavailable("the layout group has not started"))?.layout();
        let is_in = |layout: &Option<Arc<Layout>>| {
            layout.as_ref().is_some_and(|layout| layout.nodes().contains_key(&node))
        };
        match tokio::time::timeout(STEP_TIMEOUT, layouts.wait_for(is_in)).await {
            Ok(Ok(layout)) => layout.clone().ok_or_else(|| unavailable("the layout is not known here yet")),
            _ => Err(unavailable("the new layout did not arrive here in time; ask to join again")),
        }
    }

    pub(crate) async fn propose_to_group(&self, command: Command) -> Result<Applied, ProposeError> {
        let Some(group) = self.group.get() else {
            return Err(ProposeError::Unavailable("the layout group has not started here yet".to_owned()));
        };
        let layout = group.layout().borrow().clone();
        layout.map_or(Ok(()), |layout| layout.can_read(&command)).map_err(ProposeError::Refused)?;
        group.propose(command, STEP_TIMEOUT).await
    }
}

/// A node may not silently take the address of a member: that one is not given up yet, and may have been this node
/// before its data directory was lost.
fn check_place(layout: &Layout, joining: &Descriptor) -> Result<(), Error> {
    let address = &joining.addresses.peer;
    let is_there = |entry: &NodeEntry| {
        entry.role.state != NodeState::Lost && !address.is_empty() && entry.addresses.peer == *address
    };
    match layout.nodes().iter().find(|(_, entry)| is_there(entry)) {
        Some((node, _)) if !joining.spare && !joining.as_new => {
            let node = node.short();
            let message = format!(
                "{address} is the address of member {node}; if that one's data directory was lost, start this one with \
                 --spare and then `slipring replace {node} --by NEW_ID`, or first `slipring remove --lost {node}`; to join \
                 all the same, as a member more, start it with --as-new"
            );
            Err(Error::new(ErrorKind::Conflict, message))
        }
        _ => Ok(()),
    }
}

/// The layout group's refusal, as a client is told.
pub(crate) fn proposal_failed(error: ProposeError) -> Error {
    let kind = match &error {
        ProposeError::Refused(_) => ErrorKind::Conflict,
        ProposeError::Unavailable(_) => ErrorKind::Unavailable,
        ProposeError::Unknown(_) => ErrorKind::OutcomeUnknown,
    };
    Error::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wholeness::tests::{entry, node};

    fn descriptor(address: &str) -> Descriptor {
        let NodeEntry { storage, incarnation, boot, role, versions, .. } = entry(9);
        let addresses = Addresses { peer: address.to_owned(), ..Addresses::default() };
        let (spare, as_new) = (false, false);
        let (zone, weight) = (role.zone, role.weight);
        Descriptor {
            node: node(9),
            storage,
            incarnation,
            boot,
            addresses,
            zone,
            weight,
            spare,
            as_new,
            versions,
            signature: None,
        }
    }

    #[test]
    fn a_members_address_is_joined_from_only_on_purpose() {
        let at = |n: u8, address: &str| {
            let addresses = Addresses { peer: address.to_owned(), ..Addresses::default() };
            (node(n), NodeEntry { addresses, ..entry(n) })
        };
        let mut layout = Layout::found(ClusterId::default(), 4, at(1, "a:1"));
        let join = |layout: &mut Layout, (node, entry)| {
            layout.apply(2, &Command::AddNode { node, entry }).expect("it joins");
        };
        join(&mut layout, at(2, "b:2"));
        let refused = check_place(&layout, &descriptor("b:2")).expect_err("refused");
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(
            refused.message.contains("--spare") && refused.message.contains("remove --lost"),
            "{refused}"
        );
        assert!(check_place(&layout, &descriptor("b:22")).is_ok());
        assert!(check_place(&layout, &Descriptor { spare: true, ..descriptor("b:2") }).is_ok());
        assert!(check_place(&layout, &Descriptor { as_new: true, ..descriptor("b:2") }).is_ok());
        crate::view::tests::give_state(&mut layout, 2, NodeState::Lost);
        assert!(check_place(&layout, &descriptor("b:2")).is_ok(), "it was given up");
    }
}
