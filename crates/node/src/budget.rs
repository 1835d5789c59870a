//! The budget of background work: moving data, repair, scrub and expiry have one turn among them, and while clients
//! are served each short piece of work is followed by a rest, so that together they take a set share of the
//! machine's processors, though never more than one of them.
//!
//! The rest is measured in the piece's own time, so work that others slow down rests longer by itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Records that one piece of background work reads or writes: some hundred microseconds.
pub(crate) const PIECE_RECORDS: usize = 32;
/// How long after a request clients still count as served.
const QUIET_AFTER: Duration = Duration::from_millis(250);
/// Shorter rests are put together: timers are no finer.
const LEAST_REST: Duration = Duration::from_millis(1);
/// What is owed beyond this is forgiven: one slow piece must not stop all.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// Who has the turn, and what it owes.
pub(crate) struct Budget {
    /// Percent of one processor, 1 to 100.
    share: u32,
    turn: Mutex<Account>,
    has_served: AtomicBool,
}

#[derive(Default)]
struct Account {
    owed: Duration,
    last_served: Option<Instant>,
}

impl Budget {
    /// A budget of `share` percent of all processors that this process may use.
    pub(crate) fn of_this_machine(share: u32) -> Self {
        Self::new(share, std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn new(share: u32, processors: usize) -> Self {
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        let share = share.saturating_mul(processors).clamp(1, 100);
        Self { share, turn: Mutex::default(), has_served: AtomicBool::new(false) }
    }

    /// How long work of this time takes while clients are served all along.
    pub(crate) fn stretched(&self, work: Duration) -> Duration {
        work * 100 / self.share
    }

    /// A client's request, or a part of one, is served here.
    pub(crate) fn serves(&self) {
        // Most find it set: only who changes it takes the line from other processors.
        if !self.has_served.load(Ordering::Relaxed) {
            self.has_served.store(true, Ordering::Relaxed);
        }
    }

    /// Does one short piece of work when it is its turn, and rests if clients are being served.
    pub(crate) async fn run<R>(&self, piece: impl FnOnce() -> R) -> R {
        let mut account = self.turn.lock().await;
        let began = Instant::now();
        let result = piece();
        if let Some(rest) = account.rest(self, began, Instant::now()) {
            tokio::time::sleep(rest).await;
        } else {
            tokio::task::yield_now().await;
        }
        result
    }
}

impl Account {
    /// How long to rest after a piece.
    fn rest(&mut self, budget: &Budget, began: Instant, ended: Instant) -> Option<Duration> {
        if budget.has_served.swap(false, Ordering::Relaxed) {
            self.last_served = Some(ended);
        }
        if self.last_served.is_none_or(|served| ended - served >= QUIET_AFTER) {
            self.owed = Duration::ZERO;
            return None;
        }
        self.owed += (ended - began) * (100 - budget.share) / budget.share;
        let is_due = self.owed >= LEAST_REST;
        is_due.then(|| std::mem::take(&mut self.owed).min(LONGEST_REST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_micros(600);

    fn rests(budget: &Budget, account: &mut Account, at: Instant) -> Option<Duration> {
        account.rest(budget, at, at + PIECE)
    }

    #[test]
    fn nobody_rests_while_no_client_is_served() {
        let (budget, mut account) = (Budget::new(10, 2), Account::default());
        let now = Instant::now();
        assert_eq!(rests(&budget, &mut account, now), None);
        budget.serves();
        assert_eq!(rests(&budget, &mut account, now), Some(PIECE * 4));
        let soon = now + QUIET_AFTER / 2;
        assert_eq!(rests(&budget, &mut account, soon), Some(PIECE * 4), "they may come back at once");
        assert_eq!(rests(&budget, &mut account, now + QUIET_AFTER + PIECE), None);
    }

    #[test]
    fn short_rests_are_put_together_and_none_is_endless() {
        let (budget, mut account) = (Budget::new(60, 1), Account::default());
        let now = Instant::now();
        budget.serves();
        let each = PIECE * 40 / 60;
        assert_eq!(rests(&budget, &mut account, now), None);
        assert_eq!(rests(&budget, &mut account, now), None);
        assert_eq!(rests(&budget, &mut account, now), Some(each * 3));
        let slow = Budget::new(1, 1);
        slow.serves();
        let mut owing = Account::default();
        assert_eq!(owing.rest(&slow, now, now + QUIET_AFTER), Some(LONGEST_REST));
    }

    #[test]
    fn a_share_is_of_all_processors_and_at_most_one_of_them() {
        let shares = [(1, 1), (1, 16), (25, 2), (1, 1024), (100, usize::MAX), (1, 0)];
        let percent = shares.map(|(share, processors)| Budget::new(share, processors).share);
        assert_eq!(percent, [1, 16, 50, 100, 100, 1]);
        assert_eq!(Budget::new(1, 2).stretched(Duration::from_secs(9)), Duration::from_secs(450));
    }

    #[tokio::test]
    async fn pieces_take_turns() {
        let budget = Budget::new(50, 1);
        let order = parking_lot::Mutex::new(Vec::new());
        let work = |name: &'static str| {
            let (budget, order) = (&budget, &order);
            async move {
                for _ in 0..2 {
                    budget.run(|| order.lock().push(name)).await;
                }
            }
        };
        tokio::join!(work("move"), work("repair"));
        assert_eq!(*order.lock(), ["move", "repair", "move", "repair"]);
    }
}
