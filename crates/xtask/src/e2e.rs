//! Tests of real processes: pytest in an environment of its own.

use anyhow::{Context, Result};

use crate::shell::{cargo, root, run_with};

/// Builds the binary, makes the environment when there is none, and runs the tests.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    cargo(&["build", "--release", "--package", "slipring"])?;
    let environment = root().join("target/e2e-venv");
    let python = environment.join("bin/python");
    let python = python.to_str().context("the path of the workspace is not text")?;
    if !environment.join("ready").exists() {
        run_with("python3", &["-m", "venv", environment.to_str().unwrap_or_default()], &[])?;
        run_with(python, &["-m", "pip", "install", "--quiet", "-r", "tests/e2e/requirements.txt"], &[])?;
        std::fs::write(environment.join("ready"), "")?;
    }
    let mut line = vec!["-m", "pytest", "-q", "--durations=5", "tests/e2e"];
    line.extend(arguments.iter().map(String::as_str));
    run_with(python, &line, &[])
}
