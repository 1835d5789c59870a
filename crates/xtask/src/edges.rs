//! Which crate may depend on which: the architecture, checked.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::shell::output;

/// Every crate and what it may depend on. Arrows point up this table only.
const EDGES: &[(&str, &[&str])] = &[
    ("slipring-model", &[]),
    ("slipring-ring", &["model"]),
    ("slipring-membership", &["model"]),
    ("slipring-service", &["model"]),
    ("slipring-replication", &["model", "ring", "service"]),
    ("slipring-wire", &["model", "ring", "service", "replication"]),
    ("slipring-resp", &["model"]),
    ("slipring-storage", &["model"]),
    ("slipring-transport", &["model", "wire"]),
    ("slipring-consensus", &["model", "ring", "service", "wire", "storage", "transport"]),
    ("slipring-discovery", &["model"]),
    (
        "slipring-node",
        &[
            "model",
            "ring",
            "membership",
            "service",
            "replication",
            "wire",
            "storage",
            "transport",
            "consensus",
            "discovery",
        ],
    ),
    ("slipring-apps", &["model", "service", "node"]),
    ("slipring-gateway", &["model", "ring", "service", "resp", "discovery", "node", "apps"]),
    (
        "slipring",
        &["model", "ring", "service", "storage", "transport", "discovery", "node", "apps", "gateway"],
    ),
    (
        "slipring-sim",
        &[
            "model",
            "ring",
            "membership",
            "service",
            "replication",
            "wire",
            "storage",
            "transport",
            "consensus",
            "discovery",
            "node",
            "apps",
            "gateway",
        ],
    ),
    ("slipring-example-scores", &["model", "service"]),
    ("slipring-harness", &["model", "ring", "storage", "node", "sim"]),
    ("xtask", &["sim"]),
];

/// Fails on a crate or an edge that the table does not have.
pub(crate) fn check() -> Result<()> {
    let metadata: Value =
        serde_json::from_str(&output("cargo", &["metadata", "--no-deps", "--format-version", "1"])?)?;
    let mut wrong = Vec::new();
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    for package in list(&metadata, "packages") {
        let name = text(&package, "name");
        let Some((_, allowed)) = EDGES.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name} is not in the table of crates"));
            continue;
        };
        for dependency in list(&package, "dependencies") {
            let target = text(&dependency, "name");
            let is_normal = dependency.get("kind").is_none_or(Value::is_null);
            if let Some(short) = target.strip_prefix("slipring-").filter(|_| is_normal)
                && !allowed.contains(&short)
            {
                wrong.push(format!("{name} must not depend on {target}"));
            }
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("the crates are not as ARCHITECTURE.md draws them:\n  {}", wrong.join("\n  "))
    }
}
