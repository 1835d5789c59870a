//! A source that fails, recovers and is left alone, on simulated time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;

use super::*;
use crate::source::Failure;

/// Publishes how often it was begun, from the third time on, and fails at once before.
#[derive(Default)]
struct Moody {
    begun: AtomicUsize,
    /// How long it holds once it has published.
    holds: Duration,
    asks: Option<Duration>,
}

impl Source for Moody {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async move {
            let begun = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if begun < 3 {
                return Failure::say("not yet");
            }
            found.publish([format!("a:{begun}")]);
            tokio::time::sleep(self.holds).await;
            Failure::say("gone again").asking(self.asks)
        })
    }
}

const FOREVER: Duration = Duration::from_secs(100_000);

fn follower(holds: Duration, asks: Option<Duration>) -> (Arc<Moody>, Follower) {
    let source = Arc::new(Moody { holds, asks, ..Moody::default() });
    (Arc::clone(&source), Follower::new("moody", source))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_contacted_before_the_first_question_and_failures_are_retried() {
    let (source, follower) = follower(FOREVER, None);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(source.begun.load(Ordering::SeqCst), 0);
    assert!(follower.candidates().await.is_empty(), "it has failed for now");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(follower.candidates().await, ["a:3"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_stays_known_while_the_source_is_away() {
    let (source, follower) = follower(Duration::ZERO, None);
    follower.candidates().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let begun = source.begun.load(Ordering::SeqCst);
    assert_eq!(follower.candidates().await, [format!("a:{begun}")]);
}

/// How often a source is begun in a minute, when it holds for so long and then asks for a rest.
async fn begun_in_a_minute(holds: Duration, asks: Option<Duration>) -> usize {
    let (source, follower) = follower(holds, asks);
    follower.candidates().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    source.begun.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_answers_and_fails_at_once_is_asked_more_and_more_rarely() {
    // Rests of 0.2, 0.4, ... 10 s, of each up to a half left out; were each a first one, there would be hundreds.
    let begun = begun_in_a_minute(Duration::ZERO, None).await;
    assert!((9..=17).contains(&begun), "{begun}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_after_long_is_asked_again_soon() {
    // Twice at first, then every 10 s and a moment; were the rests to go on growing, it would be once less.
    let begun = begun_in_a_minute(Duration::from_secs(10), None).await;
    assert_eq!(begun, 8);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_asks_for_a_rest_has_it() {
    let begun = begun_in_a_minute(Duration::ZERO, Some(Duration::from_secs(20))).await;
    assert!((4..=5).contains(&begun), "{begun}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_nobody_asks_is_left_alone_until_somebody_does() {
    let (source, follower) = follower(Duration::ZERO, None);
    follower.candidates().await;
    tokio::time::sleep(IDLE * 2).await;
    let left = source.begun.load(Ordering::SeqCst);
    tokio::time::sleep(IDLE).await;
    assert_eq!(source.begun.load(Ordering::SeqCst), left);
    assert_eq!(follower.candidates().await, [format!("a:{}", left + 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_costs_the_first_question_a_moment_and_no_more() {
    struct Silent;
    impl Source for Silent {
        fn follow<'a>(&'a self, _: &'a Found) -> BoxFuture<'a, Failure> {
            Box::pin(std::future::pending())
        }
    }
    let (follower, began) = (Follower::new("silent", Arc::new(Silent)), Instant::now());
    assert!(follower.candidates().await.is_empty());
    assert_eq!(began.elapsed(), FIRST_ANSWER);
    assert!(follower.candidates().await.is_empty());
    assert_eq!(began.elapsed(), FIRST_ANSWER);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_is_not_waited_for() {
    struct Failing;
    impl Source for Failing {
        fn follow<'a>(&'a self, _: &'a Found) -> BoxFuture<'a, Failure> {
            Box::pin(async { Failure::say("nobody is there") })
        }
    }
    let (follower, began) = (Follower::new("failing", Arc::new(Failing)), Instant::now());
    assert!(follower.candidates().await.is_empty());
    assert_eq!(began.elapsed(), Duration::ZERO);
}
