//! Commands that change who holds what, and that watch it move.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use slipring_node::Proposal;
use slipring_ring::{Layout, NodeState};

use crate::output::say;

use super::{Client, Waiting, escape, table};

/// How often a node is asked how far its cluster is.
const INTERVAL: Duration = Duration::from_millis(200);

/// What a node answers when no majority of the layout group can be reached.
const UNAVAILABLE: u16 = 503;

/// What is to be different. Nodes are called by the beginning of their ids, or by one of their addresses.
#[derive(clap::Args)]
pub(crate) struct Changes {
    /// A node's share, relative to the others'; may be repeated.
    #[arg(long, value_name = "NODE=WEIGHT")]
    weight: Vec<String>,
    /// Where a node stands; may be repeated.
    #[arg(long, value_name = "NODE=ZONE")]
    zone: Vec<String>,
    /// A node that is to give away what it holds; may be repeated.
    #[arg(long, value_name = "NODE")]
    drain: Vec<String>,
    /// A node that is to take its share again; may be repeated.
    #[arg(long, value_name = "NODE")]
    restore: Vec<String>,
    /// A node that is to leave; may be repeated.
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    /// A dead node whose data is given up; may be repeated.
    #[arg(long, value_name = "NODE")]
    lost: Vec<String>,
    /// A dead node whose data is given up, and the node that takes its place: its zone, its weight and what it held;
    /// may be repeated.
    #[arg(long, value_name = "DEAD=NODE")]
    replace: Vec<String>,
    /// How many copies a bucket is to have; may be repeated.
    #[arg(long, value_name = "BUCKET=COPIES")]
    replicas: Vec<String>,
    /// Halve every partition where it lies, so that there are twice as many: nothing moves, and clients notice
    /// nothing. 32 to 64 partitions per node are plenty; split before there are fewer than 8. Cannot be taken back.
    #[arg(long, conflicts_with_all = ["weight", "zone", "drain", "restore", "remove", "lost", "replace", "replicas"])]
    split: bool,
}

/// What the operator means in spite of an objection.
#[derive(clap::Args)]
pub(crate) struct Care {
    /// Do it even if copies would be missing then, or acknowledged writes may be lost or missed.
    #[arg(long)]
    force: bool,
}

/// How far the cluster is.
#[derive(Deserialize)]
struct Progress {
    epoch: u64,
    #[serde(default)]
    partitions: u32,
    moving: u64,
    under_replicated: u64,
}

impl Changes {
    fn to_json(&self) -> anyhow::Result<Map<String, Value>> {
        let mut changes = Vec::new();
        for text in &self.weight {
            let (node, weight) = pair(text, "NODE=WEIGHT")?;
            let weight: u32 =
                weight.parse().with_context(|| format!("\"{text}\": the weight is a number"))?;
            changes.push(json!({ "node": node, "weight": weight }));
        }
        for text in &self.zone {
            let (node, zone) = pair(text, "NODE=ZONE")?;
            changes.push(json!({ "node": node, "zone": zone }));
        }
        let states = [
            (&self.drain, NodeState::Drained),
            (&self.restore, NodeState::Active),
            (&self.remove, NodeState::Leaving),
            (&self.lost, NodeState::Lost),
        ];
        for (nodes, state) in states {
            changes.extend(nodes.iter().map(|node| json!({ "node": node, "state": state })));
        }
        for text in &self.replace {
            let (dead, by) = pair(text, "DEAD=NODE")?;
            changes.push(replacement(dead, by));
        }
        let mut buckets = Vec::new();
        for text in &self.replicas {
            let (bucket, copies) = pair(text, "BUCKET=COPIES")?;
            let copies: u8 =
                copies.parse().with_context(|| format!("\"{text}\": the copies are a number"))?;
            buckets.push(json!({ "bucket": bucket, "replicas": copies }));
        }
        if changes.is_empty() && buckets.is_empty() {
            bail!(
                "nothing is to change: give --weight, --zone, --drain, --restore, --remove, --lost, --replace, --replicas or \
                 --split"
            );
        }
        let mut body = Map::from_iter([("changes".to_owned(), Value::Array(changes))]);
        // An older node knows nothing of it, and need not while it is not asked for.
        if !buckets.is_empty() {
            body.insert("buckets".to_owned(), Value::Array(buckets));
        }
        Ok(body)
    }
}

