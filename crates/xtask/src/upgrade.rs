//! A rolling upgrade of real processes, from a build of an earlier commit to the one at hand. The two must have a version
//! of the protocol in common, which those before version 5 have not.

use anyhow::{Context, Result};

use crate::shell::{output, root, run_with};
use crate::steps::Tally;

/// Builds the binaries of a commit and of the tree at hand, and runs the tests that need both.
pub(crate) fn run(revision: &str) -> Result<Tally> {
    let commit =
        output("git", &["rev-parse", "--verify", &format!("{revision}^{{commit}}")]).with_context(|| {
            format!("{revision} is no commit of this clone; a shallow one lacks the older ones")
        })?;
    let folder = root().join("target/upgrade");
    let (source, target) = (folder.join("source"), folder.join("target"));
    let path = source.to_str().context("the path of the workspace is not text")?;
    println!("building {revision}: a whole release build, minutes on two processors");
    if source.join(".git").exists() {
        run_with("git", &["-C", path, "checkout", "--quiet", "--detach", commit.trim()], &[])?;
    } else {
        run_with("git", &["worktree", "prune"], &[])?;
        run_with("git", &["worktree", "add", "--quiet", "--detach", path, commit.trim()], &[])?;
    }
    let manifest = source.join("Cargo.toml");
    let manifest = manifest.to_str().context("the path of the workspace is not text")?;
    let target_dir = target.to_str().context("the path of the workspace is not text")?;
    let line = [
        "build",
        "--locked",
        "--release",
        "--package",
        "slipring",
        "--manifest-path",
        manifest,
        "--target-dir",
        target_dir,
    ];
    run_with("cargo", &line, &[])?;
    let before = target.join("release/slipring");
    let before = before.to_str().context("the path of the workspace is not text")?;
    crate::e2e::run_with(&["tests/e2e/upgrading.py".to_owned()], &[("SLIPRING_BINARY_BEFORE", before)])
}
