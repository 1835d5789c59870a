//! Fuzzing the parsers of untrusted bytes, on a stable compiler.
//!
//! The targets lie in a workspace of their own, so that only they are built with coverage counters. Each
//! begins with seeds that the crate in `fuzz` writes with the real encoders; what it learns stays in `target`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};

use crate::shell::{output, root};
use crate::steps::Tally;

const TARGETS: [&str; 3] = ["resp_command", "peer_frame", "gossip"];
/// What the coverage-guided fuzzer needs from the compiler.
const COUNTERS: &str = "--cfg tokio_unstable --cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions";
/// Megabytes a target may use: more means that an input made it allocate without bound.
const MEMORY_MB: u32 = 1024;
/// Bytes of the longest input that is tried.
const INPUT_BYTES_MAX: u32 = 65_536;
/// Seconds one input may take.
const INPUT_SECONDS_MAX: u32 = 10;

/// Builds every target and runs all of them beside each other. Each counts as one test.
///
/// A seed other than 0 makes the same inputs in the same order, as long as nothing was learnt before.
pub(crate) fn run(seconds: u64, seed: u32) -> Result<Tally> {
    let folder = root().join("target/fuzz");
    let binaries = build(&folder)?;
    let mut running = Vec::new();
    for target in TARGETS {
        let crashes = folder.join("crashes").join(target);
        if crashes.exists() {
            std::fs::remove_dir_all(&crashes)?;
        }
        std::fs::create_dir_all(&crashes)?;
        running.push((target, start(target, &binaries, &folder, &crashes, (seconds, seed))?, crashes));
    }
    let mut tally = Tally::default();
    for (target, mut child, crashes) in running {
        if child.wait()?.success() {
            println!("fuzz {target}: no crash");
            tally.passed += 1;
        } else {
            println!("fuzz {target}: CRASHED");
            show(&crashes)?;
            tally.failed += 1;
        }
    }
    Ok(tally)
}

/// Builds the targets; returns the folder with their binaries.
fn build(folder: &Path) -> Result<PathBuf> {
    let version = output("rustc", &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not tell its host")?;
    // With a target named, the flags are kept from build scripts, which must run without the counters.
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--target", host]).current_dir(root().join("fuzz"));
    build.env("RUSTFLAGS", COUNTERS).env("CARGO_TARGET_DIR", folder);
    if !build.status().context("cargo cannot be run")?.success() {
        bail!("the fuzz targets do not build");
    }
    Ok(folder.join(host).join("release"))
}

fn start(
    target: &str,
    binaries: &Path,
    folder: &Path,
    crashes: &Path,
    (seconds, seed): (u64, u32),
) -> Result<Child> {
    let corpus = folder.join("corpus").join(target);
    let seeds = folder.join("seeds").join(target);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&seeds)?;
    Command::new(binaries.join(target))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-print_final_stats=1", "-print_funcs=0", "-verbosity=0"])
        .arg(corpus)
        .arg(&seeds)
        .env("SLIPRING_FUZZ_SEEDS", &seeds)
        .spawn()
        .with_context(|| format!("{target} cannot be run"))
}

/// Prints where the inputs are that crashed, and their bytes.
fn show(crashes: &Path) -> Result<()> {
    for entry in std::fs::read_dir(crashes)? {
        let path = entry?.path();
        let hex: String = std::fs::read(&path)?.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("  {}\n  {hex}", path.display());
    }
    Ok(())
}
