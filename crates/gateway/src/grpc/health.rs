//! The standard health service: whether clients should be sent here, as `/readyz` says.

use std::time::Duration;

use futures::stream::{BoxStream, StreamExt, unfold};
use slipring_node::Node;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_server};

use super::failure::refused;
use super::generated::v1::buckets_server::BucketsServer;
use super::generated::v1::cluster_server::ClusterServer;
use super::generated::v1::kv_server::KvServer;
use super::{buckets, cluster, kv};

/// How often a watcher's node is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The services that have a health; the empty name is that of the whole node.
const SERVICES: [&str; 4] = [
    "",
    KvServer::<kv::Kv>::NAME,
    BucketsServer::<buckets::Buckets>::NAME,
    ClusterServer::<cluster::Cluster>::NAME,
];

/// The service `grpc.health.v1.Health`.
#[derive(Clone)]
pub(super) struct Health {
    node: Node,
    stopping: watch::Receiver<bool>,
}

impl Health {
    pub(super) fn new(node: Node, stopping: watch::Receiver<bool>) -> Self {
        Self { node, stopping }
    }

    fn now(&self, service: &str) -> ServingStatus {
        if !SERVICES.contains(&service) {
            ServingStatus::ServiceUnknown
        } else if *self.stopping.borrow() || self.node.is_ready().is_err() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        }
    }

    /// Waits until the status is another than `last`; nothing more comes once the node has stopped.
    async fn change(&mut self, service: &str, last: Option<ServingStatus>) -> Option<ServingStatus> {
        loop {
            let now = self.now(service);
            if Some(now) != last {
                return Some(now);
            }
            let is_over = tokio::select! {
                // A sender that is gone means the same as one that says so.
                _ = self.stopping.wait_for(|is_stopping| *is_stopping) => true,
                () = tokio::time::sleep(LOOK_INTERVAL) => false,
            };
            if is_over {
                return Some(self.now(service)).filter(|end| Some(*end) != last);
            }
        }
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.now(&request.into_inner().service) {
            ServingStatus::ServiceUnknown => {
                Err(refused(Code::NotFound, "there is no such service; leave the name empty for the node"))
            }
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let begin = (self.clone(), request.into_inner().service, None);
        let statuses = unfold(begin, |(mut health, service, last)| async move {
            let status = health.change(&service, last).await?;
            Some((Ok(HealthCheckResponse { status: status.into() }), (health, service, Some(status))))
        });
        Ok(Response::new(statuses.boxed()))
    }
}
