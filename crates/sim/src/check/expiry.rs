//! Expiry: a value whose time is up is gone, on all replicas alike, and its bytes are dropped soon after.
//!
//! What a bucket promises of freshness does not matter: each value brings its own time. That it is not gone
//! before its time is part of [`no_lost_write`](super::no_lost_write); that no bytes are dropped before it is
//! part of this.
//!
//! Source: Redis' expiry as seen by clients, with an absolute time in the value in place of each replica's clock.

use slipring_service::{Cell, Content, Sibling};

use crate::history::{Action, Operation};
use crate::run::Violation;

use super::convergence::Copy;
use super::{Terms, by_key};

/// How long after its time a replica may hold the bytes of a value: many times the interval of sweeps, and the margin that
/// a value must be over before it is dropped.
const SWEEP_MS: u64 = 2_000 + 2_000;

/// Checks a history: nobody reads a value after its time.
///
/// # Errors
/// The first read that does.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<(), Violation> {
    for operations in by_key(operations).values() {
        for read in operations {
            let Some((Some(seen), _)) = read.seen() else { continue };
            let is_over = |write: &&&Operation| match &write.action {
                Action::Set { value, expires_at: Some(at) } => {
                    value == seen && at + terms.skew_ms + terms.late_ms <= read.start_ms
                }
                _ => false,
            };
            if let Some(write) = operations.iter().find(is_over) {
                let story = format!("{}, after its time: {}", read.describe(), write.describe());
                return Err(Violation::new("expiry", story));
            }
        }
    }
    Ok(())
}

/// Checks what replicas hold at `now_ms`, Unix time: nothing long after its time, nothing dropped before it.
///
/// # Errors
/// The first such value.
pub fn check_copies(copies: &[Copy], now_ms: u64, terms: &Terms) -> Result<(), Violation> {
    for copy in copies {
        for (key, record) in &copy.records {
            let cell = Cell::decode(record).map_err(|error| Violation::new("expiry", error.to_string()))?;
            let wrong = cell.siblings.iter().find_map(|sibling| wrong(sibling, now_ms, terms));
            if let Some(why) = wrong {
                let (key, bucket) = (String::from_utf8_lossy(key), copy.bucket);
                let story = format!("{bucket}/{key} on host {} at {now_ms} {why}: {cell:?}", copy.host);
                return Err(Violation::new("expiry", story));
            }
        }
    }
    Ok(())
}

fn wrong(sibling: &Sibling<'_>, now_ms: u64, terms: &Terms) -> Option<&'static str> {
    let (skew_ms, late_ms) = (terms.skew_ms, terms.late_ms);
    match (&sibling.content, sibling.expires_at) {
        (Content::Register(_), Some(at)) if at + SWEEP_MS + skew_ms + late_ms < now_ms => {
            Some("is held after its time")
        }
        (Content::Expired, Some(at)) if at > now_ms + skew_ms => Some("was dropped before its time"),
        (Content::Expired, None) => Some("was dropped though it lasts"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use slipring_model::{PartitionId, Timestamp};

    use super::*;
    use crate::check::samples::{acked, get, operation};
    use crate::history::BucketKind;

    #[test]
    fn a_value_read_after_its_time_is_found_even_in_a_cache() {
        let action = Action::Set { value: "a".to_owned(), expires_at: Some(100) };
        let is_kept = |start, skew_ms| {
            let mut history = [operation(action.clone(), 0, acked(10)), get(Some("a"), start, 120)];
            history.iter_mut().for_each(|operation| operation.bucket = BucketKind::Cache);
            check(&history, &Terms { skew_ms, ..Terms::default() }).is_ok()
        };
        assert!(is_kept(99, 0), "the read may have taken place before");
        assert!(!is_kept(100, 0) && !is_kept(109, 9));
        assert!(is_kept(109, 10));
        let history = [operation(action, 0, acked(10)), get(Some("a"), 109, 120)];
        assert!(check(&history, &Terms { skew_ms: 9, late_ms: 1, ..Terms::default() }).is_ok());
    }

    fn is_right(content: Content<'static>, expires_at: Option<u64>, now_ms: u64) -> bool {
        let (dot, stamp) = (slipring_model::Dot::default(), Timestamp(1));
        let sibling = Sibling { dot, stamp, expires_at, content, baselines: Vec::new() };
        let mut record = Vec::new();
        Cell { siblings: vec![sibling], context: [dot].into_iter().collect() }.encode(&mut record);
        let records = [(b"k".to_vec(), record)].into_iter().collect();
        let copy = Copy { host: 0, bucket: "fsync", partition: PartitionId(0), records };
        check_copies(&[copy], now_ms, &Terms { skew_ms: 10, ..Terms::default() }).is_ok()
    }

    #[test]
    fn bytes_that_stay_long_after_their_time_are_found() {
        let register = || Content::Register(b"a".as_slice().into());
        assert!(is_right(register(), Some(100), 100 + SWEEP_MS + 10));
        assert!(!is_right(register(), Some(100), 101 + SWEEP_MS + 10));
        assert!(is_right(register(), None, u64::MAX));
    }

    #[test]
    fn bytes_dropped_before_their_time_are_found() {
        assert!(is_right(Content::Expired, Some(100), 90));
        assert!(!is_right(Content::Expired, Some(100), 89));
        assert!(!is_right(Content::Expired, None, 100));
    }
}
