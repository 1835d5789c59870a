//! The store's manifests and the tails of its tables, checked before the store reads them.
//!
//! The store reserves memory after numbers that stand in these files, and only then looks whether the numbers
//! are true: one changed byte could end the process. Each tree has a file `current`, which names its manifest
//! and the manifest's checksum; the manifest names the tables; the tail of each holds the checksum of its table
//! of contents. Everything behind those the store checks itself.
//!
//! A table that no manifest names was not finished when the process died; the store removes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use crate::Error;

/// Magic, version, kind of checksum, checksum, place and length of the table of contents.
const TAIL_BYTES: u64 = 38;
const TAIL_MAGIC: [u8; 6] = *b"SFA!\x01\x00";
const CONTENTS_MAGIC: [u8; 4] = *b"TOC!";
/// A table of contents has a handful of entries.
const CONTENTS_BYTES_MAX: u64 = 64 * 1024;

/// The tree of the store's own names.
const NAMES_TREE: &str = "0";

/// Checks every tree of a store; `was_used` tells whether anything was ever written to it.
///
/// # Errors
/// [`Error::Damaged`] when something is not what was written, or is gone.
pub(crate) fn inspect(store: &Path, was_used: bool) -> Result<(), Error> {
    let trees = store.join("keyspaces");
    let mut found = folders(&trees).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(&trees, "it is gone"),
        _ => Error::io(&trees, &error),
    })?;
    let names = trees.join(NAMES_TREE);
    if was_used && !found.contains(&names) {
        found.push(names);
    }
    // One more, which is as old, holds the records.
    if was_used && found.len() < 2 {
        return Err(damaged(&trees, "the tree with the records is gone from it"));
    }
    for tree in found {
        let current = tree.join("current");
        match std::fs::read(&current) {
            // Without this file a tree was not finished when the process died, and the store removes it. All are
            // finished before anything is written.
            Err(error) if error.kind() == io::ErrorKind::NotFound && was_used => {
                return Err(damaged(&current, "it is gone"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(&current, &error)),
            Ok(bytes) => inspect_tree(&tree, &current, &bytes)?,
        }
    }
    Ok(())
}

fn folders(trees: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(trees)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn inspect_tree(tree: &Path, current: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut fields = Fields(bytes);
    let named = fields.u64().zip(fields.u128()).filter(|_| fields.0 == [0]);
    let (version, sum) = named.ok_or_else(|| damaged(current, "it does not name a manifest"))?;
    let path = tree.join(format!("v{version}"));
    let manifest = std::fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(&path, "it is gone"),
        _ => Error::io(&path, &error),
    })?;
    if xxh3_128(&manifest) != sum {
        return Err(damaged(&path, "its checksum is wrong"));
    }
    for table in tables(&path, &manifest)? {
        inspect_table(&tree.join("tables").join(table.to_string()))?;
    }
    Ok(())
}

/// The tables that a manifest names. Its bytes are what was written, so another shape is another version's.
fn tables(path: &Path, manifest: &[u8]) -> Result<Vec<u64>, Error> {
    let unknown = || damaged(path, "it has a shape that this version does not know");
    let file = File::open(path).map_err(|error| Error::io(path, &error))?;
    let contents = contents(path, &file)?;
    let mut section = Fields(section(&contents, manifest, b"tables").ok_or_else(unknown)?);
    let mut found = Vec::new();
    for _ in 0..section.u8().ok_or_else(unknown)? {
        for _ in 0..section.u8().ok_or_else(unknown)? {
            for _ in 0..section.u32().ok_or_else(unknown)? {
                let table = section.u64().ok_or_else(unknown)?;
                // The kind and value of its checksum, and a number of the store's.
                section.take::<25>().ok_or_else(unknown)?;
                found.push(table);
            }
        }
    }
    Ok(found)
}

fn inspect_table(path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is gone"),
        _ => Error::io(path, &error),
    })?;
    contents(path, &file).map(drop)
}

/// The table of contents of a manifest or a table, as its tail vouches for it.
fn contents(path: &Path, file: &File) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| Error::io(path, &error);
    let wrong = || damaged(path, "its tail is not what was written");
    let end = file.metadata().map_err(failed)?.len().checked_sub(TAIL_BYTES).ok_or_else(wrong)?;
    let mut tail = [0; TAIL_BYTES as usize];
    file.read_exact_at(&mut tail, end).map_err(failed)?;
    let mut fields = Fields(tail.strip_prefix(&TAIL_MAGIC).ok_or_else(wrong)?);
    let (sum, (start, length)) =
        fields.u128().zip(fields.u64().zip(fields.u64())).expect("the tail holds three numbers");
    if length > CONTENTS_BYTES_MAX || start.checked_add(length) != Some(end) {
        return Err(wrong());
    }
    let mut contents = vec![0; length as usize];
    file.read_exact_at(&mut contents, start).map_err(failed)?;
    if xxh3_128(&contents) == sum { Ok(contents) } else { Err(wrong()) }
}

/// A section of a manifest.
fn section<'m>(contents: &[u8], manifest: &'m [u8], name: &[u8]) -> Option<&'m [u8]> {
    let mut fields = Fields(contents.strip_prefix(&CONTENTS_MAGIC)?);
    for _ in 0..fields.u32()? {
        let (start, length) = (fields.u64()?, fields.u64()?);
        let name_bytes = usize::from(u16::from_le_bytes(fields.take()?));
        let (found, rest) = fields.0.split_at_checked(name_bytes)?;
        fields.0 = rest;
        if found == name {
            let start = usize::try_from(start).ok()?;
            return manifest.get(start..start.checked_add(usize::try_from(length).ok()?)?);
        }
    }
    None
}

/// Numbers one after the other, little-endian; `None` when there are no more bytes.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }
}

fn damaged(path: &Path, detail: &str) -> Error {
    Error::Damaged { place: path.display().to_string(), detail: detail.to_owned() }
}
