//! Founding a cluster, joining one, and admitting a node that asks.
//!
//! A join makes a new layout, and this version moves no data: so every member first fences the present epoch
//! and shows that it holds nothing. A write that comes after the fence is refused until the new layout is
//! known; one that came before makes its node not empty, and the join is refused.
//!
//! Invariant: the layout a node is admitted to was fenced by every member while all of them were empty.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slipring_consensus::ProposeError;
use slipring_model::{ClusterId, Error, ErrorKind, NodeId, StorageId};
use slipring_ring::{Addresses, Applied, Command, Layout, NodeEntry, Refused};
use slipring_wire::{Reply, Request};

use crate::core::Core;
use crate::failure::unavailable;

/// How long one step of an admission may take.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// How often an admission starts over because the layout changed meanwhile.
const ADMISSION_TRIES: u32 = 20;
/// How long a fence may stand before any node lifts it by raising the epoch.
const FENCE_PATIENCE: Duration = Duration::from_secs(2);

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
        NodeEntry {
            storage: self.storage,
            incarnation: self.incarnation,
            boot: self.boot,
            raft_id,
            addresses: self.addresses.clone(),
            zone: self.zone.clone(),
            weight: self.weight,
        }
    }
}

impl Core {
    /// Admits a node to the cluster, when no member holds any data.
    pub(crate) async fn admit_node(&self, descriptor: &Bytes) -> Result<Reply, Error> {
        let descriptor: Descriptor = serde_json::from_slice(descriptor).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the request to join cannot be read: {error}"))
        })?;
        for attempt in 0..ADMISSION_TRIES {
            if let Some(admission) = self.try_to_admit(&descriptor).await? {
                let bytes = serde_json::to_vec(&admission).expect("an admission is plain data");
                return Ok(Reply::Joined(bytes.into()));
            }
            tokio::time::sleep(Duration::from_millis(u64::from(20 * (attempt + 1)))).await;
        }
        Err(unavailable("the layout keeps changing; ask to join again"))
    }

    /// One attempt; `None` when the layout changed meanwhile.
    async fn try_to_admit(&self, descriptor: &Descriptor) -> Result<Option<Admission>, Error> {
        let view = self.view().ok_or_else(|| unavailable("this node has not joined its cluster yet"))?;
        let layout = Arc::clone(&view.layout);
        if let Some(entry) = layout.nodes().get(&descriptor.node) {
            if entry.storage != descriptor.storage {
                let message = "a member has this key but another data directory; it was lost or copied, so the \
                               node must be replaced, not joined";
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            return Ok(Some(self.admission(entry.raft_id, &layout)));
        }
        let epoch = layout.epoch();
        match self.fence_all(&layout, epoch + 1).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => {
                self.lift_fence().await;
                return Err(error);
            }
        }
        let entry = descriptor.entry(0);
        let command = Command::AddNode { node: descriptor.node, entry, expected_epoch: epoch };
        match self.propose_to_group(command).await {
            Ok(Applied::Node { raft_id }) => {
                let layout = self.layout_after(epoch).await?;
                Ok(Some(self.admission(raft_id, &layout)))
            }
            Ok(_) => Err(Error::new(ErrorKind::Internal, "the layout group answered out of turn")),
            Err(ProposeError::Refused(Refused::Moved { .. })) => Ok(None),
            Err(error) => Err(proposal_failed(error)),
        }
    }

    fn admission(&self, raft_id: u64, layout: &Layout) -> Admission {
        let cluster_key = self.key_to_hand_over();
        Admission { cluster: layout.cluster(), raft_id, layout: layout.clone(), cluster_key }
    }

    /// Fences every member at `epoch`; `false` when one is at another layout already.
    async fn fence_all(&self, layout: &Layout, epoch: u64) -> Result<bool, Error> {
        for node in layout.nodes().keys() {
            let reply = if *node == self.me {
                self.raise_fence(epoch)
                    .map(|empty| Reply::Fenced { empty })
                    .unwrap_or_else(crate::failure::failed)
            } else {
                let asked = self.ask(*node, Request::Fence { epoch }, STEP_TIMEOUT).await;
                asked.ok_or_else(|| {
                    unavailable(format!(
                        "member {} cannot be reached; all must be up for a join",
                        node.short()
                    ))
                })?
            };
            match reply {
                Reply::Fenced { empty: true } => {}
                Reply::Fenced { empty: false } => {
                    let message = "the cluster holds data, and this version cannot move data to a new node: join all \
                                   nodes before the first write, or start the new node on its own";
                    return Err(Error::new(ErrorKind::Conflict, message));
                }
                Reply::Failed { kind: ErrorKind::Conflict, .. } => return Ok(false),
                Reply::Failed { kind, message } => return Err(Error::new(kind, message)),
                _ => return Err(Error::new(ErrorKind::Internal, "a member answered a fence out of turn")),
            }
        }
        Ok(true)
    }

    /// Raises the epoch, so that members under a fence go on.
    async fn lift_fence(&self) {
        if let Err(error) = self.propose_to_group(Command::Bump).await {
            tracing::warn!(%error, "a fence could not be lifted yet; it is tried again");
        }
    }

    /// The layout once it is newer than `epoch`.
    async fn layout_after(&self, epoch: u64) -> Result<Arc<Layout>, Error> {
        let mut layouts =
            self.group.get().ok_or_else(|| unavailable("the layout group has not started"))?.layout();
        let newer = layouts.wait_for(|layout| layout.as_ref().is_some_and(|layout| layout.epoch() > epoch));
        match tokio::time::timeout(STEP_TIMEOUT, newer).await {
            Ok(Ok(layout)) => layout.clone().ok_or_else(|| unavailable("the layout is not known here yet")),
            _ => Err(unavailable("the new layout did not arrive here in time; ask to join again")),
        }
    }

    pub(crate) async fn propose_to_group(&self, command: Command) -> Result<Applied, ProposeError> {
        let Some(group) = self.group.get() else {
            return Err(ProposeError::Unavailable("the layout group has not started here yet".to_owned()));
        };
        group.propose(command, STEP_TIMEOUT).await
    }

    /// Lifts a fence that nobody else lifted, because whoever raised it is gone.
    pub(crate) async fn run_fence_watch(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FENCE_PATIENCE).await;
            let Some(before) = self.standing_fence() else { continue };
            tokio::time::sleep(FENCE_PATIENCE).await;
            if self.standing_fence() == Some(before) {
                self.lift_fence().await;
            }
        }
    }

    fn standing_fence(&self) -> Option<u64> {
        let fence = self.fence.load(Ordering::Acquire);
        self.view().filter(|view| view.epoch() < fence).map(|_| fence)
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
