//! A node's transport on the simulated network.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use slipring_model::{ClusterId, NodeId};
use slipring_transport::{AskError, SendError, Transport};
use slipring_wire::{Hello, Message, Reply, Request};
use tokio::sync::oneshot;

use super::{Network, Question, State, through_a_frame};

/// One process's way into the network.
pub(crate) struct SimTransport {
    network: Arc<Network>,
    host: usize,
}

impl SimTransport {
    pub(super) fn new(network: Arc<Network>, host: usize) -> Self {
        Self { network, host }
    }

    /// Puts a question on its way; `None` when there is no such address or this process is gone.
    fn put(&self, address: &str, request: Request) -> Option<oneshot::Receiver<(Hello, Reply)>> {
        let now = self.network.journal.now_ms();
        let mut state = self.network.state.lock();
        let to = state.places.at(address)?;
        let due = now + state.delay(self.host, to);
        let asker = Hello { is_question: true, ..state.port(self.host).life.as_ref()?.hello.clone() };
        let Message::Request { request, .. } = through_a_frame(Message::Request { id: 0, request })? else {
            return None;
        };
        let (reply, answer) = oneshot::channel();
        state.questions.push(Question { from: self.host, to, due, asker, request, reply });
        Some(answer)
    }
}

impl Transport for SimTransport {
    fn send(&self, to: NodeId, message: Message) -> Result<(), SendError> {
        let mut state = self.network.state.lock();
        let peer = state.connected_host(self.host, to).ok_or(SendError::NotConnected)?;
        let (pair, side) = state.pair(self.host, peer);
        pair.push(side, message);
        Ok(())
    }

    fn set_peers(&self, peers: BTreeMap<NodeId, String>) {
        if let Some(life) = &mut self.network.state.lock().port(self.host).life {
            life.peers = peers;
        }
    }

    fn set_cluster(&self, cluster: ClusterId) {
        if let Some(life) = &mut self.network.state.lock().port(self.host).life {
            life.hello.cluster.get_or_insert(cluster);
        }
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.network.state.lock().connected_host(self.host, peer).is_some()
    }

    fn ask(
        &self,
        address: String,
        request: Request,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<(Hello, Reply), AskError>> {
        let answer = self.put(&address, request);
        Box::pin(async move {
            let reason = "nobody answers there".to_owned();
            let Some(answer) = answer else { return Err(AskError::Unreachable { address, reason }) };
            match tokio::time::timeout(deadline, answer).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(AskError::Unreachable { address, reason }),
                Err(_) => Err(AskError::TimedOut { address }),
            }
        })
    }

    fn shutdown(&self) {
        self.network.detach(self.host, true);
    }
}

impl State {
    /// The host with which `host` has a connection that it knows as `peer`.
    fn connected_host(&mut self, host: usize, peer: NodeId) -> Option<usize> {
        let is_it = |(other, pair, side): (usize, &mut super::Pair, usize)| {
            (pair.is_up(side) && pair.peer(side) == peer).then_some(other)
        };
        self.pairs_of(host).find_map(is_it)
    }
}
