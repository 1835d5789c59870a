//! Running other programs from the root of the workspace, and telling how long each step took.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_owned()
}

/// Runs cargo; its output goes where ours goes.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    run_with("cargo", arguments, &[])
}

/// Runs a program with some variables set.
pub(crate) fn run_with(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let line = format!("{program} {}", arguments.join(" "));
    println!("\n> {line}");
    let mut command = Command::new(program);
    command.args(arguments).envs(variables.iter().copied()).current_dir(root());
    let status = command.status().with_context(|| format!("{program} cannot be run; is it installed?"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// What a program prints.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).output();
    let output = output.with_context(|| format!("{program} cannot be run; is it installed?"))?;
    if !output.status.success() {
        bail!("`{program} {}` failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How long each step took.
#[derive(Default)]
pub(crate) struct Timings(Vec<(String, Duration, bool)>);

impl Timings {
    /// Runs a step and keeps its time.
    pub(crate) fn time(&mut self, step: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = Instant::now();
        let result = run();
        self.0.push((step.to_owned(), began.elapsed(), result.is_ok()));
        result
    }

    /// Prints a table of them.
    pub(crate) fn print(&self) {
        println!();
        for (step, took, is_good) in &self.0 {
            println!("{:>7.1} s  {}  {step}", took.as_secs_f64(), if *is_good { "ok    " } else { "FAILED" });
        }
    }
}
