//! Values by key: reading, writing, deleting, listing.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::json;
use slipring_apps::KV;
use slipring_apps::kv::{Condition, Expiry, Request, Response as Answer};
use slipring_model::{BucketId, Cursor, limits};
use slipring_node::{CallOptions, Node};

use super::buckets::no_such;
use super::failure::Failure;

/// What a list of keys may be asked for.
#[derive(Deserialize)]
pub(super) struct Paging {
    #[serde(default)]
    cursor: u64,
    #[serde(default = "default_count")]
    count: usize,
}

/// What a write may be given in its query.
#[derive(Deserialize)]
pub(super) struct Writing {
    ttl_ms: Option<u64>,
}

fn default_count() -> usize {
    100
}

pub(super) async fn list(
    State(node): State<Node>,
    Path(bucket): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<impl IntoResponse, Failure> {
    let bucket = bucket_of(&node, &bucket)?;
    let cursor = Cursor::new(paging.cursor).ok_or_else(|| {
        let message = "cursor must be 0 or the cursor of an answer: it is below 2^53";
        Failure::new(StatusCode::BAD_REQUEST, "invalid", message)
    })?;
    let page = node.scan(bucket, cursor, paging.count).await?;
    let keys: Vec<_> = page.keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    // As text: readers of JSON take numbers for many kinds of number.
    Ok(Json(json!({ "keys": keys, "cursor": page.cursor.number().to_string() })))
}

pub(super) async fn read(
    State(node): State<Node>,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let answer = call(&node, &bucket, &headers, Request::GetAll { key: key_of(key)? }).await?;
    let Answer::All { values, context, expires_at } = answer else { return Err(out_of_turn()) };
    let etag = etag(&context);
    let mut response = match values.as_slice() {
        [] => return Err(Failure::not_found("there is no such key")),
        [value] => ([("content-type", "application/octet-stream")], value.clone()).into_response(),
        several => {
            let texts: Vec<_> = several.iter().map(|value| hex(value)).collect();
            (StatusCode::MULTIPLE_CHOICES, Json(json!({ "siblings_hex": texts }))).into_response()
        }
    };
    if let Ok(value) = etag.parse() {
        response.headers_mut().insert("etag", value);
    }
    if let Some(at) = expires_at {
        response.headers_mut().insert("slipring-expires-at-ms", at.into());
    }
    Ok(response)
}

pub(super) async fn write(
    State(node): State<Node>,
    Path((bucket, key)): Path<(String, String)>,
    Query(writing): Query<Writing>,
    headers: HeaderMap,
    value: Bytes,
) -> Result<Response, Failure> {
    let ttl = match number::<u64>(&headers, "slipring-ttl-ms")?.or(writing.ttl_ms) {
        Some(0) => return Err(Failure::invalid("a time to live must be above zero")),
        ttl => ttl,
    };
    let expiry = ttl.map_or(Expiry::Default, |ttl| Expiry::At(node.wall_ms().saturating_add(ttl)));
    let is_new_only = headers.get("if-none-match").is_some_and(|value| value.as_bytes() == b"*");
    let condition = if is_new_only { Condition::IfAbsent } else { Condition::Always };
    let seen = context_of(&headers)?;
    let request = Request::Set { key: key_of(key)?, value, expiry, condition, returns_previous: false, seen };
    match call(&node, &bucket, &headers, request).await? {
        Answer::Written { done: true, .. } => Ok(StatusCode::NO_CONTENT.into_response()),
        Answer::Written { done: false, .. } => Err(precondition("there is a value already")),
        Answer::Conflict => Err(precondition("somebody has written since that ETag was read; read again")),
        Answer::TooLarge => {
            let message = format!("a value has at most {} bytes", limits::VALUE_BYTES_MAX);
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", message))
        }
        _ => Err(out_of_turn()),
    }
}

pub(super) async fn delete(
    State(node): State<Node>,
    Path((bucket, key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let request = Request::Delete { key: key_of(key)?, seen: context_of(&headers)? };
    match call(&node, &bucket, &headers, request).await? {
        Answer::Written { done: true, .. } => Ok(StatusCode::NO_CONTENT.into_response()),
        Answer::Written { done: false, .. } => Err(Failure::not_found("there is no such key")),
        Answer::Conflict => Err(precondition("somebody has written since that ETag was read; read again")),
        _ => Err(out_of_turn()),
    }
}

async fn call(node: &Node, bucket: &str, headers: &HeaderMap, request: Request) -> Result<Answer, Failure> {
    let options = CallOptions {
        read_acks: number(headers, "slipring-read-acks")?,
        write_acks: number(headers, "slipring-write-acks")?,
        deadline: number(headers, "slipring-timeout-ms")?.map(Duration::from_millis),
    };
    Ok(node.call(&KV, bucket_of(node, bucket)?, request, options).await?)
}

fn bucket_of(node: &Node, name: &str) -> Result<BucketId, Failure> {
    node.bucket_named(name).ok_or_else(|| no_such(name))
}

fn key_of(key: String) -> Result<Bytes, Failure> {
    if key.len() > limits::KEY_BYTES_MAX {
        let message = format!("a key has at most {} bytes", limits::KEY_BYTES_MAX);
        return Err(Failure::new(StatusCode::URI_TOO_LONG, "invalid", message));
    }
    Ok(Bytes::from(key))
}

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Failure::invalid(format!("the header {name} must be a number")))
}

fn etag(context: &[u8]) -> String {
    format!("\"{}\"", hex(context))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The causal context in If-Match.
fn context_of(headers: &HeaderMap) -> Result<Option<Bytes>, Failure> {
    let Some(value) = headers.get("if-match") else { return Ok(None) };
    let digits = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
    let bytes = digits.filter(|digits| digits.len() % 2 == 0).and_then(|digits| {
        let pairs = digits.as_bytes().chunks_exact(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect::<Option<Vec<u8>>>()
    });
    bytes
        .map(|bytes| Some(bytes.into()))
        .ok_or_else(|| Failure::invalid("If-Match must be an ETag as it was read"))
}

fn precondition(message: &str) -> Failure {
    Failure::new(StatusCode::PRECONDITION_FAILED, "conflict", message)
}

fn out_of_turn() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the application answered out of turn")
}
