//! Waiting until discovery says what it should.

use std::time::Duration;

use slipring_discovery::{Discovery, Sources};
use tokio::time::Instant;

/// How long a change may take to be seen.
const PATIENCE: Duration = Duration::from_secs(40);

/// Sources, as an operator writes them.
pub(crate) fn sources(text: &str) -> Sources {
    Sources::read(&[text], None).expect("sources")
}

/// Waits until the candidates, sorted, are these.
pub(crate) async fn expect(sources: &Sources, expected: &[&str]) {
    expect_that(sources, &format!("{expected:?}"), |found| found == expected).await;
}

/// Waits until the candidates, sorted, are as told.
pub(crate) async fn expect_that(sources: &Sources, what: &str, mut is_so: impl FnMut(&[String]) -> bool) {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut found = sources.candidates().await;
        found.sort();
        if is_so(&found) {
            return;
        }
        assert!(Instant::now() < until, "expected {what}, found {} of them: {found:?}", found.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
