//! The key by which others know this node in a table: drawn once, then kept in a file that only its owner reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use libp2p::identity::Keypair;

use crate::source::Failure;

/// The longest file that is read, in bytes; a key takes 68.
const BYTES_MAX: u64 = 1024;

/// The key in a file, which is made when there is none; a new key where there is to be no file.
///
/// # Errors
/// The file cannot be read or made, or is damaged. It is never replaced: others may expect the key that was in it.
pub(super) fn load(file: Option<&Path>) -> Result<Keypair, Failure> {
    let Some(file) = file else { return Ok(Keypair::generate_ed25519()) };
    let name = file.display().to_string();
    match read(file) {
        Ok(bytes) => Keypair::from_protobuf_encoding(&bytes)
            .map_err(|error| Failure::new(&format!("{name} holds no key; remove it to get another"), &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = Keypair::generate_ed25519();
            let bytes = keys.to_protobuf_encoding().map_err(|error| Failure::new(&name, &error))?;
            keep(file, &bytes).map_err(|error| Failure::new(&name, &error))?;
            Ok(keys)
        }
        Err(error) => Err(Failure::new(&name, &error)),
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whole or not at all: a file that was cut short would never be replaced.
fn keep(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = file.with_extension("partial");
    let mut options = OpenOptions::new();
    let mut opened = options.write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    opened.write_all(bytes)?;
    opened.sync_all()?;
    std::fs::rename(&partial, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_drawn_once_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libp2p-ring.key");
        let first = load(Some(&file)).expect("a key").public();
        assert_eq!(load(Some(&file)).expect("a key").public(), first);
        assert_ne!(load(None).expect("a key").public(), first);
        let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_key_is_told_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("libp2p-ring.key");
        std::fs::write(&file, "no key").expect("written");
        let failure = load(Some(&file)).expect_err("no key").to_string();
        assert!(failure.contains("libp2p-ring.key"), "{failure}");
        assert_eq!(std::fs::read(&file).expect("a file"), b"no key");
        assert!(load(Some(&folder.path().join("nowhere/libp2p-ring.key"))).is_err());
    }
}
