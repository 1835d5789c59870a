//! The mark: how far the disk engine had got, kept beside it.
//!
//! The store may take a damaged journal for one that simply ends there. So a count of batches is passed
//! through it now and then and kept here; a store that opens with a lower count has lost what lay between.
//! What the system had not yet forced to disk may go with the power, so a mark of an earlier boot vouches only
//! for what had been synced.
//!
//! Invariant: two slots are written in turn, so that a torn write spoils only the newest entry.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::Error;
use crate::data_dir::sync_entries;

const SLOT_BYTES: u64 = 4096;
/// Names the format; its last byte is the version.
const MAGIC: [u8; 8] = *b"slipmrk2";

/// The file and the newest entry in it.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    file: File,
    /// Of the running system; 0 when it does not tell, and then no two are the same.
    boot: u64,
    newest: Entry,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Rises with every entry; the higher of two is the newer.
    generation: u64,
    /// Batches that had been handed to the operating system.
    reached: u64,
    /// Batches that had been forced to disk.
    synced: u64,
    /// The boot in which it was written.
    boot: u64,
}

impl Mark {
    /// Makes a mark of 0, on disk when this returns.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path).map_err(|error| Error::io(path, &error))?;
        let mut mark = Self { path: path.to_owned(), file, boot: this_boot(), newest: Entry::default() };
        mark.synced(0)?;
        sync_entries(path.parent().unwrap_or(Path::new(".")))?;
        Ok(mark)
    }

    /// Opens the mark. [`Error::Damaged`] when there is none, or when neither slot can be read.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let damaged =
            |detail: &str| Error::Damaged { place: path.display().to_string(), detail: detail.to_owned() };
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => damaged("it is gone"),
                _ => Error::io(path, &error),
            })?;
        let mut newest = None;
        for slot in 0..2 {
            let entry = read_slot(&file, slot).map_err(|error| Error::io(path, &error))?;
            newest = newest.into_iter().chain(entry).max_by_key(|entry| entry.generation);
        }
        let newest = newest.ok_or_else(|| damaged("neither of its two slots can be read"))?;
        Ok(Self { path: path.to_owned(), file, boot: this_boot(), newest })
    }

    /// The batches that a store beside this mark must hold.
    pub(crate) fn floor(&self) -> u64 {
        if self.is_of_this_boot() { self.newest.reached } else { self.newest.synced }
    }

    /// Whether the system has run since it was written, so that nothing can have gone with the power.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot != 0 && self.newest.boot == self.boot
    }

    /// Forgets what went with the power: the store goes on from `batches`.
    pub(crate) fn resume(&mut self, batches: u64) {
        self.newest.reached = batches;
    }

    /// So many batches are in the hands of the operating system; so is this entry when it returns.
    pub(crate) fn reached(&mut self, batches: u64) -> Result<(), Error> {
        self.write(Entry { reached: batches.max(self.newest.reached), ..self.newest })
    }

    /// So many batches are on disk; so is this entry when it returns.
    pub(crate) fn synced(&mut self, batches: u64) -> Result<(), Error> {
        let newest = self.newest;
        let reached = batches.max(newest.reached);
        self.write(Entry { reached, synced: batches.max(newest.synced), ..newest })?;
        self.file.sync_data().map_err(|error| Error::io(&self.path, &error))
    }

    fn write(&mut self, entry: Entry) -> Result<(), Error> {
        let entry = Entry { generation: self.newest.generation + 1, boot: self.boot, ..entry };
        let numbers = [entry.generation, entry.reached, entry.synced, entry.boot];
        let mut slot = [&MAGIC[..], numbers.map(u64::to_le_bytes).as_flattened()].concat();
        slot.extend_from_slice(&xxh3_64(&slot).to_le_bytes());
        slot.resize(SLOT_BYTES as usize, 0);
        let at = entry.generation % 2 * SLOT_BYTES;
        self.file.write_all_at(&slot, at).map_err(|error| Error::io(&self.path, &error))?;
        self.newest = entry;
        Ok(())
    }
}

/// What a slot holds; `None` when it was never written, or torn.
fn read_slot(file: &File, slot: u64) -> io::Result<Option<Entry>> {
    let mut bytes = [0; 48];
    match file.read_exact_at(&mut bytes, slot * SLOT_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let (body, sum) = bytes.split_at(40);
    if xxh3_64(body).to_le_bytes() != sum || !body.starts_with(&MAGIC) {
        return Ok(None);
    }
    let mut numbers = body
        .chunks_exact(8)
        .skip(1)
        .map(|chunk| u64::from_le_bytes(chunk.try_into().expect("chunks_exact gives chunks of eight bytes")));
    let mut next = || numbers.next().expect("a slot holds four numbers");
    Ok(Some(Entry { generation: next(), reached: next(), synced: next(), boot: next() }))
}

/// A number of this boot of the system, 0 where there is no telling.
fn this_boot() -> u64 {
    std::fs::read("/proc/sys/kernel/random/boot_id").map_or(0, |id| xxh3_64(&id).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> (tempfile::TempDir, Mark) {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = Mark::create(&dir.path().join("mark")).expect("new");
        (dir, mark)
    }

    #[test]
    fn a_torn_slot_gives_the_entry_before() {
        let (_dir, mut mark) = mark();
        mark.synced(4).expect("written");
        mark.synced(5).expect("written");
        assert_eq!(Mark::open(&mark.path).expect("kept").floor(), 5);
        let newest = mark.newest.generation % 2 * SLOT_BYTES;
        mark.file.write_all_at(b"torn", newest + 12).expect("written");
        assert_eq!(Mark::open(&mark.path).expect("the other slot").floor(), 4);
        mark.file.write_all_at(b"torn", SLOT_BYTES - newest + 12).expect("written");
        assert!(matches!(Mark::open(&mark.path), Err(Error::Damaged { .. })));
    }

    #[test]
    fn after_another_boot_only_what_was_synced_must_be_there() {
        let (_dir, mut mark) = mark();
        mark.boot = 7;
        mark.synced(10).expect("written");
        mark.reached(15).expect("written");
        let mut next = Mark::open(&mark.path).expect("kept");
        for (boot, floor) in [(7, 15), (8, 10), (0, 10)] {
            next.boot = boot;
            assert_eq!(next.floor(), floor);
        }
        // The store kept 12 of them; the count goes on from there and is not held against it again.
        next.boot = 8;
        next.resume(12);
        next.reached(13).expect("written");
        let mut last = Mark::open(&mark.path).expect("kept");
        last.boot = 8;
        assert_eq!(last.floor(), 13);
    }

    #[test]
    fn a_mark_that_is_gone_is_damage() {
        let (dir, mark) = mark();
        drop(mark);
        std::fs::remove_file(dir.path().join("mark")).expect("removed");
        assert!(matches!(Mark::open(&dir.path().join("mark")), Err(Error::Damaged { .. })));
    }
}
