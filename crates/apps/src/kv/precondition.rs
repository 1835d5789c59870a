//! Writes and deletions under the preconditions of HTTP, decided by the replica that coordinates them.
//!
//! Source: RFC 9110, 13.1.1, 13.1.2 and 13.2.2: `If-Match` comes before `If-None-Match`.

use bytes::Bytes;
use slipring_model::{VersionVector, limits};
use slipring_service::{Cell, Cells, Context};

use super::execute::having_seen;
use super::request::{Precondition, Response, Tags};

/// Writes a value with its expiry, and answers with the context that it is read with from now on.
pub(super) fn put(
    context: &Context,
    cells: &mut Cells<'_>,
    (value, expires_at): (Bytes, Option<u64>),
    only: &Precondition,
) -> Response {
    let seen = match admit(context, cells, only) {
        Ok(seen) => seen,
        Err(refusal) => return refusal,
    };
    if value.len() > limits::VALUE_BYTES_MAX {
        return Response::TooLarge;
    }
    // A vector that names this write names earlier ones of the same replica too: beside values that its writer has not
    // seen, it would say that the writer has.
    let replaces_all = seen.as_ref().is_none_or(|seen| seen.descends(cells.context()));
    let told = replaces_all.then(|| Cell::encode_context(&cells.context_after_change()).into());
    match seen {
        None => cells.put(value, expires_at),
        Some(seen) => cells.put_having_seen(seen, value, expires_at),
    }
    Response::Stored { context: told }
}

/// Deletes the value.
pub(super) fn remove(context: &Context, cells: &mut Cells<'_>, only: &Precondition) -> Response {
    // Without a value there is nothing to compare: RFC 9110, 13.2.1.
    if !is_there(context, cells) {
        return Response::Written { done: false, previous: None };
    }
    match admit(context, cells, only) {
        Ok(None) => cells.remove(),
        Ok(Some(seen)) => cells.remove_having_seen(seen),
        Err(refusal) => return refusal,
    }
    Response::Written { done: true, previous: None }
}

/// The context that the client has seen, if it names one and the precondition holds; else the refusal.
fn admit(
    context: &Context,
    cells: &Cells<'_>,
    only: &Precondition,
) -> Result<Option<VersionVector>, Response> {
    let is_there = is_there(context, cells);
    let seen = match &only.matches {
        None => None,
        Some(_) if !is_there => return Err(Response::Conflict),
        Some(Tags::Any) => None,
        Some(Tags::These(tags)) => {
            let mut seen = tags.iter().filter_map(|tag| having_seen(context, tag, cells));
            let first = seen.next().ok_or(Response::Conflict)?;
            let whole = |seen: &VersionVector| seen.descends(cells.context());
            Some(if whole(&first) { first } else { seen.find(whole).unwrap_or(first) })
        }
    };
    let is_named = |tag: &Bytes| Cell::decode_context(tag).is_ok_and(|named| named == *cells.context());
    let is_excluded = match &only.matches_none {
        None => false,
        Some(Tags::Any) => true,
        Some(Tags::These(tags)) => tags.iter().any(is_named),
    };
    if is_there && is_excluded { Err(Response::Matched) } else { Ok(seen) }
}

/// Whether a read answers with a value.
fn is_there(context: &Context, cells: &Cells<'_>) -> bool {
    cells.value().is_some() || context.keeps_siblings && cells.siblings().next().is_some()
}
