//! Faults on real processes: builds the server and the harness, and runs one storm.

use anyhow::Result;
use clap::Args;

use crate::shell::{binary, cargo, root};

/// What a storm is like.
#[derive(Args)]
pub(crate) struct Options {
    /// What the faults and the clients are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long clients and faults are at work.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many nodes, 2 to 50.
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Put each node into a network namespace of its own. Needs root.
    #[arg(long)]
    netns: bool,
}

/// Runs it; a broken promise is an error, and leaves its story under `target/processes`.
pub(crate) fn run(options: &Options) -> Result<()> {
    crate::release()?;
    let (seed, seconds, nodes) =
        (options.seed.to_string(), options.seconds.to_string(), options.nodes.to_string());
    let (binary, folder) =
        (binary().display().to_string(), root().join("target/processes").display().to_string());
    let mut line = vec!["run", "--quiet", "--release", "--package", "slipring-harness", "--"];
    line.extend(["--seed", &seed, "--seconds", &seconds, "--nodes", &nodes]);
    line.extend(["--binary", &binary, "--folder", &folder]);
    if options.netns {
        line.push("--netns");
    }
    cargo(&line)
}
