//! The budget of background work: while clients are served each short piece of work is followed by a rest, so that all
//! together takes a set share of the machine's processors, though never more than one of them.
//!
//! There are three lanes, each with one turn. What brings back copies that are missing or behind has its own: its rests
//! have a limit that falls the longer it goes on, so it ends however busy clients are. Routine upkeep has the other, and
//! gives way while this node recovers: then it rests as long as it ever does. Dropping what has expired has the third: its
//! share grows with what waits to be dropped, up to a whole processor when that is a tenth of all keys.
//!
//! A rest is measured in the piece's own time, so work that others slow down rests longer by itself; the limits keep
//! that from stopping it.

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
/// What upkeep owes beyond this is forgiven: one slow piece must not stop all.
const LONGEST_REST: Duration = Duration::from_millis(250);
/// The longest rest of a recovery that has just begun, halved as often as it has gone on for the time below, down to the
/// least: at least 50 pieces a second, and at most 400 by right.
const RECOVERY_REST: (Duration, Duration) = (Duration::from_millis(20), Duration::from_micros(2_500));
const HALVED_AFTER: Duration = Duration::from_secs(5);
/// The longest rest after a piece that a peer waits for.
const ASKED_REST: Duration = Duration::from_millis(10);
/// The longest rest after a piece of dropping.
const EXPIRY_REST: Duration = Duration::from_millis(20);
/// When so many percent of the keys wait to be dropped, dropping takes a whole processor.
const BACKLOG_PERCENT_MAX: u64 = 10;
/// A recovery that rested for so long has ended.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// What a piece of background work is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// This node gets back copies that it lacks, or that are behind.
    Recovery,
    /// A peer waits for it, perhaps to recover.
    Asked,
    /// What can wait: scrub, periodic exchanges, planned moves, removing what has moved away.
    Upkeep,
    /// Values are dropped that have expired, while so many wait for it.
    Expiry(Backlog),
}

/// What waits to be dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Values that have expired.
    pub(crate) due: u64,
    /// All keys, those among them.
    pub(crate) kept: u64,
}

impl Backlog {
    /// The share of one processor, in percent, that dropping takes when it takes `least` at rest.
    fn share(self, least: u32) -> u32 {
        let most = self.kept.saturating_mul(BACKLOG_PERCENT_MAX) / 100;
        let part = u64::from(100 - least).saturating_mul(self.due.min(most)).checked_div(most);
        // Where there are few keys, any backlog is the most.
        let more = part.unwrap_or(u64::from(100 - least) * self.due.min(1));
        least + u32::try_from(more).unwrap_or(0)
    }
}

/// Who has the turns, and what each lane owes.
pub(crate) struct Budget {
    /// Percent of one processor, 1 to 100.
    share: u32,
    urgent: Mutex<Account>,
    upkeep: Mutex<Account>,
    expiry: Mutex<Account>,
    has_served: AtomicBool,
    seen: parking_lot::Mutex<Seen>,
}

/// What all lanes know.
#[derive(Default)]
struct Seen {
    last_served: Option<Instant>,
    /// The recovery of this node that goes on: when it began and when its last piece ended.
    recovery: Option<(Instant, Instant)>,
}

#[derive(Default)]
struct Account {
    owed: Duration,
}