fn pair<'t>(text: &'t str, shape: &str) -> anyhow::Result<(&'t str, &'t str)> {
    text.rsplit_once('=').with_context(|| format!("\"{text}\" is not {shape}"))
}

/// One node takes the place of a dead one.
fn replacement(dead: &str, by: &str) -> Value {
    json!({ "node": by, "replaces": dead })
}

/// Whether a node is to be given up.
fn gives_up(body: &Value) -> bool {
    let is_lost = |change: &Value| {
        change.get("state") == Some(&json!(NodeState::Lost)) || change.get("replaces").is_some()
    };
    body.get("changes").and_then(Value::as_array).is_some_and(|changes| changes.iter().any(is_lost))
}

/// So many seconds, as people say it.
fn span(seconds: u64) -> String {
    indicatif::HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
}

impl Client {
    pub(crate) fn plan(&self, changes: &Changes) -> anyhow::Result<()> {
        let body = Value::Object(self.wish(changes)?).to_string();
        let answer = self.ask_json("POST", "/v1/layout/plan", Some(body.as_bytes()))?;
        let proposal: Proposal =
            serde_json::from_value(answer.clone()).context("the node is of another version")?;
        let plan = &proposal.plan;
        let mut table = table(&["node", "copies now", "then", "primaries now", "then"]);
        for (node, before) in &plan.load_before {
            let after = plan.load_after.get(node).copied().unwrap_or_default();
            let numbers = [before.replicas, after.replicas, before.primaries, after.primaries];
            let mut row = vec![node.short()];
            row.extend(numbers.iter().map(ToString::to_string));
            table.add_row(row);
        }
        self.show(&answer, &table)?;
        if self.is_json {
            return Ok(());
        }
        if plan.partitions_after != plan.partitions_before {
            say!("{} partitions would be split into {}", plan.partitions_before, plan.partitions_after);
        }
        say!(
            "{} partitions would move, {} copies of about {} in about {}; beside clients at work in up to {}",
            plan.moves.len(),
            proposal.copies,
            indicatif::HumanBytes(proposal.bytes),
            span(proposal.seconds),
            span(proposal.seconds_beside_clients)
        );
        if plan.exposed.is_empty() {
            say!("no single failure would take a quorum from any partition");
        }
        for exposure in &plan.exposed {
            say!(
                "without {}: {} partitions have no quorum, {} no copy",
                exposure.what,
                exposure.without_quorum,
                exposure.without_copy
            );
        }
        if let Some(objection) = &proposal.objection {
            say!("refused without --force: {objection}");
        }
        let force = if proposal.objection.is_some() { " --force" } else { "" };
        say!("to do it: slipring layout commit --epoch {}{force} with the same changes", plan.epoch);
        Ok(())
    }

    pub(crate) fn commit(
        &self,
        changes: &Changes,
        epoch: Option<u64>,
        care: &Care,
        waiting: &Waiting,
    ) -> anyhow::Result<()> {
        let mut body = self.wish(changes)?;
        body.insert("epoch".to_owned(), json!(epoch));
        self.change(("POST", "/v1/layout/changes"), body.into(), care, waiting)
    }

    /// What is asked for, as the node is told. A split names its end, so that it may be told twice.
    fn wish(&self, changes: &Changes) -> anyhow::Result<Map<String, Value>> {
        if changes.split {
            let partitions = self.progress()?.partitions * 2;
            return Ok(Map::from_iter([("partitions".to_owned(), json!(partitions))]));
        }
        changes.to_json()
    }

    /// Changes one node's state.
    pub(crate) fn set_state(
        &self,
        node: &str,
        state: NodeState,
        care: &Care,
        waiting: &Waiting,
    ) -> anyhow::Result<()> {
        let body = json!({ "changes": [{ "node": node, "state": state }] });
        self.change(("POST", "/v1/layout/changes"), body, care, waiting)
    }

    /// Gives a dead node up and its place to another one.
    pub(crate) fn replace(&self, dead: &str, by: &str, care: &Care, waiting: &Waiting) -> anyhow::Result<()> {
        let body = json!({ "changes": [replacement(dead, by)] });
        self.change(("POST", "/v1/layout/changes"), body, care, waiting)
    }

    /// Gives a bucket another number of copies.
    pub(crate) fn set_copies(
        &self,
        bucket: &str,
        replicas: u8,
        care: &Care,
        waiting: &Waiting,
    ) -> anyhow::Result<()> {
        let path = format!("/v1/buckets/{}", escape(bucket));
        self.change(("PATCH", &path), json!({ "replicas": replicas }), care, waiting)
    }

