//! The same on a real server, by a service account with the documented rights alone.

use slipring_discovery::Discovery;

use super::*;
use crate::apiserver::ApiServer;
use crate::kube::objections::{objection, too_old};
use crate::kube::request::Asked;
use crate::log::Log;

const ACCOUNT: &str = "system:serviceaccount:blue:slipring";

#[tokio::test]
async fn the_documented_rights_suffice_and_none_can_be_spared() {
    let real = ApiServer::start().await;
    real.apply("ServiceAccount").await;
    real.apply("Role").await;
    let token = real.account().await;
    let server = real.seen_by(&token);
    server.create("ring-a", "ring", &["10.0.0.1"]).await;
    goes_on_once_the_role_is_bound(&real, &server, &token).await;
    for (kept, missing, known) in [("list", "watch", &["10.0.0.1:7946"][..]), ("watch", "list", &[])] {
        real.allow(&token, &[kept]).await;
        let log = Log::keep();
        let watcher = server.source("blue", "");
        // Only somebody who asks lets it be followed.
        watcher.candidates().await;
        log.expect_failure(&[&format!("not allowed to {missing}"), ACCOUNT]).await;
        expect(&watcher, known).await;
    }
}

/// Without the binding it is told what is missing; with it, nothing has to be started again.
async fn goes_on_once_the_role_is_bound(real: &ApiServer, server: &Server, token: &str) {
    let log = Log::keep();
    let watcher = server.source("blue", "");
    assert!(watcher.candidates().await.is_empty());
    log.expect_failure(&["not allowed to list endpointslices", "namespace blue", "Role", ACCOUNT]).await;
    // The server that imitates says the same.
    let said = server.say(token, "GET", SLICES, "").await.expect_err("no right");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said, objection(403, Asked::List, ACCOUNT));
    real.apply("RoleBinding").await;
    expect(&watcher, &["10.0.0.1:7946"]).await;
}

#[tokio::test]
async fn with_the_documented_rights_all_is_seen_and_nothing_is_refused() {
    let mut real = ApiServer::start().await;
    for kind in ["ServiceAccount", "Role", "RoleBinding"] {
        real.apply(kind).await;
    }
    let token = real.account().await;
    let server = real.seen_by(&token);
    for verb in ["list", "watch"] {
        real.until_allowed(&token, verb, true).await;
    }
    let log = Log::keep();
    appear_change_and_go(&server).await;
    selectors_choose(&server).await;
    let refused: Vec<String> =
        log.failures().into_iter().filter(|line| line.contains("not allowed")).collect();
    assert!(refused.is_empty(), "{refused:#?}");

    // A server that restarts is followed, and what happened meanwhile is seen.
    let watcher = server.source("blue", "");
    expect(&watcher, &["10.0.0.5:7946"]).await;
    real.kill();
    log.expect_failure(&["EndpointSlices"]).await;
    real.revive().await;
    server.delete("ring-a").await;
    server.create("ring-d", "ring", &["10.0.0.6"]).await;
    expect(&watcher, &["10.0.0.6:7946"]).await;
    // It remembers nothing from before its start, and says so as the server that imitates does.
    let said = real.watch(&token, 1).await;
    let words = said["object"]["message"].as_str().unwrap_or_default();
    let oldest = words.split(['(', ')']).nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
    assert_eq!(said, json!({ "type": "ERROR", "object": too_old(1, oldest) }));
}
