//! After healing, all replicas hold the same bytes.
//!
//! Source: strong eventual consistency, Shapiro et al. (2011).

use std::collections::BTreeMap;

use slipring_model::{BucketId, Position};
use slipring_storage::Engine;

use super::{Values, Violation, value_of};
use crate::host::Host;

type Cells = BTreeMap<Vec<u8>, Vec<u8>>;

fn cells(host: &Host) -> Cells {
    let mut cells = Cells::new();
    host.disk
        .scan(BucketId(0), Position(0)..=Position(u64::MAX), None, &mut |_, key, cell| {
            cells.insert(key.to_vec(), cell.to_vec());
            true
        })
        .expect("a simulated disk can be read");
    cells
}

/// Whether all hosts hold the same. Every host is a replica of everything here.
pub(crate) fn is_converged(hosts: &[Host]) -> bool {
    let mut all = hosts.iter().map(cells);
    let first = all.next();
    all.all(|cells| Some(&cells) == first.as_ref())
}

/// The values all hosts agree on.
pub(super) fn check(hosts: &[Host]) -> Result<Values, Violation> {
    if !is_converged(hosts) {
        return Err(Violation("replicas hold different cells after healing".to_owned()));
    }
    let cells = hosts.first().map(cells).unwrap_or_default();
    let value = |(key, cell): (Vec<u8>, Vec<u8>)| {
        Some((String::from_utf8_lossy(&key).into_owned(), value_of(&cell)?))
    };
    Ok(cells.into_iter().filter_map(value).collect())
}
