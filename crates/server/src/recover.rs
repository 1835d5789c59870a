//! `slipring recover`: a stopped node goes on without a lost majority of the layout group.

use std::collections::BTreeSet;

use anyhow::bail;
use serde_json::json;
use slipring_model::NodeId;
use slipring_node::{Node, Remains};
use slipring_storage::DataDir;

use crate::client::table;
use crate::output::say;
use crate::settings::Settings;

/// Shows what the data directory knows of its cluster; with names of nodes that are lost, goes on without them.
pub(crate) fn run(settings: &Settings, lost: &[String], is_json: bool) -> anyhow::Result<()> {
    if !settings.data.is_dir() {
        bail!("there is no data directory at {}; name it with --data", settings.data.display());
    }
    let directory = DataDir::claim(&settings.data)?;
    if !directory.has_meta()? {
        bail!("no node has ever run with {}; name its data directory with --data", settings.data.display());
    }
    let meta = directory.meta()?;
    let remains = Remains::read(&meta)?;
    directory.settle(&Node::storage_in(&meta)?.0)?;
    let lost: BTreeSet<NodeId> =
        lost.iter().map(|name| remains.layout.member_called(name)).collect::<Result<_, _>>()?;
    if lost.is_empty() {
        return show(&remains, is_json);
    }
    let losses = remains.losses(&lost);
    let lost: Vec<NodeId> = lost.into_iter().collect();
    let layout = slipring_node::recover(&meta, &lost)?;
    if is_json {
        say!(
            "{}",
            json!({ "node": remains.node, "epoch": layout.epoch(), "given_up": lost,
            "partitions_without_copy": losses.without_copy, "partitions_without_quorum": losses.without_quorum })
        );
        return Ok(());
    }
    say!(
        "{} is the only voter now, at epoch {}; {} given up.",
        remains.node.short(),
        layout.epoch(),
        lost.len()
    );
    say!(
        "Over all buckets, {} partitions have lost all copies and are empty now; {} more may lack writes that were \
         acknowledged.",
        losses.without_copy,
        losses.without_quorum
    );
    say!(
        "Next: start it as always, then the other nodes that are left; those that were given up, never again. Recover \
         no second node: there would be two clusters, and one of the two must stop."
    );
    Ok(())
}

fn show(remains: &Remains, is_json: bool) -> anyhow::Result<()> {
    // As the group orders entries: one term may have seen several leaders.
    let last =
        remains.last.map(|last| format!("{}.{}.{}", last.ballot.term, last.ballot.candidate, last.index));
    let epoch = remains.layout.epoch();
    if is_json {
        let (node, voters) = (remains.node, &remains.voters);
        say!("{}", json!({ "node": node, "epoch": epoch, "last_entry": last, "voters": voters }));
        return Ok(());
    }
    let mut members = table(&["node", "peers", "zone", "votes", ""]);
    for (node, entry) in remains.layout.nodes() {
        let votes = if remains.voters.contains(node) { "yes" } else { "" };
        let note = if *node == remains.node { "this one" } else { "" };
        members.add_row([&node.short(), &entry.addresses.peer, &entry.role.zone, votes, note]);
    }
    say!("{members}");
    say!("epoch {epoch}, last entry {}", last.as_deref().unwrap_or("none"));
    say!(
        "Only if a majority of the voters is lost for good: of the nodes that are left, choose the one with the \
         highest last entry (compared number by number) and run there:\n  slipring recover --data DIR --lost NODE [--lost NODE ...]"
    );
    Ok(())
}
