//! Values by key: reading, writing, deleting, listing.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::json;
use slipring_apps::KV;
use slipring_apps::kv::{Expiry, Request, Response as Answer};
use slipring_model::{BucketId, Cursor, limits};
use slipring_node::{CallOptions, Node};

use super::base64;
use super::buckets::no_such;
use super::failure::Failure;
use super::parameters::Parameters;
use super::place::{KeyEncoding, KeyPlace};
use super::tags;

/// What a list of keys may be asked for.
#[derive(Deserialize)]
pub(super) struct Paging {
    #[serde(default)]
    cursor: u64,
    #[serde(default = "default_count")]
    count: usize,
    #[serde(default)]
    key_encoding: KeyEncoding,
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
    Parameters(paging): Parameters<Paging>,
) -> Result<impl IntoResponse, Failure> {
    if !(1..=limits::PAGE_RECORDS_MAX).contains(&paging.count) {
        return Err(Failure::invalid(format!("count must be 1 to {}", limits::PAGE_RECORDS_MAX)));
    }
    let bucket = bucket_of(&node, &bucket)?;
    let cursor = Cursor::new(paging.cursor)
        .ok_or_else(|| Failure::invalid("cursor must be 0 or the cursor of an answer: it is below 2^53"))?;
    let page = node.scan(bucket, cursor, paging.count).await?;
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for key in &page.keys {
        match std::str::from_utf8(key) {
            _ if paging.key_encoding == KeyEncoding::Base64 => texts.push(base64::encode(key)),
            Ok(text) => texts.push(text.to_owned()),
            Err(_) => others.push(base64::encode(key)),
        }
    }
    // As text: readers of JSON take numbers for many kinds of number.
    let mut told = json!({ "keys": texts, "cursor": page.cursor.number().to_string() });
    if !others.is_empty()
        && let Some(fields) = told.as_object_mut()
    {
        fields.insert("keys_base64".to_owned(), others.into());
    }
    Ok(Json(told))
}

pub(super) async fn read(
    State(node): State<Node>,
    place: KeyPlace,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let only = tags::precondition(&headers)?;
    let answer = call(&node, &place.bucket, &headers, Request::GetAll { key: place.key }).await?;
    let Answer::All { values, context, expires_at } = answer else { return Err(out_of_turn()) };
    let mut response = match values.as_slice() {
        [] => return Err(Failure::not_found("there is no such key")),
        // Conditions are about one value.
        [_] if only.matches.as_ref().is_some_and(|tags| !tags::name(tags, &context)) => {
            return Err(changed());
        }
        [_] if only.matches_none.as_ref().is_some_and(|tags| tags::name(tags, &context)) => {
            StatusCode::NOT_MODIFIED.into_response()
        }
        [value] => ([("content-type", "application/octet-stream")], value.clone()).into_response(),
        several => {
            let texts: Vec<_> = several.iter().map(|value| hex(value)).collect();
            (StatusCode::MULTIPLE_CHOICES, Json(json!({ "siblings_hex": texts }))).into_response()
        }
    };
    add_tag(&mut response, &context);
    if let Some(at) = expires_at {
        response.headers_mut().insert("slipring-expires-at-ms", at.into());
    }
    Ok(response)
}

pub(super) async fn write(
    State(node): State<Node>,
    place: KeyPlace,
    Parameters(writing): Parameters<Writing>,
    headers: HeaderMap,
    value: Bytes,
) -> Result<Response, Failure> {
    let ttl = match number::<u64>(&headers, "slipring-ttl-ms")?.or(writing.ttl_ms) {
        Some(0) => return Err(Failure::invalid("a time to live must be above zero")),
        ttl => ttl,
    };
    let expiry = ttl.map_or(Expiry::Default, |ttl| Expiry::At(node.wall_ms().saturating_add(ttl)));
    let only = tags::precondition(&headers)?;
    let request = Request::Put { key: place.key, value, expiry, only };
    match call(&node, &place.bucket, &headers, request).await? {
        Answer::Stored { context } => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            context.iter().for_each(|context| add_tag(&mut response, context));
            Ok(response)
        }
        Answer::Conflict => Err(changed()),
        Answer::Matched => Err(there_is_one()),
        Answer::TooLarge => {
            let message = format!("a value has at most {} bytes", limits::VALUE_BYTES_MAX);
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", message))
        }
        _ => Err(out_of_turn()),
    }
}

pub(super) async fn delete(
    State(node): State<Node>,
    place: KeyPlace,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let request = Request::Remove { key: place.key, only: tags::precondition(&headers)? };
    match call(&node, &place.bucket, &headers, request).await? {
        Answer::Written { done: true, .. } => Ok(StatusCode::NO_CONTENT.into_response()),
        Answer::Written { done: false, .. } => Err(Failure::not_found("there is no such key")),
        Answer::Conflict => Err(changed()),
        Answer::Matched => Err(there_is_one()),
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

fn number<T: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<T>, Failure> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Failure::invalid(format!("the header {name} must be a number")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add_tag(response: &mut Response, context: &[u8]) {
    if let Ok(value) = tags::tag(context).parse() {
        response.headers_mut().insert(header::ETAG, value);
    }
}

fn changed() -> Failure {
    precondition(
        "the value is none that If-Match names: it has changed, has expired or is not there; read again",
    )
}

fn there_is_one() -> Failure {
    precondition("there is a value that If-None-Match names; nothing was done")
}

fn precondition(message: &str) -> Failure {
    Failure::new(StatusCode::PRECONDITION_FAILED, "conflict", message)
}

fn out_of_turn() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the application answered out of turn")
}