impl Budget {
    /// A budget of `share` percent of all processors that this process may use.
    pub(crate) fn of_this_machine(share: u32) -> Self {
        Self::new(share, std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn new(share: u32, processors: usize) -> Self {
        let processors = u32::try_from(processors).unwrap_or(u32::MAX);
        let share = share.saturating_mul(processors).clamp(1, 100);
        Self {
            share,
            urgent: Mutex::default(),
            upkeep: Mutex::default(),
            expiry: Mutex::default(),
            has_served: AtomicBool::new(false),
            seen: parking_lot::Mutex::default(),
        }
    }

    /// How long work of this time takes at most while clients are served all along.
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
    pub(crate) async fn run<R>(&self, class: Class, piece: impl FnOnce() -> R) -> R {
        let lane = match class {
            Class::Recovery | Class::Asked => &self.urgent,
            Class::Upkeep => &self.upkeep,
            Class::Expiry(_) => &self.expiry,
        };
        let mut account = lane.lock().await;
        let began = Instant::now();
        let result = piece();
        if let Some(rest) = self.rest(&mut account, class, (began, Instant::now())) {
            tokio::time::sleep(rest).await;
        } else {
            tokio::task::yield_now().await;
        }
        result
    }

    /// How long to rest after a piece that began and ended then.
    fn rest(
        &self,
        account: &mut Account,
        class: Class,
        (began, ended): (Instant, Instant),
    ) -> Option<Duration> {
        let mut seen = self.seen.lock();
        if self.has_served.swap(false, Ordering::Relaxed) {
            seen.last_served = Some(ended);
        }
        if class == Class::Recovery {
            seen.recovers((began, ended));
        }
        if seen.last_served.is_none_or(|served| ended - served >= QUIET_AFTER) {
            account.owed = Duration::ZERO;
            return None;
        }
        let share = match class {
            Class::Expiry(backlog) => backlog.share(self.share),
            Class::Recovery | Class::Asked | Class::Upkeep => self.share,
        };
        account.owed += (ended - began) * (100 - share) / share;
        let longest = match class {
            Class::Recovery => seen.longest_rest(ended),
            Class::Asked => ASKED_REST,
            Class::Upkeep => LONGEST_REST,
            Class::Expiry(_) => EXPIRY_REST,
        };
        if class == Class::Upkeep && seen.is_recovering(ended) {
            account.owed = longest;
        }
        let is_due = account.owed >= LEAST_REST;
        is_due.then(|| std::mem::take(&mut account.owed).min(longest))
    }
}

impl Seen {
    /// A piece of a recovery began and ended then.
    fn recovers(&mut self, (began, ended): (Instant, Instant)) {
        let since = self.recovery.filter(|(_, last)| began.saturating_duration_since(*last) < OVER_AFTER);
        self.recovery = Some((since.map_or(began, |(since, _)| since), ended));
    }

    fn is_recovering(&self, now: Instant) -> bool {
        self.recovery.is_some_and(|(_, last)| now.saturating_duration_since(last) < OVER_AFTER)
    }

    fn longest_rest(&self, now: Instant) -> Duration {
        let waited = self.recovery.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(since));
        let halvings = u32::try_from(waited.as_secs() / HALVED_AFTER.as_secs()).unwrap_or(u32::MAX);
        let (first, least) = RECOVERY_REST;
        first.checked_div(1_u32.checked_shl(halvings).unwrap_or(u32::MAX)).unwrap_or(least).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_micros(600);
    const CLASSES: [Class; 3] = [Class::Recovery, Class::Asked, Class::Upkeep];

    fn rests(budget: &Budget, account: &mut Account, at: Instant) -> Option<Duration> {
        budget.rest(account, Class::Upkeep, (at, at + PIECE))
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
        for class in CLASSES {
            let late = now + QUIET_AFTER + PIECE;
            assert_eq!(budget.rest(&mut account, class, (late, late + PIECE)), None);
        }
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
        let longest =
            CLASSES.map(|class| slow.rest(&mut Account::default(), class, (now, now + QUIET_AFTER)));
        assert_eq!(longest, [RECOVERY_REST.0, ASKED_REST, LONGEST_REST].map(Some));
    }

    #[test]
    fn a_recovery_rests_the_less_the_longer_it_goes_on() {
        let (budget, mut account) = (Budget::new(1, 1), Account::default());
        let (began, slow) = (Instant::now(), Duration::from_millis(50));
        let mut at = |ms: u64| {
            budget.serves();
            let now = began + Duration::from_millis(ms);
            budget.rest(&mut account, Class::Recovery, (now, now + slow)).map(|rest| rest.as_micros())
        };
        let mut limits = Vec::new();
        for ms in (0..40_000).step_by(500) {
            let limit = at(ms);
            if limits.last() != Some(&limit) {
                limits.push(limit);
            }
        }
        assert_eq!(limits, [Some(20_000), Some(10_000), Some(5_000), Some(2_500)]);
        assert_eq!(at(40_400), Some(2_500), "it goes on");
        assert_eq!(at(41_460), Some(20_000), "it begins again after a second without a piece");
    }

    #[test]
    fn upkeep_gives_way_to_a_recovery_of_this_node_alone() {
        let budget = Budget::new(50, 1);
        let now = Instant::now();
        let upkeep = |now| {
            budget.serves();
            rests(&budget, &mut Account::default(), now)
        };
        budget.serves();
        budget.rest(&mut Account::default(), Class::Asked, (now, now + PIECE));
        assert_eq!(upkeep(now), None, "it is owed less than the least rest");
        budget.serves();
        budget.rest(&mut Account::default(), Class::Recovery, (now, now + PIECE));
        assert_eq!(upkeep(now), Some(LONGEST_REST));
        assert_eq!(upkeep(now + OVER_AFTER - PIECE), Some(LONGEST_REST));
        assert_eq!(upkeep(now + OVER_AFTER), None, "it is over");
    }

    #[test]
    fn share_of_expiry_grows_with_its_backlog_up_to_a_processor() {
        let share = |due, kept| Backlog { due, kept }.share(2);
        let shares = [(0, 1_000), (50, 1_000), (99, 1_000), (100, 1_000), (101, 1_000), (1_000, 1_000)];
        assert_eq!(shares.map(|(due, kept)| share(due, kept)), [2, 51, 99, 100, 100, 100]);
        assert_eq!([share(0, 0), share(0, 9), share(1, 9), share(u64::MAX, u64::MAX)], [2, 2, 100, 100]);
        let (budget, now) = (Budget::new(2, 1), Instant::now());
        let rest = |due| {
            budget.serves();
            let class = Class::Expiry(Backlog { due, kept: 1_000 });
            budget.rest(&mut Account::default(), class, (now, now + PIECE))
        };
        assert_eq!((rest(0), rest(100)), (Some(EXPIRY_REST), None));
        assert_eq!(rest(60), None, "it is owed less than the least rest");
        assert_eq!(rest(10), Some(PIECE * 89 / 11));
    }

    #[test]
    fn a_share_is_of_all_processors_and_at_most_one_of_them() {
        let shares = [(1, 1), (1, 16), (25, 2), (1, 1024), (100, usize::MAX), (1, 0)];
        let percent = shares.map(|(share, processors)| Budget::new(share, processors).share);
        assert_eq!(percent, [1, 16, 50, 100, 100, 1]);
        assert_eq!(Budget::new(1, 2).stretched(Duration::from_secs(9)), Duration::from_secs(450));
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_take_turns_and_a_recovery_waits_for_no_upkeep() {
        let budget = Budget::new(50, 1);
        let order = parking_lot::Mutex::new(Vec::new());
        let work = |class: Class, name: &'static str| {
            let (budget, order) = (&budget, &order);
            async move {
                for _ in 0..2 {
                    budget.serves();
                    budget.run(class, || order.lock().push(name)).await;
                }
            }
        };
        let (upkeep, recovery) = (Class::Upkeep, Class::Recovery);
        tokio::join!(
            work(upkeep, "scrub"),
            work(upkeep, "sweep"),
            work(recovery, "page"),
            work(recovery, "root")
        );
        // The recovery begins after the first piece of upkeep, and ends during the rest after the second.
        let order = order.lock();
        let recovery_pieces = order.iter().take(6).filter(|name| ["page", "root"].contains(name)).count();
        assert_eq!((order.len(), recovery_pieces), (8, 4), "{order:?}");
    }
}
