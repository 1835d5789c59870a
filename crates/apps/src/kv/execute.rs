//! How each request reads and changes its cell.

use bytes::Bytes;
use slipring_model::{VersionVector, limits};
use slipring_service::{Cell, Cells, Context};

use super::decimal::{self, NoSum};
use super::precondition;
use super::request::{Condition, ExpireIf, Expiry, Found, Request, Response};

pub(super) fn execute(context: &Context, request: Request, cells: &mut Cells<'_>) -> Response {
    match request {
        Request::Get { .. } => Response::Value(found(cells)),
        Request::GetAll { .. } => all(context, cells),
        Request::Set { value, expiry, condition, returns_previous, seen, .. } => {
            let previous = if returns_previous { found(cells).map(|found| found.value) } else { None };
            if !holds(&condition, cells) {
                return Response::Written { done: false, previous };
            }
            if value.len() > limits::VALUE_BYTES_MAX {
                return Response::TooLarge;
            }
            let expires_at = expires_at(context, expiry, cells);
            match seen {
                None => cells.put(value, expires_at),
                Some(seen) => match having_seen(context, &seen, cells) {
                    Some(seen) => cells.put_having_seen(seen, value, expires_at),
                    None => return Response::Conflict,
                },
            }
            Response::Written { done: true, previous }
        }
        Request::Delete { seen, .. } => delete(context, seen, cells),
        Request::Take { .. } => {
            let taken = found(cells);
            if taken.is_some() {
                cells.remove();
            }
            Response::Value(taken)
        }
        Request::Add { delta, .. } => add(context, delta, cells),
        Request::AddFloat { delta, .. } => add_decimal(context, &delta, cells),
        Request::Append { tail, .. } => splice(context, cells, None, &tail),
        Request::SetRange { offset, part, .. } => splice(context, cells, Some(offset), &part),
        Request::Expire { at, only, .. } => expire(context, at, only, cells),
        Request::GetAndExpire { expiry, .. } => {
            let found = found(cells);
            if let Some(found) = &found
                && expiry != Expiry::Keep
            {
                let at = if let Expiry::At(at) = expiry { Some(at) } else { None };
                match at {
                    Some(at) if at <= context.now_ms => cells.remove(),
                    at => cells.put(found.value.clone(), at),
                }
            }
            Response::Value(found)
        }
        Request::Persist { .. } => match found(cells) {
            Some(Found { value, expires_at: Some(_) }) => {
                cells.put(value, None);
                Response::Written { done: true, previous: None }
            }
            _ => Response::Written { done: false, previous: None },
        },
        Request::Put { value, expiry, only, .. } => {
            let expires_at = expires_at(context, expiry, cells);
            precondition::put(context, cells, (value, expires_at), &only)
        }
        Request::Remove { only, .. } => precondition::remove(context, cells, &only),
    }
}

fn found(cells: &Cells<'_>) -> Option<Found> {
    let value = cells.value()?;
    Some(Found { value: Bytes::from(value.bytes.into_owned()), expires_at: value.expires_at })
}

fn all(context: &Context, cells: &Cells<'_>) -> Response {
    let found = found(cells);
    let expires_at = found.as_ref().and_then(|found| found.expires_at);
    let mut values: Vec<Bytes> = Vec::new();
    if context.keeps_siblings {
        values.extend(cells.siblings().map(Bytes::copy_from_slice));
    }
    if values.is_empty() {
        values.extend(found.map(|found| found.value));
    }
    Response::All { values, context: Cell::encode_context(cells.context()).into(), expires_at }
}

fn holds(condition: &Condition, cells: &Cells<'_>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::IfAbsent => cells.value().is_none(),
        Condition::IfPresent => cells.value().is_some(),
        Condition::IfEquals(expected) => cells.value().is_some_and(|value| value.bytes[..] == expected[..]),
    }
}

fn expires_at(context: &Context, expiry: Expiry, cells: &Cells<'_>) -> Option<u64> {
    match expiry {
        Expiry::Default => fresh_expiry(context),
        Expiry::Keep => cells.value().and_then(|value| value.expires_at),
        Expiry::At(at) => Some(at),
    }
}

