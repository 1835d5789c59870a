//! One run on real processes, from the command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use slipring_harness::{Options, interrupt, run};

/// Parts of a storm that the progress bar shows.
const STEPS: u64 = 1000;

/// Starts real nodes, breaks what can break between and beneath them, and checks every promise.
#[derive(Parser)]
struct Cli {
    /// What the plan and the clients are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long clients and faults are at work.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=50))]
    nodes: u64,
    /// Put each node into a network namespace of its own. Needs root.
    #[arg(long)]
    netns: bool,
    /// The server to run.
    #[arg(long)]
    binary: PathBuf,
    /// Where data and logs go, and the story of a failed run.
    #[arg(long)]
    folder: PathBuf,
}

fn main() -> ExitCode {
    match attempt(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("slipring-harness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn attempt(cli: &Cli) -> anyhow::Result<bool> {
    std::thread::spawn(watch_for_interrupts);
    let bar = ProgressBar::new(STEPS);
    bar.set_style(ProgressStyle::with_template("{elapsed:>4} {wide_bar} {msg}")?);
    let options = Options {
        seed: cli.seed,
        nodes: usize::try_from(cli.nodes)?,
        storm: Duration::from_secs(cli.seconds),
        plan: None,
        is_netns: cli.netns,
        binary: cli.binary.clone(),
        folder: cli.folder.clone(),
    };
    let report = run(&options, &|phase, share| {
        bar.set_message(phase.to_owned());
        bar.set_position((share * STEPS as f64) as u64);
    })?;
    bar.finish_and_clear();
    println!("{report}");
    Ok(report.verdict.is_ok())
}

/// Ends the run in good order on Ctrl-C: file systems and namespaces must not stay behind.
fn watch_for_interrupts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if runtime.is_ok_and(|runtime| runtime.block_on(tokio::signal::ctrl_c()).is_ok()) {
        interrupt();
    }
}
