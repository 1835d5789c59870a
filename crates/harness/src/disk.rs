//! Disks that can be full: a small file system in memory for root, else a limit on the size of files.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// The size of a small file system: room for the longest run, and quick to fill.
const DISK_BYTES: u64 = 192 * 1024 * 1024;
/// How much is written at once while a disk is filled.
const BALLAST_BYTES: usize = 256 * 1024;

/// A node's disk.
#[derive(Debug)]
pub(crate) enum SmallDisk {
    /// A file system of its own at this place.
    Mounted(PathBuf),
    /// A directory on the common disk; a full disk is a limit on the size of the node's files.
    Limited,
}

impl SmallDisk {
    /// A disk for a node's data directory, which is made.
    pub(crate) fn new(place: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(place).with_context(|| place.display().to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES},mode=700"), "slipring-test"]).arg(place);
        // Without the right to mount there is the other way.
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        Ok(if is_mounted { Self::Mounted(place.to_owned()) } else { Self::Limited })
    }

    /// Whether a process on this disk must be started so that a write beyond its limit is an error, not a signal.
    pub(crate) fn is_limited(&self) -> bool {
        matches!(self, Self::Limited)
    }

    /// Fills it up. `process` is the node's, if it runs.
    pub(crate) fn fill(&self, process: Option<Pid>) -> anyhow::Result<()> {
        match self {
            Self::Mounted(place) => fill(&ballast(place)),
            Self::Limited => limit(process, Some(0)),
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self, process: Option<Pid>) -> anyhow::Result<()> {
        match self {
            Self::Mounted(place) => match std::fs::remove_file(ballast(place)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
            Self::Limited => limit(process, None),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Self::Mounted(place) = self {
            // Lazily: a process that is just ending may still have files open.
            let _ = Command::new("umount").arg("-l").arg(place).output();
        }
    }
}

fn ballast(place: &Path) -> PathBuf {
    place.join("ballast")
}

fn fill(ballast: &Path) -> anyhow::Result<()> {
    let mut file = File::create(ballast).with_context(|| ballast.display().to_string())?;
    let mut piece: &[u8] = &[0x5a; BALLAST_BYTES];
    let mut written = 0;
    // The last bytes are taken one page at a time.
    while written <= DISK_BYTES {
        match file.write(piece) {
            Ok(length) => written += length as u64,
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => match piece.get(..4096) {
                Some(page) if piece.len() > 4096 => piece = page,
                _ => return Ok(()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    bail!("{} is larger than the disk it is on", ballast.display())
}

fn limit(process: Option<Pid>, bytes: Option<u64>) -> anyhow::Result<()> {
    // A process that is gone writes nothing.
    let Some(process) = process else { return Ok(()) };
    let maximum = getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: bytes.or(maximum), maximum };
    prlimit(Some(process), Resource::Fsize, limit).context("the size of files cannot be limited")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("disk");
        let disk = SmallDisk::new(&place).expect("a disk");
        if disk.is_limited() {
            // The other way acts on another process; a run of the harness covers it.
            return;
        }
        let write = || std::fs::write(place.join("file"), [1; 10_000]);
        write().expect("room");
        std::fs::remove_file(place.join("file")).expect("removed");
        disk.fill(None).expect("filled");
        assert_eq!(write().expect_err("full").kind(), std::io::ErrorKind::StorageFull);
        disk.free(None).expect("freed");
        write().expect("room again");
    }
}
