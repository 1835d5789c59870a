//! The programs that tests need beside cargo, and how to get those that are missing.
//!
//! Only what is missing is installed, and nothing is left running: a server that the system starts by itself
//! when its package is installed is stopped again, for tests start their own, on ports of their own.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::shell::{root, run_with};

/// What to run to see whether a tool is there, and the Debian package that brings it.
const TOOLS: &[(&[&str], &str)] = &[
    (&["redis-server", "--version"], "redis-server"),
    (&["redis-cli", "--version"], "redis-tools"),
    (&["redis-benchmark", "--version"], "redis-tools"),
    (&["dnsmasq", "--version"], "dnsmasq-base"),
    (&["curl", "--version"], "curl"),
    (&["faketime", "--version"], "faketime"),
    (&["cc", "--version"], "gcc"),
    (&["c++", "--version"], "g++"),
    (&["python3", "-c", "import venv, ensurepip"], "python3-venv"),
];

/// The servers that the tests of discovery's heavier sources start.
const SERVERS: &[(&[&str], &str)] = &[
    (&["etcd", "--version"], "etcd-server"),
    (&["java", "-version"], "default-jre-headless"),
    (&["test", "-e", "/usr/share/java/zookeeper.jar"], "zookeeper"),
    (&["openssl", "version"], "openssl"),
];

/// What builds programs that Debian does not have.
const GO: &[(&[&str], &str)] = &[(&["go", "version"], "golang-go")];

/// Packages that bring a service which the system may start, and its name.
const SERVICES: &[(&str, &str)] = &[("redis-server", "redis-server"), ("etcd-server", "etcd")];

/// Parts of the Rust toolchain.
const COMPONENTS: &[(&str, &str)] = &[("fmt", "rustfmt"), ("clippy", "clippy")];

/// The cargo-mutants that is installed: what it finds differs between versions.
const MUTANTS_VERSION: &str = "27.1.0";

/// A gRPC client for the command line, built by Go.
const GRPCURL: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3";

/// Builds grpcurl into `target/tools/bin` when it is not there; where there is no Go, its tests are skipped.
pub(crate) fn grpcurl() -> Result<()> {
    let folder = root().join("target/tools/bin");
    if folder.join("grpcurl").exists() {
        return Ok(());
    }
    if !succeeds(&["go", "version"]) {
        println!("grpcurl is not tested: there is no Go to build it with");
        return Ok(());
    }
    let folder = folder.to_str().context("the path of the workspace is not text")?;
    run_with("go", &["install", GRPCURL], &[("GOBIN", folder)])
}

/// Installs cargo-mutants when it is not there.
pub(crate) fn mutants() -> Result<()> {
    if succeeds(&["cargo", "mutants", "--version"]) {
        return Ok(());
    }
    run_with("cargo", &["install", "cargo-mutants", "--locked", "--version", MUTANTS_VERSION], &[])
}

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    components()?;
    packages(TOOLS)?;
    grpcurl()
}

/// Installs the servers that are missing.
pub(crate) fn servers() -> Result<()> {
    packages(SERVERS)
}

/// Installs Go when it is missing.
pub(crate) fn go() -> Result<()> {
    packages(GO)
}

fn components() -> Result<()> {
    for (command, component) in COMPONENTS {
        if !succeeds(&["cargo", command, "--version"]) {
            run_with("rustup", &["component", "add", component], &[])?;
        }
    }
    Ok(())
}

fn packages(tools: &[(&[&str], &'static str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        tools.iter().filter(|(line, _)| !succeeds(line)).map(|(_, package)| *package).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !succeeds(&["apt-get", "--version"]) {
        bail!("please install these, by the names Debian gives them: {list}");
    }
    as_root(&["apt-get", "update", "-qq"])?;
    let mut line = vec!["apt-get", "install", "-y", "-qq", "--no-install-recommends"];
    line.extend(&missing);
    as_root(&line)?;
    for (_, service) in SERVICES.iter().filter(|(package, _)| missing.contains(package)) {
        // It runs only where the system starts services by itself.
        let _ = as_root(&["service", service, "stop"]);
    }
    match tools.iter().find(|(line, _)| !succeeds(line)) {
        Some((line, package)) => bail!("`{}` still fails after installing {package}", line.join(" ")),
        None => Ok(()),
    }
}

/// Whether a program is there and ends well; what it prints is not shown.
pub(crate) fn succeeds(line: &[&str]) -> bool {
    let Some((program, arguments)) = line.split_first() else { return false };
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn as_root(line: &[&str]) -> Result<()> {
    let is_root = crate::shell::output("id", &["-u"])?.trim() == "0";
    // Run level 1 tells Debian's scripts to start no service.
    let settings = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"];
    let prefix = if is_root { &[][..] } else { &["sudo"][..] };
    let whole: Vec<&str> = prefix.iter().chain(&settings).chain(line).copied().collect();
    let (program, arguments) = whole.split_first().context("the line has words")?;
    run_with(program, arguments, &[])
}
