//! One address on one source, kept there by a task until it is withdrawn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::source::{Source, Withdrawn};

/// A task that keeps an address announced.
pub(crate) struct Announcement {
    address: String,
    withdraw: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Announcement {
    /// Begins to announce; `name` is the source's in logs.
    pub(crate) fn begin(name: &str, source: Arc<dyn Source>, address: &str) -> Self {
        let (withdraw, withdrawn) = watch::channel(false);
        let (name, address) = (name.to_owned(), address.to_owned());
        let announced = address.clone();
        let task =
            tokio::spawn(
                async move { run(&name, source.as_ref(), &address, &Withdrawn::new(withdrawn)).await },
            );
        Self { address: announced, withdraw, task }
    }

    /// Whether this is the address that it announces.
    pub(crate) fn is_of(&self, address: &str) -> bool {
        self.address == address
    }

    /// Withdraws the address; returns when that is done, or cannot be.
    pub(crate) async fn end(mut self) {
        self.withdraw.send_replace(true);
        // A task that panicked has withdrawn as much as it can.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(name: &str, source: &dyn Source, address: &str, withdrawn: &Withdrawn) {
    let mut backoff = Backoff::default();
    let was_kept = AtomicBool::new(false);
    loop {
        let kept = || {
            if !was_kept.swap(true, Ordering::Relaxed) {
                tracing::info!(source = name, address, "announced");
            }
        };
        let began = Instant::now();
        let Err(failure) = source.announce(address, withdrawn.clone(), &kept).await else { return };
        if was_kept.swap(false, Ordering::Relaxed) {
            backoff.went_well(began.elapsed());
        }
        let rest = backoff.next(failure.retry_after);
        tracing::warn!(source = name, address, %failure, ?rest, "not announced at present; trying again later");
        let mut waiting = withdrawn.clone();
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = waiting.wait() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::BoxFuture;
    use parking_lot::Mutex;

    use super::*;
    use crate::source::{Failure, Found, Kept};

    /// Fails twice, then holds the address.
    #[derive(Default)]
    struct Board {
        attempts: Mutex<u32>,
        held: Mutex<Vec<String>>,
    }

    impl Source for Board {
        fn follow<'a>(&'a self, _: &'a Found) -> BoxFuture<'a, Failure> {
            Box::pin(std::future::pending())
        }

        fn announce<'a>(
            &'a self,
            address: &'a str,
            mut withdrawn: Withdrawn,
            kept: &'a Kept<'a>,
        ) -> BoxFuture<'a, Result<(), Failure>> {
            Box::pin(async move {
                *self.attempts.lock() += 1;
                if *self.attempts.lock() < 3 {
                    return Err(Failure::say("not yet"));
                }
                self.held.lock().push(address.to_owned());
                kept();
                withdrawn.wait().await;
                self.held.lock().clear();
                Ok(())
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_announced_after_failures_and_withdrawn_at_the_end() {
        let board = Arc::new(Board::default());
        let announcement = Announcement::begin("board", Arc::clone(&board) as Arc<dyn Source>, "a:1");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(*board.held.lock(), ["a:1"]);
        announcement.end().await;
        assert!(board.held.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_is_away_does_not_hold_up_the_end() {
        let board = Arc::new(Board::default());
        let announcement = Announcement::begin("board", Arc::clone(&board) as Arc<dyn Source>, "a:1");
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(*board.attempts.lock(), 1);
        announcement.end().await;
        assert_eq!(*board.attempts.lock(), 1);
    }
}
