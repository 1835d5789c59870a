//! The public gRPC interface: Rust code and descriptors made from `proto/`, kept beside the gateway.
//!
//! They are kept so that whoever builds Slipring needs neither protoc nor a build script. `fix` writes them,
//! `check` fails when they are not what the protos give.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use prost::Message;

use crate::shell::root;

/// What the generated files begin with.
const HEADER: &str = "//! Messages and services of `proto/slipring/v1`, made by `cargo xtask fix`; change the protos instead.\n\
    #![allow(missing_docs, unreachable_pub, reason = \"the generator writes as it does\")]\n\
    #![allow(clippy::all, clippy::pedantic, clippy::restriction, reason = \"the same\")]\n\n";

/// The only package, and where what is made of it lies.
const PACKAGE: &str = "slipring.v1";
const PROTOS: &str = "proto/slipring/v1";
const CODE: &str = "crates/gateway/src/grpc/generated/v1.rs";
const DESCRIPTORS: &str = "crates/gateway/src/grpc/generated/v1.bin";

/// Writes what the protos give.
pub(crate) fn write() -> Result<()> {
    for (path, bytes) in generate()? {
        let path = root().join(path);
        // A file that stays as it is makes nothing build anew.
        if fs::read(&path).ok().as_ref() != Some(&bytes) {
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// Fails when what is kept is not what the protos give.
pub(crate) fn check() -> Result<()> {
    let differs = |(path, bytes): &(&str, Vec<u8>)| fs::read(root().join(path)).ok().as_ref() != Some(bytes);
    let stale: Vec<&str> = generate()?.iter().filter(|kept| differs(kept)).map(|(path, _)| *path).collect();
    if !stale.is_empty() {
        bail!("not what {PROTOS} gives; run `cargo xtask fix`:\n  {}", stale.join("\n  "));
    }
    Ok(())
}

/// Each file, by its path from the root, and what belongs in it.
fn generate() -> Result<[(&'static str, Vec<u8>); 2]> {
    let mut compiler = protox::Compiler::new([root().join("proto")])?;
    compiler.include_source_info(true).include_imports(true).open_files(protos()?)?;
    let mut descriptors = compiler.file_descriptor_set();
    let folder = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        .bytes(".")
        .out_dir(folder.path())
        .compile_fds(descriptors.clone())?;
    let code = fs::read_to_string(folder.path().join(PACKAGE).with_extension("v1.rs"))?;
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    Ok([(CODE, formatted(&format!("{HEADER}{code}"))?), (DESCRIPTORS, descriptors.encode_to_vec())])
}

/// Every proto, in the order of their names.
fn protos() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(root().join(PROTOS)).context(PROTOS)?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    paths.sort();
    Ok(paths)
}

/// The code as `cargo fmt` would leave it.
fn formatted(code: &str) -> Result<Vec<u8>> {
    let settings = root().join("rustfmt.toml");
    let mut child = Command::new("rustfmt")
        .args([Path::new("--edition"), Path::new("2024"), Path::new("--config-path"), &settings])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("rustfmt cannot be run; is it installed?")?;
    child.stdin.take().expect("it was asked for").write_all(code.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt failed on the generated code: {}", output.status);
    }
    Ok(output.stdout)
}
