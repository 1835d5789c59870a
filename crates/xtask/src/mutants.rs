//! Whether the unit tests would notice small mistakes in the code that the promises rest on.
//!
//! cargo-mutants plants them one at a time in a copy of the workspace and runs the unit tests of the crate.
//! Where it plants them, and what it leaves out and why, is told in `.cargo/mutants.toml`.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell::root;
use crate::tools;

/// Kilobytes of memory a mistake may use: one that makes a loop endless must end before the machine does.
const MEMORY_KB: &str = "6291456";
/// How cargo-mutants ends when every mistake was noticed, some by tests that would not end any more.
const HUNG: i32 = 3;
/// What is compiled for each mistake is run for a second: fast to build beats fast to run.
const QUICK: &[(&str, &str)] = &[("CARGO_PROFILE_DEV_OPT_LEVEL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "0")];

/// Plants every mistake, or those in some crates; fails when the tests pass in spite of one.
pub(crate) fn run(packages: &[String]) -> Result<()> {
    tools::mutants()?;
    let out = root().join("target/mutants");
    std::fs::create_dir_all(&out)?;
    let out = out.to_string_lossy();
    let limit = format!("ulimit -v {MEMORY_KB} && exec cargo mutants \"$@\"");
    let mut line = vec!["-c", &limit, "mutants", "--output", &out];
    match packages {
        [] => line.push("--workspace"),
        some => some.iter().for_each(|package| line.extend(["--package", package])),
    }
    let mut planting = Command::new("sh");
    planting.args(line).envs(QUICK.iter().copied()).current_dir(root());
    match planting.status().context("the shell cannot be run")?.code() {
        Some(0 | HUNG) => Ok(()),
        _ => bail!("tests pass in spite of mistakes; see {out}/mutants.out/missed.txt"),
    }
}
