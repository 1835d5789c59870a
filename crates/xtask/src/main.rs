//! The developer's one door: `cargo xtask check | fix | test | e2e | fuzz | bench`.

mod bench;
mod e2e;
mod edges;
mod fuzz;
mod shell;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

use shell::{Timings, cargo};

/// Builds, checks and measures Slipring.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check everything without changing a file: format, lints, crate edges, sizes, docs, tests.
    Check,
    /// Format, and apply what lints can mend by themselves.
    Fix,
    /// Everything: check, end to end with real clients, fuzzing. Installs what is missing.
    Test,
    /// Tests of real processes through real clients.
    E2e {
        /// Passed on to pytest.
        arguments: Vec<String>,
    },
    /// Run every fuzz target.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Compare one node with redis-server, interleaved.
    Bench {
        /// Pairs of runs.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Requests in each run.
        #[arg(long, default_value_t = 300_000)]
        requests: usize,
    },
    /// Run simulated clusters.
    Sim {
        /// Replay one seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Run seeds 0 up to this one.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
    },
}

fn main() -> Result<()> {
    let mut timings = Timings::default();
    let result = match Cli::parse().task {
        Task::Check => check(&mut timings),
        Task::Fix => fix(),
        Task::Test => test(&mut timings),
        Task::E2e { arguments } => e2e::run(&arguments),
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Bench { pairs, requests } => bench::run(pairs, requests),
        Task::Sim { seed, seeds } => sim(seed, seeds),
    };
    timings.print();
    result
}

fn check(timings: &mut Timings) -> Result<()> {
    timings.time("format", || cargo(&["fmt", "--all", "--", "--check"]))?;
    timings.time("crate edges", edges::check)?;
    timings.time("tidy", tidy::check)?;
    timings.time("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    timings.time("unit and property tests", || cargo(&["test", "--workspace"]))?;
    timings.time("docs", || {
        shell::run_with(
            "cargo",
            &["doc", "--workspace", "--no-deps", "--quiet"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        )
    })
}

fn fix() -> Result<()> {
    cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

fn test(timings: &mut Timings) -> Result<()> {
    check(timings)?;
    timings.time("simulation, 200 seeds", || sim(None, 200))?;
    timings.time("release build", || cargo(&["build", "--release", "--package", "slipring"]))?;
    timings.time("end to end", || e2e::run(&[]))?;
    timings.time("fuzzing", || fuzz::run(60))
}

fn sim(seed: Option<u64>, seeds: u64) -> Result<()> {
    let (from, to) = seed.map_or((0, seeds), |seed| (seed, seed + 1));
    let range = format!("{from}..{to}");
    shell::run_with(
        "cargo",
        &["test", "--workspace", "--test", "seeds", "--", "--nocapture"],
        &[("SLIPRING_SEEDS", &range)],
    )
}
