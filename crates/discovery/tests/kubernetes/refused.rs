//! Servers that refuse: to the strict, what is missing is told; the busy and the broken are left alone for a while.

use std::time::Duration;

use slipring_discovery::Discovery;
use tokio::time::Instant;

use super::*;
use crate::kube::Refusal;
use crate::kube::request::Asked;
use crate::log::Log;

fn always(asked: Asked, status: u16) -> Refusal {
    Refusal { asked, status, retry_after: None, times: usize::MAX }
}

/// Waits until something was asked so often, while somebody wants to know, and tells the rests between.
async fn rests(kube: &Kube, asked: Asked, times: usize, watcher: &impl Discovery) -> Vec<Duration> {
    let until = Instant::now() + Duration::from_secs(40);
    while kube.asked(asked).len() < times {
        assert!(Instant::now() < until, "asked {} times", kube.asked(asked).len());
        watcher.candidates().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let asked = kube.asked(asked);
    asked.iter().zip(asked.iter().skip(1)).map(|(one, next)| *next - *one).collect()
}

/// Rests that double from 200 ms on, up to half of each left out.
fn assert_growing(rests: &[Duration]) {
    for (index, rest) in rests.iter().enumerate() {
        assert!(*rest >= Duration::from_millis(100 << index), "{rests:?}");
    }
}

#[tokio::test]
async fn an_account_without_a_right_is_told_which_and_served_once_it_has_it() {
    for (asked, verb) in [(Asked::List, "list"), (Asked::Watch, "watch")] {
        let (kube, server) = imitation().await;
        let log = Log::keep();
        server.create("ring-a", "ring", &["10.0.0.1"]).await;
        kube.refuse(always(asked, 403));
        let watcher = server.source("blue", "");
        // What may be listed is known even so.
        let known: &[&str] = if asked == Asked::List { &[] } else { &["10.0.0.1:7946"] };
        assert_eq!(watcher.candidates().await, known);
        log.expect_failure(&[&format!("not allowed to {verb} endpointslices"), "namespace blue", "User"])
            .await;
        kube.relent();
        expect(&watcher, &["10.0.0.1:7946"]).await;
        server.create("ring-b", "ring", &["10.0.0.2"]).await;
        expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
    }
}

#[tokio::test]
async fn a_token_that_nobody_knows_is_told_of() {
    let (kube, server) = imitation().await;
    let log = Log::keep();
    kube.refuse(always(Asked::List, 401));
    let watcher = server.source("blue", "");
    assert!(watcher.candidates().await.is_empty());
    log.expect_failure(&["does not know who asks (401)"]).await;
}

#[tokio::test]
async fn a_server_that_fails_is_asked_more_and_more_rarely() {
    for status in [429, 500, 503] {
        let (kube, server) = imitation().await;
        let log = Log::keep();
        server.create("ring-a", "ring", &["10.0.0.1"]).await;
        kube.refuse(always(Asked::List, status));
        let watcher = server.source("blue", "");
        assert_growing(&rests(&kube, Asked::List, 4, &watcher).await);
        log.expect_failure(&[&format!("({status})")]).await;
        kube.relent();
        expect(&watcher, &["10.0.0.1:7946"]).await;
    }
}

#[tokio::test]
async fn a_server_that_lists_but_lets_nobody_watch_is_asked_more_and_more_rarely() {
    let (kube, server) = imitation().await;
    kube.refuse(always(Asked::Watch, 403));
    assert_growing(&rests(&kube, Asked::List, 4, &server.source("blue", "")).await);
}

#[tokio::test]
async fn a_server_that_asks_for_a_rest_has_it() {
    for asked in [Asked::List, Asked::Watch] {
        let (kube, server) = imitation().await;
        let log = Log::keep();
        server.create("ring-a", "ring", &["10.0.0.1"]).await;
        kube.refuse(Refusal { asked, status: 429, retry_after: Some(2), times: 1 });
        let watcher = server.source("blue", "");
        let rests = rests(&kube, asked, 2, &watcher).await;
        // A first rest of our own is 200 ms at most.
        assert!(rests[0] >= Duration::from_secs(2), "{rests:?}");
        expect(&watcher, &["10.0.0.1:7946"]).await;
        log.expect_failure(&["(429)", "Too many requests"]).await;
    }
}
