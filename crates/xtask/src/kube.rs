//! A kube-apiserver for the tests of discovery: the one that a variable names, or one that Go builds.
//!
//! `go install` refuses the module of Kubernetes, for its go.mod replaces other modules. So a module of our
//! own below `target/tools` requires it, and replaces them by what was released with it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{output, root, run_in};
use crate::tools;

/// Where a kube-apiserver is that is not to be built; the tests are told by the same variable.
pub(crate) const VARIABLE: &str = "SLIPRING_KUBE_APISERVER";

/// The release that is built: its minor version and its patch.
const MINOR: u32 = 34;
const PATCH: u32 = 1;

/// The oldest Go, 1.21, that fetches the one which a module asks for.
const GO_MINOR_MIN: u32 = 21;

/// The modules that are released with Kubernetes, which asks for each as version 0.0.0.
const RELEASED_WITH_IT: [&str; 31] = [
    "api",
    "apiextensions-apiserver",
    "apimachinery",
    "apiserver",
    "cli-runtime",
    "client-go",
    "cloud-provider",
    "cluster-bootstrap",
    "code-generator",
    "component-base",
    "component-helpers",
    "controller-manager",
    "cri-api",
    "cri-client",
    "csi-translation-lib",
    "dynamic-resource-allocation",
    "endpointslice",
    "externaljwt",
    "kms",
    "kube-aggregator",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "metrics",
    "mount-utils",
    "pod-security-admission",
    "sample-apiserver",
    "sample-cli-plugin",
    "sample-controller",
];

/// What the tests can be run against.
pub(crate) enum ApiServer {
    /// The program's path.
    At(String),
    /// None can be had here.
    Missing {
        /// For people.
        why: String,
    },
}

/// The kube-apiserver that the variable names, the one built before, or one that is built now.
///
/// # Errors
/// The variable names what is not there, or what was fetched does not build.
pub(crate) fn apiserver() -> Result<ApiServer> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("{VARIABLE} names {}, which is no file", path.display());
        }
        return Ok(ApiServer::At(text(&path)?));
    }
    let program = root().join(format!("target/tools/bin/kube-apiserver-1.{MINOR}.{PATCH}"));
    if program.is_file() {
        return Ok(ApiServer::At(text(&program)?));
    }
    let folder = root().join("target/tools/kube-apiserver");
    if let Err(error) = go().and_then(|()| fetch(&folder)) {
        return Ok(ApiServer::Missing { why: format!("{error:#}") });
    }
    build(&folder, &program)?;
    Ok(ApiServer::At(text(&program)?))
}

/// Writes our module and fetches what it requires.
fn fetch(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("go.mod"), module())?;
    run_in(folder, "go", &["mod", "download", "k8s.io/kubernetes"], &[])
}

/// Puts a kube-apiserver at `program`, whole or not at all.
fn build(folder: &Path, program: &Path) -> Result<()> {
    std::fs::create_dir_all(program.parent().context("it lies in a folder")?)?;
    println!(
        "building kube-apiserver 1.{MINOR}.{PATCH} with Go, once: it fetches about 80 MB and takes about a \
         quarter of an hour on two processors; set {VARIABLE} to use another"
    );
    let began = Instant::now();
    let line = ["build", "-mod=mod", "-o", "kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"];
    run_in(folder, "go", &line, &[("CGO_ENABLED", "0")])?;
    std::fs::rename(folder.join("kube-apiserver"), program)?;
    println!("built {} in {:.0} s", program.display(), began.elapsed().as_secs_f64());
    Ok(())
}

/// Sees to a Go that is new enough.
fn go() -> Result<()> {
    if !tools::succeeds(&["go", "version"]) {
        let offered = output("apt-cache", &["show", "--no-all-versions", "golang-go"]).unwrap_or_default();
        if minor(&offered, ":1.").is_none_or(|minor| minor < GO_MINOR_MIN) {
            bail!(
                "there is no Go to build it with, and the system's packages have none from 1.{GO_MINOR_MIN} on"
            );
        }
        tools::go()?;
    }
    let version = output("go", &["version"])?;
    if minor(&version, "go1.").is_none_or(|minor| minor < GO_MINOR_MIN) {
        bail!("it takes Go 1.{GO_MINOR_MIN} or later; this is {}", version.trim());
    }
    Ok(())
}

/// The number that follows the first `mark`.
fn minor(text: &str, mark: &str) -> Option<u32> {
    let (_, rest) = text.split_once(mark)?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

/// Our module, which requires the release.
fn module() -> String {
    let mut text =
        format!("module slipring/kube\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v1.{MINOR}.{PATCH}\n");
    for name in RELEASED_WITH_IT {
        // Writing to a string cannot fail.
        let _ = write!(text, "\nreplace k8s.io/{name} => k8s.io/{name} v0.{MINOR}.{PATCH}\n");
    }
    text
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_go_and_debian_write_them() {
        assert_eq!(minor("go version go1.26.8 linux/amd64", "go1."), Some(26));
        assert_eq!(minor("go version go1.19 linux/amd64", "go1."), Some(19));
        assert_eq!(minor("Package: golang-go\nVersion: 2:1.24~2\n", ":1."), Some(24));
        assert_eq!(minor("", ":1."), None);
        assert_eq!(minor("go version devel", "go1."), None);
    }

    #[test]
    fn our_module_requires_one_release_and_all_that_belongs_to_it() {
        let module = module();
        assert!(module.contains("require k8s.io/kubernetes v1.34.1\n"));
        assert!(module.contains("replace k8s.io/client-go => k8s.io/client-go v0.34.1\n"));
        assert_eq!(module.matches("\nreplace ").count(), RELEASED_WITH_IT.len());
    }
}
