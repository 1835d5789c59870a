//! Asking whether a node may be stopped, and waiting until it may.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use slipring_node::Wholeness;

use crate::output::{note, say};

use super::Client;

/// How often a node is asked.
const INTERVAL: Duration = Duration::from_millis(250);
/// Seconds that are as good as no limit.
const FOREVER: u64 = 10 * 365 * 24 * 3_600;
/// How often people are told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Whether to return at once.
#[derive(clap::Args)]
pub(crate) struct Waiting {
    /// Return when nothing moves and no partition lacks a copy that it could have.
    #[arg(long)]
    pub(super) wait: bool,
    /// With --wait: fail when that takes more seconds than these.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(super) timeout: u64,
}

impl Waiting {
    /// Until when to wait; nothing when this is not to wait at all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wait.then(|| Instant::now() + Duration::from_secs(self.timeout.min(FOREVER)))
    }
}

/// Says whether one node may be stopped, and why not.
pub(super) fn tell(wholeness: &Wholeness) -> anyhow::Result<()> {
    if wholeness.is_whole {
        say!("whole: one node may be stopped");
        return Ok(());
    }
    say!("not whole, so no node should be stopped:");
    for reason in &wholeness.reasons {
        say!("  {reason}");
    }
    Ok(())
}

impl Client {
    /// Says whether one node may be stopped now; waits until one may, if asked to.
    pub(crate) fn ok_to_stop(&self, waiting: &Waiting) -> anyhow::Result<bool> {
        self.wait_until_whole(waiting.deadline())
    }

    /// Says whether the cluster is whole; waits until it is, but not past the deadline.
    pub(super) fn wait_until_whole(&self, deadline: Option<Instant>) -> anyhow::Result<bool> {
        let mut told = Instant::now();
        loop {
            let is_over = deadline.is_none_or(|deadline| Instant::now() >= deadline);
            match self.wholeness() {
                Ok(wholeness) if wholeness.is_whole || is_over => {
                    match self.is_json {
                        true => say!("{}", serde_json::to_string(&wholeness)?),
                        false => tell(&wholeness)?,
                    }
                    return Ok(wholeness.is_whole);
                }
                // A node that has just been started answers soon.
                Err(error) if is_over => return Err(error),
                waited => {
                    if told.elapsed() >= TELL_EVERY {
                        told = Instant::now();
                        let reason = waited.map_or_else(
                            |error| error.to_string(),
                            |wholeness| wholeness.reasons.into_iter().next().unwrap_or_default(),
                        );
                        note!("slipring: waiting: {reason}");
                    }
                }
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn wholeness(&self) -> anyhow::Result<Wholeness> {
        let answer = self.ask("GET", "/v1/cluster/ok-to-stop", None)?;
        match serde_json::from_slice(&answer.body) {
            Ok(wholeness) => Ok(wholeness),
            Err(_) if answer.status >= 300 => bail!(answer.error()),
            Err(error) => Err(error).context("the node is of another version"),
        }
    }
}