/// When a new value expires whose request names no time.
fn fresh_expiry(context: &Context) -> Option<u64> {
    context.default_ttl_ms.map(|ttl| context.now_ms.saturating_add(ttl))
}

/// The context a writer has seen, when it may write: if it has seen everything, and in a bucket that keeps siblings also
/// as long as there is room for one more.
pub(super) fn having_seen(context: &Context, seen: &[u8], cells: &Cells<'_>) -> Option<VersionVector> {
    let seen = Cell::decode_context(seen).ok()?;
    let has_room = context.keeps_siblings && cells.sibling_count() < limits::SIBLINGS_MAX;
    (has_room || seen.descends(cells.context())).then_some(seen)
}

fn delete(context: &Context, seen: Option<Bytes>, cells: &mut Cells<'_>) -> Response {
    let done = cells.value().is_some();
    match seen {
        None if done => cells.remove(),
        None => {}
        Some(seen) => match having_seen(context, &seen, cells) {
            Some(seen) => cells.remove_having_seen(seen),
            None => return Response::Conflict,
        },
    }
    Response::Written { done, previous: None }
}

fn add(context: &Context, delta: i64, cells: &mut Cells<'_>) -> Response {
    let Ok(before) = cells.integer() else { return Response::NotANumber };
    let Some(after) = before.unwrap_or(0).checked_add(delta) else { return Response::Overflow };
    match fresh_expiry(context) {
        // Only a register can expire: where values have a time to live, a counter begins as one.
        Some(expires_at) if before.is_none() => cells.put(delta.to_string(), Some(expires_at)),
        _ => cells.add(delta),
    }
    Response::Integer(after)
}

fn add_decimal(context: &Context, delta: &[u8], cells: &mut Cells<'_>) -> Response {
    let before = found(cells);
    let expires_at = before.as_ref().map_or_else(|| fresh_expiry(context), |found| found.expires_at);
    let before = before.map_or_else(|| Bytes::from_static(b"0"), |found| found.value);
    match decimal::sum(&before, delta) {
        Err(NoSum::NotANumber) => Response::NotANumber,
        Err(NoSum::Overflow) => Response::Overflow,
        Ok(sum) => {
            let value = Bytes::from(sum);
            cells.put(value.clone(), expires_at);
            Response::Value(Some(Found { value, expires_at }))
        }
    }
}

/// Writes `part` at `offset`, or at the end.
fn splice(context: &Context, cells: &mut Cells<'_>, offset: Option<u64>, part: &[u8]) -> Response {
    let before = cells.value();
    let expires_at = before.as_ref().map_or_else(|| fresh_expiry(context), |value| value.expires_at);
    let is_new_and_empty = before.is_none() && offset.is_none();
    let mut value = before.map(|value| value.bytes.into_owned()).unwrap_or_default();
    if part.is_empty() && !is_new_and_empty {
        return Response::Integer(value.len() as i64);
    }
    let start = offset.unwrap_or(value.len() as u64);
    let end = start.saturating_add(part.len() as u64);
    if end > limits::VALUE_BYTES_MAX as u64 {
        return Response::TooLarge;
    }
    let (start, end) = (start as usize, end as usize);
    if value.len() < end {
        value.resize(end, 0);
    }
    if let Some(target) = value.get_mut(start..end) {
        target.copy_from_slice(part);
    }
    let length = value.len() as i64;
    cells.put(value, expires_at);
    Response::Integer(length)
}

fn expire(context: &Context, at: u64, only: ExpireIf, cells: &mut Cells<'_>) -> Response {
    let Some(Found { value, expires_at }) = found(cells) else {
        return Response::Written { done: false, previous: None };
    };
    let is_refused = (only.none && expires_at.is_some())
        || (only.some && expires_at.is_none())
        || (only.later && expires_at.is_none_or(|now| at <= now))
        || (only.earlier && expires_at.is_some_and(|now| at >= now));
    if !is_refused {
        if at <= context.now_ms {
            cells.remove();
        } else {
            cells.put(value, Some(at));
        }
    }
    Response::Written { done: !is_refused, previous: None }
}
