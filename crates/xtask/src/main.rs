//! The developer's one door: `cargo xtask check | fix | test | e2e | sources | upgrade | fuzz | mutants | sim | processes | bench | cluster`.

mod bench;
mod cluster;
mod e2e;
mod edges;
mod flaky;
mod fuzz;
mod kube;
mod mutants;
mod processes;
mod proto;
mod shell;
mod steps;
mod tidy;
mod tools;
mod upgrade;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use kube::ApiServer;
use shell::{cargo, run_with, tests};
use steps::{Steps, Tally};

/// Seeds of the simulator, and seconds for each fuzz target, that `test` spends.
const SEEDS: u64 = 500;
const FUZZ_SECONDS: u64 = 60;
/// The feature that gives the simulator its command line.
const SIM_CLI: &str = "slipring-sim/cli";
/// The features of `slipring` that are sources of addresses; each has a test of that name.
const SOURCES: [&str; 4] = ["etcd", "kubernetes", "libp2p", "zookeeper"];
/// The feature whose tests want a real kube-apiserver.
const KUBE_APISERVER_TEST: &str = "slipring-discovery/kube-apiserver-test";
/// Where the fuzz inputs of `test` begin: a judge that draws lots cannot be appealed to.
const FUZZ_SEED: u32 = 1;

/// Builds, checks and measures Slipring.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check everything without changing a file: format, lints, crate edges, generated code, sizes, docs, tests.
    Check,
    /// Make the code that protos give, format, and apply what lints can mend by themselves.
    Fix,
    /// Everything: check, simulation, end to end with real clients, fuzzing. Installs what is missing.
    Test,
    /// Tests of real processes through real clients.
    E2e {
        /// Passed on to pytest.
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        arguments: Vec<String>,
    },
    /// Tests of the sources of addresses that need a feature, against real servers. Installs what is missing.
    Sources,
    /// Upgrade nodes of an earlier commit to the tree at hand, one after the other, under clients. Builds both.
    Upgrade {
        /// The commit, as git names it; its nodes must speak version 5 of the protocol.
        before: String,
    },
    /// Run every fuzz target.
    Fuzz {
        /// Seconds for each target.
        #[arg(long, default_value_t = FUZZ_SECONDS)]
        seconds: u64,
        /// Where the inputs begin; 0 draws one.
        #[arg(long, default_value_t = 0)]
        seed: u32,
    },
    /// Plant small mistakes where the promises rest and see whether unit tests notice. Takes most of an hour.
    Mutants {
        /// Only in these packages.
        packages: Vec<String>,
    },
    /// Run simulated clusters; `cargo xtask sim --help` tells what it takes.
    #[command(disable_help_flag = true)]
    Sim {
        /// Passed on to the simulator.
        #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
        arguments: Vec<String>,
    },
    /// Break real processes, their disks and the ways between them, and check every promise.
    Processes(processes::Options),
    /// Compare one node with redis-server, interleaved.
    Bench {
        /// Pairs of runs.
        #[arg(long, default_value_t = 5)]
        pairs: usize,
        /// Requests in each run without pipelines; four times as many with.
        #[arg(long, default_value_t = 300_000)]
        requests: usize,
        /// Keep the result in docs/benchmarks.md.
        #[arg(long)]
        write: bool,
    },
    /// Let a fourth node join three that hold many keys, and measure the move and what clients feel of it.
    BenchMoving {
        /// Keys of 16 bytes with values of 100.
        #[arg(long, default_value_t = 1_000_000)]
        keys: usize,
    },
    /// Start nodes on this machine and leave them running until Ctrl-C.
    Cluster {
        /// How many.
        #[arg(default_value_t = 3)]
        nodes: usize,
    },
}

