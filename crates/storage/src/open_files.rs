//! The files that the store has open: how many it may, and what happens when the system gives it none.
//!
//! The store's own threads end it when they cannot open a file, so its part of the process's files is kept
//! free for it. A read that gets none all the same is tried again a few times, with a rest in between.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Tables that stay open for reads: the least and the most.
const TABLES: (u64, u64) = (16, 900);
/// Files that flushing, compacting and the journal have open beside them.
const WORK_FILES: usize = 64;
/// The rests between the attempts of a read.
const RESTS_MS: [u64; 6] = [1, 2, 5, 10, 20, 40];

/// The most files that the store has open in a process that may have `limit` open.
#[must_use]
pub fn store_files_max(limit: u64) -> usize {
    tables_max(limit) + WORK_FILES
}

/// The most tables that stay open in this process.
pub(crate) fn tables_of_process() -> usize {
    tables_max(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
}

fn tables_max(limit: u64) -> usize {
    usize::try_from((limit / 8).clamp(TABLES.0, TABLES.1)).unwrap_or(usize::MAX)
}

/// Whether the system refused only for now: no file is free, or it was interrupted. Nothing was done.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::INTR, Errno::AGAIN]
        .iter()
        .any(|passing| error.raw_os_error() == Some(passing.raw_os_error()))
}

/// Whether the process, or the machine, has fewer files left than the store needs to be opened. Where that cannot be
/// seen for lack of a file, it has.
pub(crate) fn are_files_short() -> bool {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return true };
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let of_machine = std::fs::read_to_string("/proc/sys/fs/file-nr").unwrap_or_default();
    let mut of_machine =
        of_machine.split_whitespace().map(|number| number.parse::<u64>().unwrap_or_default());
    let is_machine_short = match (of_machine.next(), of_machine.nth(1)) {
        (Some(used), Some(most)) => most.saturating_sub(used) < WORK_FILES as u64,
        _ => false,
    };
    is_machine_short || limit.saturating_sub(open.count() as u64) < WORK_FILES as u64
}

/// Reads until the system gives what it refused only for now, or the attempts are used up.
pub(crate) fn patiently<T>(mut read: impl FnMut() -> Result<T, fjall::Error>) -> Result<T, fjall::Error> {
    for rest in RESTS_MS {
        match read() {
            Err(fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)))
                if is_passing(&error) =>
            {
                std::thread::sleep(Duration::from_millis(rest));
            }
            result => return result,
        }
    }
    read()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_stay_open_follow_the_limit() {
        for (limit, tables) in [(0, 16), (128, 16), (136, 17), (7_200, 900), (7_208, 900), (u64::MAX, 900)] {
            assert_eq!(store_files_max(limit), tables + WORK_FILES, "{limit}");
        }
    }

    #[test]
    fn read_is_tried_again_while_no_file_is_free() {
        let refusal = |code: Errno| fjall::Error::Io(io::Error::from_raw_os_error(code.raw_os_error()));
        for (code, refusals, is_read) in [
            (Errno::MFILE, 1, true),
            (Errno::NFILE, RESTS_MS.len(), true),
            (Errno::MFILE, RESTS_MS.len() + 1, false),
            (Errno::IO, 1, false),
        ] {
            let mut left = refusals;
            let result = patiently(|| match left {
                0 => Ok(()),
                _ => {
                    left -= 1;
                    Err(refusal(code))
                }
            });
            assert_eq!(result.is_ok(), is_read, "{code:?} {refusals} times");
        }
    }
}
