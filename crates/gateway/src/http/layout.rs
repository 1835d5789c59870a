//! The layout: showing it, planning changes of nodes' roles and buckets' copies, and splits; agreeing on them, taking
//! changes back.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json};
use serde::Deserialize;
use serde_json::{Value, json};
use slipring_model::NodeId;
use slipring_node::{Force, Node};
use slipring_ring::{Change, Changes, Command, Layout, NodeChange, NodeState, NotOneMember, Spread};

use super::buckets::no_such;
use super::failure::Failure;
use super::json::JsonBody;

/// Changes of roles and of buckets' copies, or a split, and the epoch it was planned for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    #[serde(default)]
    changes: Vec<Wanted>,
    /// How many partitions there are to be; not together with any other change.
    #[serde(default)]
    partitions: Option<u32>,
    #[serde(default)]
    buckets: Vec<WantedCopies>,
    #[serde(default)]
    epoch: Option<u64>,
    /// Whether it is done even if copies are missing then, or acknowledged writes may be lost.
    #[serde(default)]
    force: bool,
}

/// What is to be different about one node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The beginning of its id, or one of its addresses; all of its id if it answers and is given up by force.
    node: String,
    #[serde(default)]
    weight: Option<u32>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    state: Option<NodeState>,
    /// Whose place it takes, called like it: one that is dead.
    #[serde(default)]
    replaces: Option<String>,
}

/// How many copies one bucket is to have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedCopies {
    bucket: String,
    replicas: u8,
}

pub(super) async fn show(State(node): State<Node>) -> Result<impl IntoResponse, Failure> {
    // With many partitions it is long: it is written beside the threads that serve clients.
    let layout = node.layout();
    let written = tokio::task::spawn_blocking(move || serde_json::to_vec(layout.as_ref())).await;
    let body = written.ok().and_then(Result::ok).ok_or_else(|| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the layout could not be written")
    })?;
    Ok(([("content-type", "application/json")], body))
}

pub(super) async fn plan(
    State(node): State<Node>,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, Failure> {
    let (changes, wish) = changes(&node.layout(), &body)?;
    Ok(Json(match wish.partitions {
        Some(partitions) => node.plan_split(partitions)?,
        None => node.plan(&changes).await?,
    }))
}

pub(super) async fn commit(
    State(node): State<Node>,
    JsonBody(body): JsonBody,
) -> Result<impl IntoResponse, Failure> {
    let (changes, wish) = changes(&node.layout(), &body)?;
    match wish.partitions {
        Some(partitions) => node.split(partitions, wish.epoch).await?,
        None => node.change(changes, wish.epoch, force(&node.layout(), &wish)).await?,
    };
    Ok(Json(progress(&node.layout())))
}

pub(super) async fn revert(State(node): State<Node>, _: JsonBody) -> Result<impl IntoResponse, Failure> {
    node.propose(Command::Revert).await?;
    Ok(Json(progress(&node.layout())))
}

pub(super) async fn moves(State(node): State<Node>) -> impl IntoResponse {
    Json(progress(&node.layout()))
}

pub(super) fn progress(layout: &Layout) -> Value {
    json!({
        "epoch": layout.epoch(),
        "partitions": layout.partition_count(),
        "moving": layout.moves().count(),
        "under_replicated": layout.under_replicated(),
    })
}

fn changes(layout: &Layout, body: &[u8]) -> Result<(Changes, Wish), Failure> {
    let wish: Wish = serde_json::from_slice(body)
        .map_err(|error| Failure::invalid(format!("the body is no list of changes: {error}")))?;
    if wish.partitions.is_some() && !(wish.changes.is_empty() && wish.buckets.is_empty()) {
        let message = "partitions are split alone: make other changes before or afterwards";
        return Err(Failure::invalid(message.to_owned()));
    }
    let mut changes = Changes::default();
    for wanted in &wish.changes {
        let node = find(layout, &wanted.node)?;
        let asked = [
            wanted.weight.map(NodeChange::Weight),
            wanted.zone.clone().map(NodeChange::Zone),
            wanted.state.map(NodeChange::State),
            wanted.replaces.as_ref().map(|dead| replaced(layout, dead)).transpose()?,
        ];
        changes.nodes.extend(asked.into_iter().flatten().map(|change| Change { node, change }));
    }
    for wanted in &wish.buckets {
        let (bucket, _) = layout.bucket_named(&wanted.bucket).ok_or_else(|| no_such(&wanted.bucket))?;
        changes.spreads.push(Spread { bucket, replicas: wanted.replicas });
    }
    Ok((changes, wish))
}

/// Whether it is done in spite of an objection, and which nodes are named by their whole ids.
fn force(layout: &Layout, wish: &Wish) -> Force {
    if !wish.force {
        return Force::Off;
    }
    let names =
        wish.changes.iter().flat_map(|wanted| [Some(&wanted.node), wanted.replaces.as_ref()]).flatten();
    let whole = names.filter_map(|name| layout.nodes().keys().find(|id| id.to_string() == *name).copied());
    Force::On { named: whole.collect() }
}

/// Whose place is taken. One that is lost has been told so already, and somebody else has its share.
fn replaced(layout: &Layout, name: &str) -> Result<NodeChange, Failure> {
    let dead = find(layout, name)?;
    if layout.nodes().get(&dead).is_some_and(|entry| entry.role.state == NodeState::Lost) {
        let message = format!(
            "node {} is lost already and what it held is being rebuilt: slipring restore gives a spare a share of its own",
            dead.short()
        );
        return Err(Failure::new(StatusCode::CONFLICT, "conflict", message));
    }
    Ok(NodeChange::Replaces(dead))
}

/// The member of this name.
fn find(layout: &Layout, name: &str) -> Result<NodeId, Failure> {
    layout.member_called(name).map_err(|error| match error {
        NotOneMember::Nobody(_) => Failure::not_found(error.to_string()),
        NotOneMember::Several(_) => Failure::invalid(error.to_string()),
    })
}
