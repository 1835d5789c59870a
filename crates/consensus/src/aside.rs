//! Waiting for a disk, or working for long, without holding up the other tasks of the thread.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs what waits for a disk, or works for more than some milliseconds, while other threads take over this one's tasks. In a runtime of one thread, as
/// simulations use, it runs as it is.
pub fn aside<R>(work: impl FnOnce() -> R) -> R {
    let has_others =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if has_others { tokio::task::block_in_place(work) } else { work() }
}
