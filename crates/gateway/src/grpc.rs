//! gRPC, on the port of HTTP: the services of `proto/slipring/v1`, health and reflection.
//!
//! Each method makes a request of the application, calls the node and answers; errors become statuses in one
//! table. Reflection tells clients everything, so they need no files.

mod body;
mod buckets;
mod cluster;
mod compression;
mod deadline;
mod failure;
mod gate;
mod generated;
mod health;
mod kv;
mod scan;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use slipring_model::{BucketId, limits};
use slipring_node::Node;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::health_server::HealthServer;

use failure::refused;
pub(crate) use gate::{forbidden, is_grpc, overloaded};
use generated::DESCRIPTORS;
use generated::v1::buckets_server::BucketsServer;
use generated::v1::cluster_server::ClusterServer;
use generated::v1::kv_server::KvServer;

/// What a message may hold beside its value: the key, the context, the bucket's name, framing.
const BYTES_BESIDE_VALUE_MAX: usize = 64 * 1024;
/// The largest message a client may send, in bytes.
const REQUEST_BYTES_MAX: usize = limits::VALUE_BYTES_MAX + BYTES_BESIDE_VALUE_MAX;
/// The largest message a client is sent, in bytes: concurrent values together may exceed one value's limit.
const RESPONSE_BYTES_MAX: usize = limits::FRAME_BYTES_MAX + BYTES_BESIDE_VALUE_MAX;

/// Every gRPC route; health says that the node does not serve once `stopping` holds `true`.
pub(crate) fn router(node: &Node, stopping: watch::Receiver<bool>) -> Router {
    let kv = KvServer::new(kv::Kv(node.clone()))
        .max_decoding_message_size(REQUEST_BYTES_MAX)
        .max_encoding_message_size(RESPONSE_BYTES_MAX);
    let buckets =
        BucketsServer::new(buckets::Buckets(node.clone())).max_decoding_message_size(BYTES_BESIDE_VALUE_MAX);
    let cluster =
        ClusterServer::new(cluster::Cluster(node.clone())).max_decoding_message_size(BYTES_BESIDE_VALUE_MAX);
    let health = HealthServer::new(health::Health::new(node.clone(), stopping))
        .max_decoding_message_size(BYTES_BESIDE_VALUE_MAX);
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = described().build_v1().expect("the kept descriptors are whole");
    let reflection_before = described().build_v1alpha().expect("the kept descriptors are whole");
    // Reflection talks to and fro: its messages are small, and it cannot wait for the last one.
    let reflections = Router::new()
        .route_service(&path(&reflection), reflection.max_decoding_message_size(BYTES_BESIDE_VALUE_MAX))
        .route_service(
            &path(&reflection_before),
            reflection_before.max_decoding_message_size(BYTES_BESIDE_VALUE_MAX),
        );
    Router::new()
        .route_service(&path(&kv), kv)
        .route_service(&path(&buckets), buckets)
        .route_service(&path(&cluster), cluster)
        .route_service(&path(&health), health)
        .route_layer(from_fn_with_state(node.client_memory().clone(), body::gather))
        .merge(reflections)
        .route_layer(from_fn(gate::pass))
        .fallback(gate::no_such_service)
}

fn path<S: NamedService>(_service: &S) -> String {
    format!("/{}/{{*method}}", S::NAME)
}

/// The bucket with this name; `default` when it is empty.
fn bucket_of(node: &Node, name: &str) -> Result<BucketId, Status> {
    let name = if name.is_empty() { "default" } else { name };
    node.bucket_named(name).ok_or_else(|| no_such_bucket(name))
}

fn no_such_bucket(name: &str) -> Status {
    let shown: String = name.chars().take(limits::BUCKET_NAME_BYTES_MAX).collect();
    refused(Code::NotFound, format!("there is no bucket \"{shown}\"; slipring.v1.Buckets/Create makes one"))
}
