//! Fuzzing the parsers of untrusted bytes, on a stable compiler.
//!
//! The targets lie in a workspace of their own, so that only they are built with coverage counters.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::root;

const TARGETS: [&str; 2] = ["resp_command", "peer_frame"];
/// What the coverage-guided fuzzer needs from the compiler.
const COUNTERS: &str = "--cfg tokio_unstable --cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cdebug-assertions -Ccodegen-units=1";
/// Megabytes a target may use: more means that an input made it allocate without bound.
const MEMORY_MB: u32 = 1024;

/// Builds every target and runs all of them beside each other.
pub(crate) fn run(seconds: u64) -> Result<()> {
    let folder = root().join("fuzz");
    let host = host_triple()?;
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--target", &host]).env("RUSTFLAGS", COUNTERS).current_dir(&folder);
    if !build.status().context("cargo cannot be run")?.success() {
        bail!("the fuzz targets do not build");
    }
    let mut running = Vec::new();
    for target in TARGETS {
        let corpus = folder.join("corpus").join(target);
        std::fs::create_dir_all(&corpus)?;
        let binary = folder.join("target").join(&host).join("release").join(target);
        let child = Command::new(binary)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-rss_limit_mb={MEMORY_MB}"))
            .args(["-max_len=65536", "-print_final_stats=1", "-verbosity=0"])
            .arg(corpus)
            .current_dir(&folder)
            .spawn()
            .with_context(|| format!("{target} cannot be run"))?;
        running.push((target, child));
    }
    for (target, mut child) in running {
        let status = child.wait()?;
        println!("fuzz {target}: {}", if status.success() { "no crash" } else { "CRASHED" });
        if !status.success() {
            bail!("{target} crashed; the input is in fuzz/ as crash-*");
        }
    }
    Ok(())
}

fn host_triple() -> Result<String> {
    let version = crate::shell::output("rustc", &["-vV"])?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc does not tell its host")
}
