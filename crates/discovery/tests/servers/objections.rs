//! What an API server objects to, in its words.

use serde_json::{Value, json};

use super::request::Asked;

/// What is said to a user who is refused.
pub(crate) fn objection(status: u16, asked: Asked, user: &str) -> Value {
    let verb = if asked == Asked::Watch { "watch" } else { "list" };
    let (reason, message) = match status {
        401 => ("Unauthorized", "Unauthorized".to_owned()),
        403 => (
            "Forbidden",
            format!(
                "endpointslices.discovery.k8s.io is forbidden: User \"{user}\" cannot {verb} resource \"endpointslices\" \
                 in API group \"discovery.k8s.io\" in the namespace \"blue\""
            ),
        ),
        410 => ("Expired", "The provided continue parameter is too old".to_owned()),
        _ => ("InternalError", "Internal error occurred: etcdserver: no leader".to_owned()),
    };
    let mut objection = failure(status, reason, &message);
    if status == 403 {
        objection["details"] = json!({ "group": "discovery.k8s.io", "kind": "endpointslices" });
    }
    objection
}

/// What is said instead of the events since a version that is compacted.
pub(crate) fn too_old(asked: u64, oldest: u64) -> Value {
    failure(410, "Expired", &format!("too old resource version: {asked} ({oldest})"))
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
