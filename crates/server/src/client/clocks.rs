//! What `status` says of the nodes' clocks.

use anyhow::Result;
use slipring_node::{NodeStatus, Status};

use crate::output::say;

/// A clock that is further off the agreed time is named, in milliseconds.
const OFF_MS: u64 = 500;

/// How far a node's clock is off, as a cell of the table.
pub(super) fn ahead(node: &NodeStatus) -> String {
    match node.clock_ahead_ms {
        None => "?".to_owned(),
        Some(by_ms) if is_off(by_ms) => format!("{} OFF", seconds(by_ms)),
        Some(by_ms) => seconds(by_ms),
    }
}

/// Names the nodes whose clocks are off.
pub(super) fn tell(status: &Status) -> Result<()> {
    for node in &status.nodes {
        if let Some(by_ms) = node.clock_ahead_ms.filter(|by_ms| is_off(*by_ms)) {
            say!(
                "the clock of node {} is {} off the agreed time: mend its time service (NTP)",
                node.id.short(),
                seconds(by_ms)
            );
        }
    }
    if !status.clocks_agree {
        say!("no majority of the nodes' clocks agrees: writes with a time to live are refused");
    }
    Ok(())
}

fn is_off(by_ms: i64) -> bool {
    by_ms.unsigned_abs() > OFF_MS
}

fn seconds(by_ms: i64) -> String {
    format!("{:+.3} s", by_ms as f64 / 1_000.0)
}
