//! The demonstration: three real nodes on this machine, and the death of one in the middle of the work.

mod client;
mod cluster;
mod load;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::table;
use crate::output::{note, say};
use cluster::Cluster;
use load::{Outcome, Tally};

/// How long the returned node has to be brought up to date.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(120);

/// What to show.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// How many nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    nodes: u8,
    /// How many keys to write.
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// End when all has been shown, instead of leaving the cluster running.
    #[arg(long)]
    exit: bool,
}

/// Plays the demonstration; `false` when anything acknowledged was lost.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let mut cluster = form(options)?;
    let victim = usize::from(options.nodes) - 1;
    let outcomes = write_through_a_death(options, &mut cluster, victim)?;
    let mut tally = Tally::of(&outcomes);
    let survivors: Vec<usize> = (0..victim).collect();
    for node in survivors.iter().take(2) {
        read_back(&cluster, *node, &outcomes, &mut tally, "reading back from a survivor")?;
    }
    let hints = cluster.hints()?;
    repair(&mut cluster, victim)?;
    read_back(&cluster, victim, &outcomes, &mut tally, "reading back from the returned node")?;
    report(&tally, hints)?;
    if !options.exit {
        explain(&cluster)?;
        cluster.wait_for_interrupt();
    }
    Ok(tally.lost == 0 && tally.wrong == 0)
}

fn form(options: &Options) -> anyhow::Result<Cluster> {
    let bar = bar(u64::from(options.nodes), "forming the cluster");
    let mut cluster = Cluster::new()?;
    for _ in 0..options.nodes {
        cluster.start_node()?;
        bar.inc(1);
    }
    cluster.wait_until_connected()?;
    bar.finish();
    Ok(cluster)
}

/// Writes every key, and kills a node when half of them are written.
fn write_through_a_death(
    options: &Options,
    cluster: &mut Cluster,
    victim: usize,
) -> anyhow::Result<Vec<Outcome>> {
    let bar = bar(options.keys as u64, "writing, all nodes up");
    let load = load::Load::start(cluster.redis_addresses(), options.keys);
    let half = options.keys / 2;
    let mut is_dead = false;
    while !load.is_done() {
        bar.set_position(load.done() as u64);
        if !is_dead && load.done() >= half {
            cluster.kill(victim)?;
            is_dead = true;
            bar.set_message(format!("writing, node {} killed with SIGKILL", victim + 1));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    bar.set_position(options.keys as u64);
    bar.finish();
    if !is_dead {
        bail!("the keys were written before the node could be killed: ask for more with --keys");
    }
    load.outcomes()
}

fn read_back(
    cluster: &Cluster,
    node: usize,
    outcomes: &[Outcome],
    tally: &mut Tally,
    what: &str,
) -> anyhow::Result<()> {
    let bar = bar(outcomes.len() as u64, &format!("{what} (node {})", node + 1));
    load::verify(&cluster.redis_address(node), outcomes, tally, |done| bar.set_position(done as u64))
        .with_context(|| {
            format!("node {} did not answer; its log ends:\n{}", node + 1, cluster.log_tail(node))
        })?;
    bar.finish();
    Ok(())
}

/// Starts the dead node again and waits until nobody keeps a hint for it.
fn repair(cluster: &mut Cluster, victim: usize) -> anyhow::Result<()> {
    let before = cluster.hints()?;
    let bar = bar(before.max(1), &format!("node {} returns and is brought up to date", victim + 1));
    cluster.restart(victim)?;
    cluster.wait_until_connected()?;
    let deadline = Instant::now() + REPAIR_TIMEOUT;
    loop {
        let left = cluster.hints()?;
        bar.set_position(before.saturating_sub(left));
        if left == 0 {
            break;
        }
        if Instant::now() > deadline {
            bail!("{left} hints are still undelivered after {REPAIR_TIMEOUT:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.set_position(before.max(1));
    bar.finish();
    Ok(())
}

fn report(tally: &Tally, hints: u64) -> anyhow::Result<()> {
    let mut table = table(&["what", "keys", "meaning"]);
    let rows = [
        ("written", tally.written, "sent to the cluster"),
        ("acknowledged", tally.acknowledged, "stored on a quorum, by the cluster's own word"),
        ("refused", tally.refused, "certainly not stored"),
        ("unknown", tally.unknown, "in flight when a connection broke: may be stored or not"),
        ("lost", tally.lost, "acknowledged, and not found on a node afterwards"),
        ("wrong", tally.wrong, "found with a value that nobody wrote"),
        ("repaired", hints as usize, "writes the dead node had missed and got on its return"),
    ];
    for (what, count, meaning) in rows {
        table.add_row([what.to_owned(), count.to_string(), meaning.to_owned()]);
    }
    say!("{table}");
    Ok(())
}

fn explain(cluster: &Cluster) -> anyhow::Result<()> {
    let redis = cluster.redis_address(0);
    let (host, port) = redis.rsplit_once(':').context("an address has a port")?;
    let http = cluster.http_address(0);
    say!("\nThe cluster runs on. Talk to any node, for instance:");
    say!("  redis-cli -h {host} -p {port} get key:0");
    say!("  curl http://{http}/v1/kv/default/key:0");
    say!("  slipring status --node http://{http}");
    say!("Ctrl-C ends it and removes its data.");
    Ok(())
}

fn bar(length: u64, message: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    if target.is_hidden() {
        note!("{message}");
    }
    let bar = ProgressBar::with_draw_target(Some(length), target);
    let style = ProgressStyle::with_template("{bar:30} {pos:>7}/{len:<7} {elapsed:>4}  {msg}");
    bar.set_style(style.expect("the template is right"));
    bar.set_message(message.to_owned());
    bar
}
