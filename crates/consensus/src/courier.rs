//! How the group's messages travel: somebody else's business, behind one trait.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use slipring_model::NodeId;
use thiserror::Error;

use crate::lineage::Ancestry;
use crate::protocol::{Answer, Call, Group, Parcel, Snapshot, Vote, decode, encode};

/// Carries one request to the group's member on a node and brings its answer back.
pub trait Courier: Send + Sync + 'static {
    /// Delivers `request` to `to`; the answer, or why there is none within `deadline`.
    fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CourierError>>;
}

/// Why a request has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CourierError {
    /// There is no connection with the node: nothing was sent.
    #[error("there is no connection with the node")]
    NotSent,
    /// The node cannot be reached any more; it may have heard the request.
    #[error("the node cannot be reached")]
    Unreachable,
    /// No answer came in time; likewise.
    #[error("no answer came in time")]
    TimedOut,
    /// The node would not take the request.
    #[error("the node refused: {0}")]
    Refused(String),
}

/// Makes a line to each member of the group.
#[derive(Clone)]
pub(crate) struct Lines {
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) ancestry: Ancestry,
}

/// A line to one member.
pub(crate) struct Line {
    lines: Lines,
    to: NodeId,
}

impl RaftNetworkFactory<Group> for Lines {
    type Network = Line;

    async fn new_client(&mut self, _target: u64, node: &NodeId) -> Line {
        Line { lines: self.clone(), to: *node }
    }
}

impl Lines {
    /// Asks the member on a node.
    pub(crate) async fn call(
        &self,
        to: NodeId,
        call: Call,
        deadline: Duration,
    ) -> Result<Bytes, CourierError> {
        let parcel = Parcel { lineage: self.ancestry.current(), call };
        self.courier.call(to, encode(&parcel), deadline).await
    }
}

impl Line {
    async fn call(&self, call: Call, option: &RPCOption) -> Result<Answer, RPCError<Group>> {
        let answer = self.lines.call(self.to, call, option.hard_ttl()).await;
        let bytes = answer.map_err(|error| match error {
            CourierError::NotSent | CourierError::Unreachable => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            CourierError::TimedOut | CourierError::Refused(_) => RPCError::Network(NetworkError::new(&error)),
        })?;
        match decode(&bytes) {
            Ok(Answer::Failed(message)) => Err(RPCError::Network(NetworkError::from_string(message))),
            Ok(answer) => Ok(answer),
            Err(error) => Err(RPCError::Network(NetworkError::from_string(error))),
        }
    }
}

fn out_of_turn() -> RPCError<Group> {
    RPCError::Network(NetworkError::from_string("the member answered out of turn"))
}

impl RaftNetworkV2<Group> for Line {
    type SnapshotData = String;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Group>, RPCError<Group>> {
        match self.call(Call::Append(rpc), &option).await? {
            Answer::Append(response) => Ok(response),
            _ => Err(out_of_turn()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        match self.call(Call::Vote(rpc), &option).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(out_of_turn()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Group>,
        option: RPCOption,
    ) -> Result<VoteResponse<Group>, RPCError<Group>> {
        match self.call(Call::PreVote(rpc), &option).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(out_of_turn()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Group>, StreamingError<Group>> {
        let call = Call::Snapshot { vote, meta: snapshot.meta, document: snapshot.snapshot };
        match self.call(call, &option).await {
            Ok(Answer::Snapshot(response)) => Ok(response),
            Ok(_) => {
                Err(StreamingError::Network(NetworkError::from_string("the member answered out of turn")))
            }
            Err(error) => Err(StreamingError::Network(NetworkError::new(&error))),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Group>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Group>, RPCError<Group>> {
        match self.call(Call::Transfer(rpc), &option).await? {
            Answer::Transfer(response) => Ok(response),
            _ => Err(out_of_turn()),
        }
    }
}
