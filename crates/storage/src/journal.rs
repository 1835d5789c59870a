//! The store's journal, looked through before the store reads it.
//!
//! The store ends the process when a damaged length makes it ask for more memory than there is, and refuses a
//! journal whose last batches, never synced, reached the disk in part when the power failed. So every batch is
//! checked here first, as the store wrote it: a start with the number of its items and its own, the items, an
//! end with their checksum. A tail that is simply not finished is left to the store, which takes it away.
//!
//! Invariant: only the newest journal is ever shortened, only after a loss of power, and only where a batch is
//! broken; the mark then tells whether what is gone had been synced.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::Error;

/// The most bytes of one record, sealed: a longer one in a journal is no record.
pub(crate) const RECORD_BYTES_MAX: u64 = 1 << 31;
/// Behind the checksum at the end of a batch.
const END_MAGIC: [u8; 4] = *b"FJL\x03";
/// Type, compression, keyspace, and the lengths of key, value and stored value.
const ITEM_HEADER_BYTES: usize = 20;
/// No store counts this far.
const NUMBER_MAX: u64 = 1 << 62;
const UNCOMPRESSED: u8 = 0;
const BUFFER_BYTES: usize = 256 * 1024;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;

/// Checks all journals of a store; `is_after_power_loss` tells whether unsynced bytes may be missing.
///
/// # Errors
/// [`Error::Damaged`] when a batch is not what was written.
pub(crate) fn inspect(store: &Path, is_after_power_loss: bool) -> Result<(), Error> {
    let numbered = list(store).map_err(|error| Error::io(store, &error))?;
    check_numbers(store, &numbered)?;
    let journals: Vec<&PathBuf> = numbered.iter().map(|(_, path)| path).collect();
    let mut last = None;
    for (number, path) in journals.iter().enumerate() {
        let failed = |error: io::Error| Error::io(path, &error);
        let mut walk = Walk::new(File::open(path).map_err(failed)?, last);
        let tail = walk.run().map_err(failed)?;
        last = walk.last;
        if tail == Tail::Unfinished {
            continue;
        }
        if !is_after_power_loss || number + 1 < journals.len() {
            return Err(Error::Damaged {
                place: path.display().to_string(),
                detail: format!("the batch at byte {} is not what was written", walk.whole),
            });
        }
        let file = File::options().write(true).open(path).map_err(failed)?;
        file.set_len(walk.whole).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    Ok(())
}

/// Journals are numbered one by one and removed from the oldest on; the newest is never removed.
fn check_numbers(store: &Path, numbered: &[(u64, PathBuf)]) -> Result<(), Error> {
    let gone = |place: PathBuf| Error::Damaged {
        place: place.display().to_string(),
        detail: "it is gone".to_owned(),
    };
    if numbered.is_empty() {
        return Err(gone(store.join("*.jnl")));
    }
    let gap = numbered.iter().zip(numbered.iter().skip(1)).find(|((one, _), (next, _))| one + 1 != *next);
    gap.map_or(Ok(()), |((before, _), _)| Err(gone(store.join(format!("{}.jnl", before + 1)))))
}

/// The journals with their numbers, the oldest first.
fn list(store: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(store)? {
        let path = entry?.path();
        let number =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == "jnl"))
        {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// What follows the last whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// Nothing, zeros, or the beginning of a batch.
    Unfinished,
    /// A batch whose end does not fit its items, or whose lengths nobody wrote.
    Broken,
}

/// What one entry tells.
enum Step {
    Goes,
    Ends(Tail),
}

/// One pass over a journal.
struct Walk {
    reader: BufReader<File>,
    at: u64,
    /// Where the last whole batch ends.
    whole: u64,
    /// Items that the batch still lacks; `None` between batches.
    missing: Option<u32>,
    /// The number of this batch, which no checksum covers, and that of the last one: they rise.
    number: u64,
    last: Option<u64>,
    items: Xxh3,
    buffer: Vec<u8>,
}

impl Walk {
    fn new(file: File, last: Option<u64>) -> Self {
        Self {
            reader: BufReader::with_capacity(BUFFER_BYTES, file),
            at: 0,
            whole: 0,
            missing: None,
            number: 0,
            last,
            items: Xxh3::new(),
            buffer: Vec::new(),
        }
    }

    fn run(&mut self) -> io::Result<Tail> {
        loop {
            match self.step() {
                Ok(Step::Goes) => {}
                Ok(Step::Ends(tail)) => return Ok(tail),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Tail::Unfinished),
                Err(error) => return Err(error),
            }
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        let [tag] = self.take()?;
        match (tag, self.missing) {
            (START, None) => {
                self.missing = Some(u32::from_le_bytes(self.take()?));
                self.number = u64::from_le_bytes(self.take()?);
                self.items.reset();
                Ok(Step::Goes)
            }
            (ITEM | CLEAR, None | Some(0)) => Ok(Step::Ends(Tail::Broken)),
            (ITEM, Some(missing)) => {
                self.missing = Some(missing - 1);
                self.item()
            }
            (CLEAR, Some(missing)) => {
                self.missing = Some(missing - 1);
                let keyspace = self.take::<8>()?;
                self.items.update(&[CLEAR]);
                self.items.update(&keyspace);
                Ok(Step::Goes)
            }
            (END, Some(missing)) => self.end(missing),
            _ => Ok(Step::Ends(Tail::Unfinished)),
        }
    }

    fn item(&mut self) -> io::Result<Step> {
        let header = self.take::<ITEM_HEADER_BYTES>()?;
        let [_, compression, .., key_a, key_b, a, b, c, d, e, f, g, h] = header;
        let key_bytes = u64::from(u16::from_le_bytes([key_a, key_b]));
        let value_bytes = u64::from(u32::from_le_bytes([a, b, c, d]));
        let stored_bytes = u64::from(u32::from_le_bytes([e, f, g, h]));
        // A header that was cut short has no stored length yet.
        let fits = compression != UNCOMPRESSED || stored_bytes == value_bytes || stored_bytes == 0;
        if !fits || value_bytes > RECORD_BYTES_MAX || stored_bytes > RECORD_BYTES_MAX {
            return Ok(Step::Ends(Tail::Broken));
        }
        self.items.update(&[ITEM]);
        self.items.update(&header);
        let mut left = key_bytes + stored_bytes;
        while left > 0 {
            self.buffer.resize(left.min(BUFFER_BYTES as u64) as usize, 0);
            self.reader.read_exact(&mut self.buffer)?;
            self.items.update(&self.buffer);
            self.at += self.buffer.len() as u64;
            left -= self.buffer.len() as u64;
        }
        Ok(Step::Goes)
    }

    fn end(&mut self, missing: u32) -> io::Result<Step> {
        let sum = u64::from_le_bytes(self.take()?);
        if self.take()? != END_MAGIC {
            return Ok(Step::Ends(Tail::Unfinished));
        }
        let is_next = self.last.is_none_or(|last| last < self.number) && self.number < NUMBER_MAX;
        if missing > 0 || sum != self.items.digest() || !is_next {
            return Ok(Step::Ends(Tail::Broken));
        }
        self.missing = None;
        self.last = Some(self.number);
        self.whole = self.at;
        Ok(Step::Goes)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }
}
