//! A source that fails, recovers and is left alone, on simulated time.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::BoxFuture;

use super::*;
use crate::source::Failure;

/// Publishes how often it was begun, from the third time on, and fails at once before.
#[derive(Default)]
struct Moody {
    begun: AtomicUsize,
    holds: bool,
}

impl Source for Moody {
    fn follow<'a>(&'a self, found: &'a Found) -> BoxFuture<'a, Failure> {
        Box::pin(async move {
            let begun = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if begun < 3 {
                return Failure::say("not yet");
            }
            found.publish([format!("a:{begun}")]);
            if self.holds {
                std::future::pending::<()>().await;
            }
            Failure::say("gone again")
        })
    }
}

fn follower(holds: bool) -> (Arc<Moody>, Follower) {
    let source = Arc::new(Moody { holds, ..Moody::default() });
    (Arc::clone(&source), Follower::new("moody", source))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_contacted_before_the_first_question_and_failures_are_retried() {
    let (source, follower) = follower(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(source.begun.load(Ordering::SeqCst), 0);
    assert!(follower.candidates().await.is_empty(), "it has failed for now");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(follower.candidates().await, ["a:3"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_heard_stays_known_while_the_source_is_away() {
    let (source, follower) = follower(false);
    follower.candidates().await;
    let before = source.begun.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = source.begun.load(Ordering::SeqCst);
    assert_eq!(follower.candidates().await, [format!("a:{after}")]);
    // Each attempt was heard, so each rest is a first one: about 150 ms.
    assert!((40..=110).contains(&(after - before)), "{before} {after}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_nobody_asks_is_left_alone_until_somebody_does() {
    let (source, follower) = follower(false);
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
