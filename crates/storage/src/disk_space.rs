//! How much room the disk has: measured now and then, and reckoned with the bytes written since.
//!
//! With less left than the reserve, writes that grow are refused; with less than half of it, all are. What the
//! store does by itself, flushing and compacting, lives on the reserve.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::statvfs;
use slipring_model::{Room, Space};

/// Bytes after which the room is measured again.
const STEP_BYTES: u64 = 1024 * 1024;
/// The reserve where none is set: so much of the disk, within bounds.
const RESERVE_SHARE: u64 = 20;
const RESERVE_BYTES_MIN: u64 = 16 * 1024 * 1024;
const RESERVE_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// And never more than this share of a small disk.
const RESERVE_SHARE_MAX: u64 = 4;

/// The room on the disk of one directory.
#[derive(Debug)]
pub(crate) struct DiskSpace {
    directory: PathBuf,
    total: AtomicU64,
    free: AtomicU64,
    /// Bytes written since `free` was measured.
    since: AtomicU64,
    /// What an operator set; 0 for a share of the disk.
    set: AtomicU64,
    /// Whether writes are refused, which ends a little above where it began.
    is_scarce: AtomicBool,
    /// Whether there was less than the reserve since the store was opened.
    was_scarce: AtomicBool,
}

impl DiskSpace {
    /// Of a directory that exists.
    pub(crate) fn of(directory: &Path) -> Self {
        let space = Self {
            directory: directory.to_owned(),
            total: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            since: AtomicU64::new(0),
            set: AtomicU64::new(0),
            is_scarce: AtomicBool::new(false),
            was_scarce: AtomicBool::new(false),
        };
        space.measure();
        space
    }

    /// Keeps so many bytes free; 0 for a share of the disk.
    pub(crate) fn set_reserve(&self, bytes: u64) {
        self.set.store(bytes, Ordering::Relaxed);
        self.measure();
    }

    /// Asks the system. Where it does not tell, there is room until it runs out.
    pub(crate) fn measure(&self) {
        self.since.store(0, Ordering::Relaxed);
        if let Ok(told) = statvfs(&self.directory) {
            self.total.store(told.f_blocks.saturating_mul(told.f_frsize), Ordering::Relaxed);
            self.free.store(told.f_bavail.saturating_mul(told.f_frsize), Ordering::Relaxed);
        }
        let is_scarce = self.room(0) != Room::Ample;
        self.is_scarce.store(is_scarce, Ordering::Relaxed);
        self.was_scarce.fetch_or(is_scarce, Ordering::Relaxed);
    }

    /// Reckons with bytes that were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        if self.since.fetch_add(bytes, Ordering::Relaxed) + bytes >= STEP_BYTES {
            self.measure();
        }
    }

    /// What is taken of a write of so many bytes.
    pub(crate) fn room(&self, growth: u64) -> Room {
        let reserve = self.reserve();
        // Once room is scarce, it is ample again with an eighth more than the reserve.
        let more = if self.is_scarce.load(Ordering::Relaxed) { reserve / 8 } else { 0 };
        judge(self.free().saturating_sub(growth), reserve.saturating_add(more), reserve / 2)
    }

    /// What is taken of a copy of so many bytes: it may use a quarter of the reserve.
    pub(crate) fn room_for_copy(&self, growth: u64) -> Room {
        let reserve = self.reserve();
        judge(self.free().saturating_sub(growth), reserve / 4 * 3, reserve / 2)
    }

    /// Whether there was less than the reserve since this was asked last.
    pub(crate) fn take_was_scarce(&self) -> bool {
        self.was_scarce.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn space(&self) -> Space {
        let (total, free) = (self.total.load(Ordering::Relaxed), self.free());
        let used = total.saturating_sub(free);
        Space { room: self.room(0), used, free, limit: total, reserve: self.reserve() }
    }

    fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed).saturating_sub(self.since.load(Ordering::Relaxed))
    }

    fn reserve(&self) -> u64 {
        match self.set.load(Ordering::Relaxed) {
            0 => share_of(self.total.load(Ordering::Relaxed)),
            set => set,
        }
    }
}

/// The reserve of a disk of so many bytes, where none is set.
fn share_of(total: u64) -> u64 {
    (total / RESERVE_SHARE).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX).min(total / RESERVE_SHARE_MAX)
}

fn judge(free: u64, enough: u64, least: u64) -> Room {
    match free {
        free if free >= enough => Room::Ample,
        free if free >= least => Room::Scarce,
        _ => Room::Spent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_below_at_and_above_each_mark() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = DiskSpace::of(folder.path());
        space.set.store(800, Ordering::Relaxed);
        let with = |free| {
            space.free.store(free, Ordering::Relaxed);
            (space.room(0), space.room_for_copy(0))
        };
        let writes = |free| with(free).0;
        assert_eq!([801, 800, 799].map(writes), [Room::Ample, Room::Ample, Room::Scarce]);
        assert_eq!([401, 400, 399, 0].map(writes), [Room::Scarce, Room::Scarce, Room::Spent, Room::Spent]);
        let copies = [601, 600, 599, 399].map(|free| with(free).1);
        assert_eq!(copies, [Room::Ample, Room::Ample, Room::Scarce, Room::Spent]);
        space.is_scarce.store(true, Ordering::Relaxed);
        assert_eq!([899, 900, 901].map(writes), [Room::Scarce, Room::Ample, Room::Ample]);
        space.set.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(writes(u64::MAX), Room::Ample);
    }

    #[test]
    fn reserve_is_a_share_of_the_disk_within_bounds() {
        const MIB: u64 = 1024 * 1024;
        let shares = [0, 32 * MIB, 64 * MIB, 1024 * MIB, 1024 * 1024 * MIB].map(share_of);
        assert_eq!(shares, [0, 8 * MIB, 16 * MIB, 1024 * MIB / 20, 2048 * MIB]);
    }

    #[test]
    fn bytes_written_count_until_the_next_measurement() {
        let folder = tempfile::tempdir().expect("a folder");
        let space = DiskSpace::of(folder.path());
        let before = space.space();
        assert!(before.free > 0 && before.free < u64::MAX && before.used > 0);
        space.free.store(10_000, Ordering::Relaxed);
        space.set.store(8_000, Ordering::Relaxed);
        space.is_scarce.store(false, Ordering::Relaxed);
        assert_eq!(
            [1_999, 2_000, 2_001].map(|growth| space.room(growth)),
            [Room::Ample, Room::Ample, Room::Scarce]
        );
        space.wrote(2_001);
        assert_eq!(space.room(0), Room::Scarce);
        space.wrote(STEP_BYTES);
        assert_eq!(space.since.load(Ordering::Relaxed), 0, "it was measured");
    }
}
