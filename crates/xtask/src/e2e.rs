//! End to end: real processes, real clients, driven by pytest in an environment of its own under `target`.

use anyhow::{Context, Result};

use crate::flaky::Failures;
use crate::shell::{self, root, tests_by_line};
use crate::steps::Tally;

const REQUIREMENTS: &str = "tests/e2e/requirements.txt";

/// Builds the binary, makes the environment when it is not there or asks for something else, and runs the tests.
///
/// One or two tests that fail run once more, each alone; `flaky` receives a line for each that then passes.
pub(crate) fn run(arguments: &[String], flaky: &mut Vec<String>) -> Result<Tally> {
    let suite = Suite::new()?;
    let mut failures = Failures::default();
    let tally = suite.run(arguments, &[], &mut |line| failures.read(line))?;
    failures.run_again(tally, flaky, |name| suite.run(&[name.to_owned()], &[], &mut |_| {}))
}

/// Runs some tests with some variables set.
pub(crate) fn run_with(arguments: &[String], variables: &[(&str, &str)]) -> Result<Tally> {
    Suite::new()?.run(arguments, variables, &mut |_| {})
}

/// What is ready to run tests.
struct Suite {
    python: String,
}

impl Suite {
    fn new() -> Result<Self> {
        crate::release()?;
        let python = environment()?;
        if let Err(error) = crate::tools::grpcurl() {
            println!("tests of grpcurl are skipped: {error:#}");
        }
        Ok(Self { python })
    }

    fn run(
        &self,
        arguments: &[String],
        variables: &[(&str, &str)],
        each: &mut dyn FnMut(&str),
    ) -> Result<Tally> {
        let mut line = vec!["-m", "pytest", "-q", "-rfE", "--durations=10", "-p", "no:cacheprovider"];
        line.extend(arguments.iter().map(String::as_str));
        if !arguments.iter().any(|argument| argument.starts_with("tests/")) {
            line.push("tests/e2e");
        }
        let variables = [&[("PYTHONUNBUFFERED", "1")], variables].concat();
        tests_by_line(&self.python, &line, &variables, each)
    }
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