fn main() -> ExitCode {
    let mut steps = Steps::default();
    let done = match Cli::parse().task {
        Task::Check => return check(&mut steps).finish(),
        Task::Test => return test(&mut steps).finish(),
        Task::Fix => fix(),
        Task::E2e { arguments } => e2e::run(&arguments, &mut Vec::new()).and_then(Tally::verdict),
        Task::Sources => sources().and_then(Tally::verdict),
        Task::Upgrade { before } => upgrade::run(&before).and_then(Tally::verdict),
        Task::Fuzz { seconds, seed } => fuzz::run(seconds, seed).and_then(Tally::verdict),
        Task::Mutants { packages } => mutants::run(&packages),
        Task::Sim { arguments } => sim(&arguments),
        Task::Processes(options) => processes::run(&options),
        Task::Bench { pairs, requests, write } => bench::run(pairs, requests, write),
        Task::BenchMoving { keys } => bench::moving::run(keys),
        Task::Cluster { nodes } => cluster::run(nodes),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Every step runs, also after one has failed: one look shows all that is wrong.
fn check(steps: &mut Steps) -> &mut Steps {
    steps
        .run("format", || cargo(&["fmt", "--all", "--", "--check"]))
        .run("crate edges", edges::check)
        .run("generated code", proto::check)
        .run("tidy", tidy::check)
        .run("lints", || cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
        .count("unit and property tests", || {
            tests("cargo", &["test", "--workspace", "--no-fail-fast", "--features", SIM_CLI], &[])
        })
        .run("docs", || {
            let arguments = ["doc", "--workspace", "--no-deps", "--quiet"];
            run_with("cargo", &arguments, &[("RUSTDOCFLAGS", "-D warnings")])
        })
}

fn test(steps: &mut Steps) -> &mut Steps {
    let mut flaky = Vec::new();
    steps.run("tools", tools::install);
    check(steps)
        .run("simulation", || sim(&["--seeds".to_owned(), SEEDS.to_string()]))
        .run("release build", release)
        .count("end to end", || e2e::run(&[], &mut flaky))
        .count("fuzzing", || fuzz::run(FUZZ_SECONDS, FUZZ_SEED))
        .note(flaky)
}

fn fix() -> Result<()> {
    proto::write()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

/// The sources of addresses that the default build leaves out, and real nodes that find each other by them.
fn sources() -> Result<Tally> {
    tools::servers()?;
    let apiserver = kube::apiserver()?;
    // Both packages at once: what they depend on is compiled once.
    let packages = ["test", "--package", "slipring-discovery", "--package", "slipring"];
    let features: Vec<String> = SOURCES.iter().map(|source| format!("slipring/{source}")).collect();
    let mut features = features.join(",");
    let all = format!("{features},{KUBE_APISERVER_TEST}");
    let lints = [&["clippy"], &packages[1..], &["--all-targets", "--features", &all, "--", "-D", "warnings"]];
    cargo(&lints.concat())?;
    let mut variables = Vec::new();
    if let ApiServer::At(path) = &apiserver {
        features = all;
        variables.push((kube::VARIABLE, path.as_str()));
    }
    let mut line = [&packages[..], &["--features", &features, "--no-fail-fast", "--lib"]].concat();
    line.extend(SOURCES.iter().flat_map(|source| ["--test", source]));
    line.extend(["--test", "sources"]);
    let tally = tests("cargo", &line, &variables)?;
    if let ApiServer::Missing { why } = apiserver {
        println!("NOT run: the tests against a real kube-apiserver, for none can be had: {why}");
    }
    Ok(tally)
}

/// Builds the binary that users run.
fn release() -> Result<()> {
    cargo(&["build", "--release", "--package", "slipring"])
}

/// Simulated clusters, by the simulator's own command line. It is built as the tests build it, beside one of them: by
/// itself its dependencies would have other features, and be compiled again.
fn sim(arguments: &[String]) -> Result<()> {
    cargo(&["test", "--quiet", "--workspace", "--no-run", "--test", "seeds", "--features", SIM_CLI])?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run_with(&shell::root().join("target/debug/slipring-sim").to_string_lossy(), &arguments, &[])
}
