//! Running other programs from the root of the workspace.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::Tally;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the root").to_owned()
}

/// The binary that users run; `release` builds it.
pub(crate) fn binary() -> PathBuf {
    root().join("target/release/slipring")
}

/// Runs cargo; its output goes where ours goes.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    run_with("cargo", arguments, &[])
}

/// Runs a program with some variables set.
pub(crate) fn run_with(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    run_in(&root(), program, arguments, variables)
}

/// The same from another folder.
pub(crate) fn run_in(
    folder: &Path,
    program: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> Result<()> {
    let (line, mut command) = prepare(program, arguments, variables);
    command.current_dir(folder);
    let status = command.status().with_context(|| format!("{program} cannot be run; is it installed?"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs suites of tests, passes their output on, and adds up their closing lines.
///
/// A program that fails without counting a failure, because it did not even build, counts as one.
pub(crate) fn tests(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Tally> {
    tests_by_line(program, arguments, variables, &mut |_| {})
}

/// The same; `each` sees every line of their output.
pub(crate) fn tests_by_line(
    program: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
    each: &mut dyn FnMut(&str),
) -> Result<Tally> {
    let (line, mut command) = prepare(program, arguments, variables);
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("{program} cannot be run; is it installed?"))?;
    let mut tally = Tally::default();
    for bytes in BufReader::new(child.stdout.take().expect("it was asked for")).split(b'\n') {
        let text = String::from_utf8_lossy(&bytes?).into_owned();
        println!("{text}");
        each(&text);
        tally = tally.plus(Tally::read(&text).unwrap_or_default());
    }
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        println!("`{line}` failed: {status}");
        tally.failed = 1;
    }
    Ok(tally)
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

fn prepare(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (String, Command) {
    let line = format!("{program} {}", arguments.join(" "));
    println!("> {line}");
    let mut command = Command::new(program);
    command.args(arguments).envs(variables.iter().copied()).current_dir(root());
    (line, command)
}
