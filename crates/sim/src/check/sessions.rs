//! Sessions: a read never goes back behind what had been read or acknowledged before it began.
//!
//! Strict majorities write back what they read before they answer, so this holds between clients, too; a breach
//! is told by the name of the guarantee it breaks. A read goes back when every write that can be what it saw is
//! certainly older than one that was known before. Where hosts have lost unsynced writes only acknowledged
//! ones count as known: a read may show a value that is lost before it is synced.
//!
//! Source: Terry et al., "Session Guarantees for Weakly Consistent Replicated Data" (1994); Viotti and
//! Vukolić, "Consistency in Non-Transactional Distributed Storage Systems" (2016).

use crate::history::Operation;
use crate::run::Violation;

use super::versions::{Version, Versions};
use super::{Fresh, Terms, by_key};

/// A version that was known at a time: an acknowledged write, or one that a read saw.
#[derive(Clone, Copy)]
struct Known<'h> {
    by: &'h Operation,
    version: Version<'h>,
    at: u64,
}

/// Checks a history.
///
/// # Errors
/// The first read that goes back.
pub fn check(operations: &[Operation], terms: &Terms) -> Result<(), Violation> {
    for ((bucket, _), operations) in by_key(operations) {
        if terms.fresh(bucket) != Fresh::Always {
            continue;
        }
        let versions = Versions::new(&operations, terms.skew_ms);
        let known = known(&operations, &versions, terms.hosts_that_lost_power == 0);
        for read in &operations {
            if let Some(story) = gone_back(read, &versions, &known) {
                return Err(Violation::new("sessions", story));
            }
        }
    }
    Ok(())
}

fn known<'h>(operations: &[&'h Operation], versions: &Versions<'h>, reads_count: bool) -> Vec<Known<'h>> {
    let written = versions.iter().filter_map(|version| {
        Some(Known { by: version.write, version: *version, at: version.write.acked_at()? })
    });
    let read = operations.iter().filter(|_| reads_count).filter_map(|read| {
        let (seen, at) = read.seen()?;
        Some(Known { by: read, version: *versions.of(seen?)?, at })
    });
    written.chain(read).collect()
}

/// How a read has gone back, if it has.
fn gone_back(read: &Operation, versions: &Versions<'_>, known: &[Known<'_>]) -> Option<String> {
    let (seen, at) = read.seen()?;
    let explanations: Vec<&Version<'_>> = versions.explanations(seen, at).collect();
    let is_behind = |known: &&Known<'_>| {
        known.at < read.start_ms
            && explanations.iter().all(|version| versions.is_older(version, &known.version))
    };
    // The reader's own knowledge first: it names the guarantee of a session.
    let breached = known.iter().filter(is_behind).max_by_key(|known| known.by.client == read.client)?;
    let guarantee = guarantee(read, breached, &explanations, known);
    let (read, by, write) = (read.describe(), breached.by.describe(), breached.version.write.describe());
    Some(format!("{guarantee}: {read}, though {by}, which knew of: {write}"))
}

