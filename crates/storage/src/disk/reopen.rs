//! Opening the store again in the running process, once a disk that was full has room, or files are free again.
//!
//! The store takes no more writes after one that failed. Opening it again does what a start of the process does: it
//! reads its journal, so that what had been applied is there, and cuts off what was written in part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use slipring_model::Room;

use super::{DiskEngine, Store};
use crate::Error;
use crate::open_files::are_files_short;

/// How long calls that are under way may take to end.
const CALLS_PATIENCE: Duration = Duration::from_secs(5);
const CALLS_INTERVAL: Duration = Duration::from_millis(1);
/// How long to rest between two openings, at first and at most: the disk may be full again at once.
const RESTS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A store that has lasted so long is opened without delay.
const LASTED: Duration = Duration::from_secs(60);

/// When the store was opened last, and how long to wait for the next time.
#[derive(Default)]
pub(super) struct Retry {
    last: Option<(Instant, Duration)>,
}

impl Retry {
    /// Whether it may be tried now; counts as a try.
    fn begin(&mut self, now: Instant) -> bool {
        let rest = match self.last {
            Some((last, rest)) if now.duration_since(last) < rest => return false,
            Some((last, rest)) if now.duration_since(last) < LASTED => (rest * 2).min(RESTS.1),
            _ => RESTS.0,
        };
        self.last = Some((now, rest));
        true
    }
}

impl DiskEngine {
    /// Opens the store again, when what has stopped it is over; whether it did.
    pub(super) fn reopen_where_stopped(&self) -> Result<bool, Error> {
        let is_over = match self.stopped.load().as_deref() {
            Some(Error::Full { .. }) => self.space.room(0) != Room::Spent,
            Some(Error::NoFiles { .. }) => !are_files_short(),
            _ => false,
        };
        if !is_over || !self.retry.lock().begin(Instant::now()) {
            return Ok(false);
        }
        // The system may tell of room that this user may not take.
        if super::probe(&self.dir).is_err() {
            return Ok(false);
        }
        let mut mark = self.mark.lock();
        if !self.close() {
            return Ok(false);
        }
        self.space.take_was_scarce();
        let (store, batches) = Store::open(&self.dir, &mut mark).inspect_err(|error| {
            if !error.passes() && !matches!(error, Error::InUse { .. }) {
                self.stop(error);
            }
        })?;
        self.batches.store(batches, std::sync::atomic::Ordering::Release);
        self.store.store(Some(Arc::new(store)));
        self.stopped.store(None);
        Ok(true)
    }

    /// Closes the store, once no call is under way; `false` when they take too long.
    fn close(&self) -> bool {
        let Some(mut store) = self.store.swap(None) else { return true };
        let began = Instant::now();
        loop {
            match Arc::try_unwrap(store) {
                Ok(_closed) => return true,
                Err(used) if began.elapsed() > CALLS_PATIENCE => {
                    self.store.store(Some(used));
                    return false;
                }
                Err(used) => store = used,
            }
            std::thread::sleep(CALLS_INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_between_openings_grow_to_a_limit_and_begin_anew() {
        let (mut retry, mut now) = (Retry::default(), Instant::now());
        assert!(retry.begin(now) && !retry.begin(now));
        assert!(!retry.begin(now + RESTS.0 - Duration::from_millis(1)));
        for rest in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            now += Duration::from_millis(rest);
            assert!(!retry.begin(now - Duration::from_millis(1)), "{rest}");
            assert!(retry.begin(now), "{rest}");
        }
        now += LASTED;
        assert!(retry.begin(now) && retry.begin(now + RESTS.0));
    }
}
