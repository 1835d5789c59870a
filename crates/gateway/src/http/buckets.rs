//! Buckets: listing, making, changing, deleting.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use slipring_model::{BucketName, BucketPolicy};
use slipring_node::{Force, Node};
use slipring_ring::{Changes, Command, Spread};

use super::failure::Failure;
use super::json::JsonBody;
use super::layout::progress;

/// What a new bucket should be: a preset, and fields of the policy that differ from it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    name: String,
    #[serde(default)]
    preset: Option<String>,
    #[serde(default)]
    policy: serde_json::Map<String, Value>,
}

/// What is to be different about a bucket.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Copies of each key.
    replicas: u8,
    /// The epoch of the layout that this was planned for.
    #[serde(default)]
    epoch: Option<u64>,
    /// Whether it is done in spite of an objection.
    #[serde(default)]
    force: bool,
}

pub(super) async fn list(State(node): State<Node>) -> impl IntoResponse {
    let layout = node.layout();
    let buckets =
        layout.buckets().iter().map(|(id, entry)| describe(id.0, &entry.name.to_string(), &entry.policy));
    Json(json!({ "buckets": buckets.collect::<Vec<_>>() }))
}

pub(super) async fn show(
    State(node): State<Node>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    let layout = node.layout();
    let (id, entry) = layout.bucket_named(&name).ok_or_else(|| no_such(&name))?;
    Ok(Json(describe(id.0, &name, &entry.policy)))
}

pub(super) async fn create(
    State(node): State<Node>,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, Failure> {
    let wish: Wish = serde_json::from_slice(&body)
        .map_err(|error| Failure::invalid(format!("the body is not a bucket: {error}")))?;
    let name: BucketName = wish.name.parse().map_err(|error| Failure::invalid(format!("name: {error}")))?;
    let preset = wish.preset.as_deref().unwrap_or("durable");
    let base = BucketPolicy::preset(preset).ok_or_else(|| {
        Failure::invalid(format!("there is no preset \"{preset}\": choose durable or cache"))
    })?;
    let mut fields = serde_json::to_value(&base).expect("a policy is plain data");
    if let Some(object) = fields.as_object_mut() {
        object.extend(wish.policy);
    }
    let policy: BucketPolicy =
        serde_json::from_value(fields).map_err(|error| Failure::invalid(format!("policy: {error}")))?;
    policy.validate().map_err(Failure::invalid)?;
    node.propose(Command::CreateBucket { name: name.clone(), policy: policy.clone() }).await?;
    let number = node.bucket_named(&wish.name).map(|id| id.0);
    Ok((StatusCode::CREATED, Json(json!({ "name": name, "number": number, "policy": policy }))))
}

pub(super) async fn change(
    State(node): State<Node>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, Failure> {
    let wanted: Wanted = serde_json::from_slice(&body)
        .map_err(|error| Failure::invalid(format!("the body is no change of a bucket: {error}")))?;
    let layout = node.layout();
    let (bucket, entry) = layout.bucket_named(&name).ok_or_else(|| no_such(&name))?;
    let policy = BucketPolicy { replicas: wanted.replicas, ..entry.policy.clone() };
    policy.validate().map_err(Failure::invalid)?;
    let spreads = vec![Spread { bucket, replicas: policy.replicas }];
    node.change(Changes { nodes: Vec::new(), spreads }, wanted.epoch, force(wanted.force)).await?;
    let layout = node.layout();
    let (id, entry) = layout.bucket_named(&name).ok_or_else(|| no_such(&name))?;
    let mut told = describe(id.0, &name, &entry.policy);
    if let (Some(told), Value::Object(progress)) = (told.as_object_mut(), progress(&layout)) {
        told.extend(progress);
    }
    Ok(Json(told))
}

pub(super) async fn delete(
    State(node): State<Node>,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, Failure> {
    node.bucket_named(&name).ok_or_else(|| no_such(&name))?;
    let name: BucketName = name.parse().map_err(|error| Failure::invalid(format!("name: {error}")))?;
    node.propose(Command::DeleteBucket { name }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn no_such(name: &str) -> Failure {
    Failure::not_found(format!("there is no bucket \"{name}\"; POST /v1/buckets makes one"))
}

/// Whether it is done in spite of an objection; no node is given up by it.
fn force(is_forced: bool) -> Force {
    if is_forced { Force::On { named: Vec::new() } } else { Force::Off }
}

fn describe(number: u32, name: &str, policy: &BucketPolicy) -> Value {
    json!({ "number": number, "name": name, "policy": policy })
}
