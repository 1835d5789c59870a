//! Waiting for something to become so, unless the whole run is given up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Between two looks at something that is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

static IS_INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Gives up every run of this process: each ends soon, with an error, and leaves nothing behind.
pub fn interrupt() {
    IS_INTERRUPTED.store(true, Ordering::Relaxed);
}

pub(crate) fn is_interrupted() -> bool {
    IS_INTERRUPTED.load(Ordering::Relaxed)
}

/// Rests between two looks, at most so long.
///
/// # Errors
/// The run was given up.
pub(crate) fn rest(at_most: Duration) -> anyhow::Result<()> {
    std::thread::sleep(at_most.min(LOOK));
    if is_interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Looks again and again until something is so; `false` when it is not in time.
pub(crate) fn wait(
    timeout: Duration,
    mut is_so: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        if is_so()? {
            return Ok(true);
        }
        rest(LOOK)?;
    }
    Ok(false)
}
