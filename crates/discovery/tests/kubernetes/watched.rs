//! Watches that end, break and are too old.

use slipring_discovery::Discovery;

use super::*;
use crate::kube::Refusal;
use crate::kube::request::Asked;
use crate::log::Log;

#[tokio::test]
async fn a_watch_that_ends_goes_on_where_it_was_and_one_that_is_too_old_lists_anew() {
    let (kube, server) = imitation().await;
    server.create("ring-a", "ring", &["10.0.0.1"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    let begun = kube.counts();
    assert_eq!(begun.0, 0);

    kube.close_watches();
    server.create("ring-b", "ring", &["10.0.0.2"]).await;
    kube.open_watches();
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
    assert_eq!(kube.counts(), begun, "no list is needed");

    kube.close_watches();
    server.delete("ring-a").await;
    server.create("ring-c", "ring", &["10.0.0.3"]).await;
    kube.compact();
    kube.open_watches();
    expect(&watcher, &["10.0.0.2:7946", "10.0.0.3:7946"]).await;
    assert_eq!(kube.counts(), (1, begun.1 + 1), "refused once, listed once more");
}

#[tokio::test]
async fn a_bookmark_carries_a_watch_over_what_it_was_not_told_of() {
    let (kube, server) = imitation().await;
    server.create("ring-a", "ring", &["10.0.0.1"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    let begun = kube.counts();
    // None of these is selected; only a bookmark tells the watch of their versions.
    for index in 1..=3 {
        server.create(&format!("other-{index}"), "other", &["10.0.0.9"]).await;
    }
    kube.until_bookmarked().await;
    kube.close_watches();
    kube.compact();
    server.create("ring-b", "ring", &["10.0.0.2"]).await;
    kube.open_watches();
    expect(&watcher, &["10.0.0.1:7946", "10.0.0.2:7946"]).await;
    assert_eq!(kube.counts(), begun, "it went on where the bookmark was");
}

#[tokio::test]
async fn an_error_within_a_watch_is_told_and_the_list_is_read_anew() {
    for status in [410, 500] {
        let (kube, server) = imitation().await;
        let log = Log::keep();
        server.create("ring-a", "ring", &["10.0.0.1"]).await;
        let watcher = server.source("blue", "");
        expect(&watcher, &["10.0.0.1:7946"]).await;
        kube.until_bookmarked().await;
        kube.break_watches(status);
        log.expect_failure(&[&format!("({status})")]).await;
        assert_eq!(watcher.candidates().await, ["10.0.0.1:7946"], "what was known stays known");
        // Gone while nobody watched, and out of the history: a list alone can tell.
        server.delete("ring-a").await;
        server.create("ring-b", "ring", &["10.0.0.2"]).await;
        kube.compact();
        kube.open_watches();
        expect(&watcher, &["10.0.0.2:7946"]).await;
    }
}

#[tokio::test]
async fn a_list_whose_pages_expire_is_begun_anew() {
    let (kube, server) = imitation().await;
    let log = Log::keep();
    for index in 1..=3 {
        server.create(&format!("ring-{index}"), "ring", &[&format!("10.0.0.{index}")]).await;
    }
    kube.refuse(Refusal { asked: Asked::Page, status: 410, retry_after: None, times: 1 });
    expect(&server.source("blue", ""), &["10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946"]).await;
    assert_eq!((kube.counts().1, kube.asked(Asked::Page).len()), (2, 2));
    log.expect_failure(&["(410)", "listed anew"]).await;
}

#[tokio::test]
async fn a_server_that_is_away_leaves_what_it_said() {
    let (kube, server) = imitation().await;
    let log = Log::keep();
    server.create("ring-a", "ring", &["10.0.0.1"]).await;
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.1:7946"]).await;
    drop(kube);
    log.expect_failure(&["EndpointSlices"]).await;
    assert_eq!(watcher.candidates().await, ["10.0.0.1:7946"]);
}
