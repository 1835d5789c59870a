//! HTTP: JSON about buckets and the cluster, raw bytes for values; gRPC beside it on the same port.
//!
//! ETags are causal contexts: a value read with one and written with it replaces exactly what was read.

mod base64;
mod bodies;
mod buckets;
mod failure;
mod guard;
mod hosts;
mod json;
mod keys;
mod layout;
mod line;
mod memory;
mod one_form;
mod parameters;
mod place;
mod port;
mod registry;
mod seats;
mod tags;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Json};
use axum::routing::{get, post};
use serde::Deserialize;
use slipring_model::limits;
use slipring_node::Node;
use tokio::net::TcpListener;
use tokio::sync::watch;

use failure::Failure;
pub use hosts::{HostName, Hosts};
use parameters::Parameters;

/// The description of this interface, in OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("http/openapi.json");

/// Serves HTTP and gRPC clients that name one of `hosts`, on `listener`, until `stopping` holds `true`; requests under
/// way are finished.
pub async fn serve(listener: TcpListener, node: Node, hosts: Hosts, stopping: watch::Receiver<bool>) {
    let services = crate::grpc::router(&node, stopping.clone());
    let routes = router(node.clone()).merge(services).layer(from_fn(one_form::give));
    port::serve(listener, routes, hosts, node.client_limits(), stopping).await;
}

/// Every route of HTTP.
fn router(node: Node) -> Router {
    // However much clients have in flight, a node tells how it is.
    let health = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route_layer(from_fn(parameters::check));
    Router::new()
        .route("/v1/buckets", get(buckets::list).post(buckets::create))
        .route("/v1/buckets/{bucket}", get(buckets::show).patch(buckets::change).delete(buckets::delete))
        .route("/v1/kv/{bucket}", get(keys::list))
        .route("/v1/kv/{bucket}/{*key}", get(keys::read).put(keys::write).delete(keys::delete))
        .route("/v1/cluster", get(cluster))
        .route("/v1/cluster/ok-to-stop", get(ok_to_stop))
        .route("/v1/layout", get(layout::show))
        .route("/v1/layout/changes", post(layout::commit))
        .route("/v1/layout/moves", get(layout::moves))
        .route("/v1/layout/plan", post(layout::plan))
        .route("/v1/layout/revert", post(layout::revert))
        .route("/v1/registry/{name}", registry::routes())
        .route("/openapi.json", get(openapi))
        .route_layer(from_fn(parameters::check))
        .layer(DefaultBodyLimit::max(limits::VALUE_BYTES_MAX))
        .layer(from_fn_with_state(node.client_memory().clone(), memory::hold))
        .merge(health)
        .with_state(node)
}

async fn cluster(State(node): State<Node>) -> Result<impl IntoResponse, Failure> {
    Ok(Json(node.status().await?))
}

/// Whether one node may be stopped now.
async fn ok_to_stop(State(node): State<Node>) -> Result<impl IntoResponse, Failure> {
    let wholeness = node.status().await?.wholeness;
    let status = if wholeness.is_whole { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(wholeness)))
}

/// What a probe for readiness wants to know beside this node.
#[derive(Deserialize)]
struct Probe {
    /// Whether the cluster must be whole, too.
    #[serde(default)]
    whole: bool,
}

async fn ready(State(node): State<Node>, Parameters(probe): Parameters<Probe>) -> impl IntoResponse {
    let judged = match node.is_ready() {
        Ok(()) if probe.whole => {
            let wholeness = node.status().await.map(|status| status.wholeness);
            let reasons = wholeness.map_or_else(|error| vec![error.to_string()], |whole| whole.reasons);
            if reasons.is_empty() { Ok(()) } else { Err(reasons.join("; ")) }
        }
        judged => judged.map_err(|reason| reason.to_string()),
    };
    match judged {
        Ok(()) => (StatusCode::OK, node.why_reads_only().map_or("ready\n".to_owned(), ready_to_read)),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

/// Clients may be sent here all the same: other writes go on to replicas with room.
fn ready_to_read(reason: String) -> String {
    format!("ready for reads only: {reason}\n")
}

async fn metrics(State(node): State<Node>) -> impl IntoResponse {
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], node.metrics())
}

async fn openapi() -> impl IntoResponse {
    ([("content-type", "application/json")], OPENAPI)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_names_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(super::OPENAPI).expect("JSON");
        let described: Vec<String> = document["paths"].as_object().expect("paths").keys().cloned().collect();
        let source = include_str!("http.rs");
        let mut routed: Vec<String> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix(".route(\"")?.split('"').next())
            .map(|path| path.replace("{*", "{"))
            .collect();
        routed.sort();
        assert_eq!(described, routed);
    }
}
