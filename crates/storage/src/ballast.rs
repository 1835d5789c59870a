//! Ballast: a file that takes up room which is given to the node's own decisions when the disk is full.
//!
//! Identity, votes and the layout must be written whatever other programs leave of the disk. The file has real
//! blocks, so removing it gives room at once. It is made again when there is room.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Some hundred times what the meta store writes at once.
const BALLAST_BYTES: usize = 4 * 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;

/// The file in a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    /// The ballast of a data directory, whether or not there is any.
    pub(crate) fn of(directory: &Path) -> Self {
        Self(directory.join("reserve"))
    }

    /// Gives its room away; whether there was any.
    pub(crate) fn release(&self) -> bool {
        std::fs::remove_file(&self.0).is_ok()
    }

    /// Makes it where it is missing. Without room there is none.
    pub(crate) fn keep(&self) {
        if !self.0.exists() && self.make().is_err() {
            self.release();
        }
    }

    fn make(&self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&self.0)?;
        // Bytes that no file system stores in fewer.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        for _ in 0..BALLAST_BYTES / PIECE_BYTES {
            piece.clear();
            while piece.len() < PIECE_BYTES {
                state = state.wrapping_mul(0xd128_5a5b_6a1d_3c45).rotate_left(23) ^ 0x94d0_49bb_1331_11eb;
                piece.extend_from_slice(&state.to_le_bytes());
            }
            file.write_all(&piece)?;
        }
        File::sync_data(&file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballast_is_made_once_and_released_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let ballast = Ballast::of(folder.path());
        assert!(!ballast.release(), "there is none yet");
        ballast.keep();
        ballast.keep();
        assert_eq!(ballast.0.metadata().expect("a file").len(), BALLAST_BYTES as u64);
        assert!(ballast.release() && !ballast.release());
    }
}