    pub(crate) fn revert(&self) -> anyhow::Result<()> {
        let answer = self.ask_json("POST", "/v1/layout/revert", None)?;
        self.tell(&answer)?;
        if !self.is_json {
            // It is done: what cannot be told beside that is no failure.
            let layout = self.ask_json("GET", "/v1/layout", None).map(serde_json::from_value::<Layout>);
            let Ok(Ok(layout)) = layout else { return Ok(()) };
            let lost = layout.nodes().iter().filter(|(_, entry)| entry.role.state == NodeState::Lost);
            for (node, _) in lost {
                say!(
                    "node {} stays lost: it may come back as a new node, with an empty directory",
                    node.short()
                );
            }
        }
        Ok(())
    }

    /// Shows the moves under way until they are over, but not past the deadline.
    pub(crate) fn watch(&self, deadline: Option<Instant>) -> anyhow::Result<()> {
        let mut progress = self.progress()?;
        let mut most = progress.moving;
        let bar = if self.is_json { ProgressBar::hidden() } else { ProgressBar::new(most) };
        let style = "{bar:40} {pos}/{len} partitions moved, {msg}";
        bar.set_style(ProgressStyle::with_template(style)?);
        while progress.moving > 0 {
            most = most.max(progress.moving);
            bar.set_length(most);
            bar.set_position(most - progress.moving);
            bar.set_message(format!("epoch {}", progress.epoch));
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                bar.abandon();
                bail!("{} partitions still move; `slipring status` says what is missing", progress.moving);
            }
            std::thread::sleep(INTERVAL);
            progress = self.progress()?;
        }
        bar.finish_and_clear();
        self.tell(
            &Map::from_iter([
                ("epoch".to_owned(), json!(progress.epoch)),
                ("partitions".to_owned(), json!(progress.partitions)),
                ("moving".to_owned(), json!(0)),
                ("under_replicated".to_owned(), json!(progress.under_replicated)),
            ])
            .into(),
        )
    }

    fn change(
        &self,
        (method, path): (&str, &str),
        mut body: Value,
        care: &Care,
        waiting: &Waiting,
    ) -> anyhow::Result<()> {
        if let Some(fields) = body.as_object_mut().filter(|_| care.force) {
            fields.insert("force".to_owned(), json!(true));
        }
        let gives_up = gives_up(&body);
        let answer = self.ask(method, path, Some(body.to_string().as_bytes()))?;
        if answer.status == UNAVAILABLE && gives_up {
            bail!(
                "{}; if most voters of the layout group will never return, `slipring recover` on a node that is left \
                 goes on without them",
                answer.error()
            );
        }
        self.tell(&answer.json()?)?;
        let Some(deadline) = waiting.deadline() else { return Ok(()) };
        self.watch(Some(deadline))?;
        match self.wait_until_whole(Some(deadline))? {
            true => Ok(()),
            false => bail!("the cluster is not whole after {} s", waiting.timeout),
        }
    }

    fn progress(&self) -> anyhow::Result<Progress> {
        let answer = self.ask_json("GET", "/v1/layout/moves", None)?;
        serde_json::from_value(answer).context("the node is of another version")
    }

    fn tell(&self, answer: &Value) -> anyhow::Result<()> {
        if self.is_json {
            say!("{answer}");
            return Ok(());
        }
        let progress: Progress =
            serde_json::from_value(answer.clone()).context("the node is of another version")?;
        match progress.moving {
            0 => say!("epoch {}, {} partitions: nothing moves", progress.epoch, progress.partitions),
            moving => say!("epoch {}: {moving} partitions move; slipring layout watch", progress.epoch),
        }
        if progress.under_replicated > 0 {
            say!("{} partitions have fewer copies than their buckets ask for", progress.under_replicated);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_a_node_up_is_known_by_what_is_sent() {
        let sent =
            |state| json!({ "changes": [{ "node": "a", "weight": 5 }, { "node": "b", "state": state }] });
        assert!(gives_up(&sent(NodeState::Lost)) && gives_up(&json!({ "changes": [replacement("a", "b")] })));
        assert!(!gives_up(&sent(NodeState::Leaving)) && !gives_up(&json!({ "replicas": 3 })));
    }
}
