//! The server binary under test: built once by cargo, as the workspace has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

/// A test of the server's package: with it, cargo builds the server.
const SERVER_TEST: &str = "commands";

/// How the server is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build.
    Debug,
    /// As users run it.
    Release,
}

/// Builds the server; where it is.
///
/// # Errors
/// Cargo cannot be run, or the server does not build.
pub fn build(profile: Profile) -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).context("the crate lies two folders below the root")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(match profile {
        // As the workspace's tests have it, down to the features of the libraries: then nothing is built anew.
        Profile::Debug => ["test", "--quiet", "--no-run", "--workspace", "--test", SERVER_TEST],
        Profile::Release => ["build", "--quiet", "--release", "--package", "slipring", "--bins"],
    });
    let status = command.status().context("cargo cannot be run")?;
    if !status.success() {
        bail!("the server does not build: {status}");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let folder = if profile == Profile::Debug { "debug" } else { "release" };
    let binary = target.join(folder).join("slipring");
    binary.is_file().then_some(()).with_context(|| format!("{} is not there", binary.display()))?;
    Ok(binary)
}