fn guarantee(
    read: &Operation,
    breached: &Known<'_>,
    explanations: &[&Version<'_>],
    known: &[Known<'_>],
) -> &'static str {
    let newer = breached.version.write;
    let had_seen = |older: &&&Version<'_>| {
        known.iter().any(|known| {
            known.by.client == newer.client
                && known.at < newer.start_ms
                && std::ptr::eq(known.version.write, older.write)
        })
    };
    let is_own = breached.by.client == read.client;
    match (is_own, std::ptr::eq(breached.by, newer)) {
        (true, true) => "read your writes",
        (true, false) => "monotonic reads",
        (false, _) if explanations.iter().any(|older| older.write.client == newer.client) => {
            "monotonic writes"
        }
        (false, _) if explanations.iter().any(|older| had_seen(&older)) => "writes follow reads",
        (false, _) => "reads of several clients",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::check::samples::{acked, by, get, operation, set, unknown};
    use crate::history::{Action, BucketKind};

    const TERMS: Terms =
        Terms { skew_ms: 0, late_ms: 0, hosts_that_lost_power: 0, is_thin: false, bereft: BTreeSet::new() };

    fn broken(operations: &[Operation]) -> Option<String> {
        let violation = check(operations, &TERMS).err()?;
        violation.story.split(':').next().map(str::to_owned)
    }

    #[test]
    fn a_client_that_misses_its_own_write_is_found() {
        let history = [by("x", set("a", 0, acked(10))), by("x", set("b", 20, acked(30)))];
        let reads = |value| broken(&[&history[..], &[by("x", get(value, 40, 50))]].concat());
        assert_eq!(reads(Some("b")), None);
        assert_eq!(reads(Some("a")), Some("read your writes".to_owned()));
        assert_eq!(reads(None), Some("read your writes".to_owned()));
    }

    #[test]
    fn a_client_that_reads_back_in_time_is_found_though_the_write_was_never_acknowledged() {
        let writes = [by("x", set("a", 0, acked(10))), by("y", set("b", 20, unknown(30)))];
        let reads = |first, second| {
            broken(&[&writes[..], &[by("z", get(first, 40, 50)), by("z", get(second, 60, 70))]].concat())
        };
        assert_eq!(reads(Some("a"), Some("b")), None, "the unknown write may come late");
        assert_eq!(reads(Some("b"), Some("b")), None);
        assert_eq!(reads(Some("b"), Some("a")), Some("monotonic reads".to_owned()));
    }

    #[test]
    fn the_writes_of_one_client_that_others_see_out_of_order_are_found() {
        let writes = [by("x", set("a", 0, acked(10))), by("x", set("b", 20, unknown(30)))];
        let reads = [by("y", get(Some("b"), 40, 50)), by("z", get(Some("a"), 60, 70))];
        assert_eq!(broken(&[&writes[..], &reads].concat()), Some("monotonic writes".to_owned()));
    }

    #[test]
    fn a_write_that_is_seen_before_what_its_writer_had_read_is_found() {
        let history = [
            by("w", set("a", 0, unknown(10))),
            by("x", get(Some("a"), 20, 30)),
            by("x", set("b", 40, unknown(50))),
            by("y", get(Some("b"), 60, 70)),
            by("z", get(Some("a"), 80, 90)),
        ];
        assert_eq!(broken(&history), Some("writes follow reads".to_owned()));
        assert_eq!(broken(&history[..4]), None);
    }

    #[test]
    fn what_is_concurrent_within_the_skew_or_has_expired_raises_no_alarm() {
        let concurrent = [by("x", set("a", 0, acked(30))), by("x", set("b", 20, acked(40)))];
        let back = [by("z", get(Some("b"), 50, 60)), by("z", get(Some("a"), 70, 80))];
        assert_eq!(broken(&[&concurrent[..], &back].concat()), None);
        let ordered = [set("a", 0, acked(10)), set("b", 20, acked(30)), get(Some("a"), 40, 50)];
        assert!(check(&ordered, &Terms { skew_ms: 1_000, ..TERMS }).is_err(), "both were acknowledged");
        let seen = [set("a", 0, unknown(10)), get(Some("a"), 5, 10), set("b", 20, acked(30))];
        let ordered = [&seen[..], &[get(Some("a"), 40, 50)]].concat();
        assert!(check(&ordered, &Terms { skew_ms: 9, ..TERMS }).is_err());
        assert!(check(&ordered, &Terms { skew_ms: 10, ..TERMS }).is_ok());
        let mortal = Action::Set { value: "a".to_owned(), expires_at: Some(100) };
        let mortal = operation(mortal, 0, acked(10));
        assert_eq!(broken(&[mortal.clone(), get(Some("a"), 20, 30), get(None, 90, 100)]), None);
        assert!(broken(&[mortal, get(Some("a"), 20, 30), get(None, 90, 99)]).is_some());
    }

    #[test]
    fn a_value_that_was_only_read_may_be_lost_with_the_power() {
        let mut history = vec![set("a", 0, acked(10)), set("b", 20, unknown(30))];
        history.extend([get(Some("b"), 40, 50), get(Some("a"), 60, 70)]);
        assert!(check(&history, &TERMS).is_err());
        assert!(check(&history, &Terms { hosts_that_lost_power: 3, ..TERMS }).is_ok());
        history.iter_mut().for_each(|operation| operation.bucket = BucketKind::Cache);
        assert!(check(&history, &TERMS).is_ok(), "caches promise nothing");
    }
}
