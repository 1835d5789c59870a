//! A registry of addresses: who wants to be found says so under a name, each time for a while.
//!
//! Kept by this node alone and in its memory; what is in it is believed by nobody but those who ask for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use axum::routing::{MethodRouter, get};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use slipring_discovery::{Book, Refusal};
use slipring_model::Moment;

use super::failure::Failure;
use super::json::JsonBody;
use super::parameters::Parameters;

/// The longest entry, in bytes.
const ENTRY_BYTES_MAX: usize = 1024;

/// The addresses, and the moment from which their times are counted.
struct Registry {
    began: Instant,
    book: Mutex<Book>,
}

/// An address, and how long it is to be kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: String,
    ttl_ms: u64,
}

/// Which address to remove.
#[derive(Deserialize)]
struct Removal {
    address: String,
}

impl Registry {
    fn now(&self) -> Moment {
        Moment::default().after(self.began.elapsed())
    }
}

/// What a name in a registry answers; the registry is empty yet.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> MethodRouter<S> {
    let registry = Arc::new(Registry { began: Instant::now(), book: Mutex::default() });
    get(list).put(keep).delete(remove).layer(DefaultBodyLimit::max(ENTRY_BYTES_MAX)).with_state(registry)
}

async fn list(State(registry): State<Arc<Registry>>, Path(name): Path<String>) -> impl IntoResponse {
    Json(json!({ "addresses": registry.book.lock().get(registry.now(), &name) }))
}

async fn keep(
    State(registry): State<Arc<Registry>>,
    Path(name): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, Failure> {
    let entry: Entry = serde_json::from_slice(&body)
        .map_err(|error| Failure::invalid(format!("the body is not an address and a ttl_ms: {error}")))?;
    let life = Duration::from_millis(entry.ttl_ms);
    let kept = registry.book.lock().put(registry.now(), &name, &entry.address, life);
    kept.map_err(|refusal| match refusal {
        Refusal::Full => Failure::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", refusal.to_string()),
        Refusal::Name | Refusal::Address | Refusal::Ttl => Failure::invalid(refusal.to_string()),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

async fn remove(
    State(registry): State<Arc<Registry>>,
    Path(name): Path<String>,
    Parameters(removal): Parameters<Removal>,
) -> impl IntoResponse {
    registry.book.lock().remove(&name, &removal.address);
    StatusCode::NO_CONTENT
}
