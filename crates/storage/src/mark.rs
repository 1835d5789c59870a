//! The mark: how far the disk engine had got, kept beside it.
//!
//! The engine may take a damaged journal for one that simply ends there. So it is told a number now and then,
//! and the same number is kept here; an engine that opens with a lower one has lost what lay between.
//!
//! Two slots are written in turn, so that a torn write spoils only the older number.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;

const SLOT_BYTES: u64 = 4096;
const MAGIC: &[u8; 8] = b"slipmark";

/// The file and the number it holds.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    file: File,
    number: u64,
}

impl Mark {
    /// Opens the mark, or makes one that holds 0. `Err` when neither slot can be read.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let io = |error: std::io::Error| Error::io(path, &error);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let slots = [0, 1].map(|slot| read_slot(&file, slot));
        let number = slots.into_iter().flatten().max();
        let number = match number {
            Some(number) => number,
            None if length == 0 => 0,
            None => {
                let detail = "neither of its two slots can be read".to_owned();
                return Err(Error::Damaged { place: path.display().to_string(), detail });
            }
        };
        Ok(Self { path: path.to_owned(), file, number })
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Keeps a higher number: in the hands of the operating system when this returns.
    pub(crate) fn raise(&mut self, number: u64) -> Result<(), Error> {
        let mut slot = [&MAGIC[..], &number.to_le_bytes()].concat();
        slot.extend_from_slice(&xxhash_rust::xxh3::xxh3_64(&slot).to_le_bytes());
        let at = number % 2 * SLOT_BYTES;
        self.file.write_all_at(&slot, at).map_err(|error| Error::io(&self.path, &error))?;
        self.number = number;
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<u64> {
    let mut bytes = [0; 24];
    file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
    let (body, sum) = bytes.split_at_checked(16)?;
    let is_whole = xxhash_rust::xxh3::xxh3_64(body).to_le_bytes() == sum && body.starts_with(MAGIC);
    is_whole.then(|| body.last_chunk::<8>().map(|number| u64::from_le_bytes(*number))).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_survives_and_a_torn_slot_gives_the_one_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("mark");
        let mut mark = Mark::open(&path).expect("new");
        assert_eq!(mark.number(), 0);
        mark.raise(4).expect("written");
        mark.raise(5).expect("written");
        assert_eq!(Mark::open(&path).expect("kept").number(), 5);
        mark.file.write_all_at(b"torn", SLOT_BYTES + 8).expect("written");
        assert_eq!(Mark::open(&path).expect("the other slot").number(), 4);
        mark.file.write_all_at(b"torn", 8).expect("written");
        assert!(matches!(Mark::open(&path), Err(Error::Damaged { .. })));
    }
}
