//! End to end: real processes, real clients, driven by pytest in an environment of its own under `target`.

use anyhow::{Context, Result};

use crate::shell::{self, root, tests};
use crate::steps::Tally;

const REQUIREMENTS: &str = "tests/e2e/requirements.txt";

/// Builds the binary, makes the environment when it is not there or asks for something else, and runs the tests.
pub(crate) fn run(arguments: &[String]) -> Result<Tally> {
    run_with(arguments, &[])
}

/// The same with some variables set.
pub(crate) fn run_with(arguments: &[String], variables: &[(&str, &str)]) -> Result<Tally> {
    crate::release()?;
    let python = environment()?;
    if let Err(error) = crate::tools::grpcurl() {
        println!("tests of grpcurl are skipped: {error:#}");
    }
    let mut line = vec!["-m", "pytest", "-q", "--durations=10", "-p", "no:cacheprovider"];
    line.extend(arguments.iter().map(String::as_str));
    if !arguments.iter().any(|argument| argument.starts_with("tests/")) {
        line.push("tests/e2e");
    }
    tests(&python, &line, &[&[("PYTHONUNBUFFERED", "1")], variables].concat())
}

/// The path of an interpreter that has what the tests require.
fn environment() -> Result<String> {
    let folder = root().join("target/e2e-venv");
    let ready = folder.join("ready");
    let wanted = std::fs::read_to_string(root().join(REQUIREMENTS)).context(REQUIREMENTS)?;
    let path = folder.to_str().context("the path of the workspace is not text")?;
    let python = format!("{path}/bin/python");
    if std::fs::read_to_string(&ready).ok().as_deref() != Some(&wanted) {
        shell::run_with("python3", &["-m", "venv", "--clear", path], &[])?;
        shell::run_with(&python, &["-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], &[])?;
        std::fs::write(ready, wanted)?;
    }
    Ok(python)
}
