//! Bodies of HTTP: whole before a route sees them, and held until they are done with.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use slipring_model::limits;
use slipring_node::{ClientMemory, Held};

use super::failure::Failure;
use crate::body::{Arriving, until_sent};

/// Hands a request on with its whole body, and its answer back within the node's memory for clients.
pub(super) async fn hold(State(memory): State<ClientMemory>, request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (head, body) = request.into_parts();
    let response = match receive(&memory, body).await {
        Ok((body, _held)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(failure) => return failure.into_response(),
    };
    let bytes = response.body().size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
    match memory.hold(bytes.unwrap_or(0)) {
        Ok(held) => until_sent(response, &memory, bytes.map(|_| Arc::new(held))),
        Err(refusal) if is_read => Failure::from(refusal).into_response(),
        // What has happened is told.
        Err(_) => until_sent(response, &memory, None),
    }
}

async fn receive(memory: &ClientMemory, body: Body) -> Result<(Bytes, Held), Failure> {
    let too_large = || {
        let message = format!("a body has at most {} bytes; this one is larger", limits::VALUE_BYTES_MAX);
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid", message)
    };
    if body.size_hint().lower() > limits::VALUE_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut arriving = Arriving::new(memory);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Failure::invalid("the body broke off; nothing was done"))?;
        if arriving.bytes().len() + chunk.len() > limits::VALUE_BYTES_MAX {
            return Err(too_large());
        }
        if !arriving.add(chunk) {
            return Err(memory.refusal().into());
        }
    }
    Ok(arriving.whole())
}
