//! The disks of a simulated host.
//!
//! Invariant: whatever a dying process still runs while it is taken apart leaves no trace on its disk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use slipring_storage::faults::FaultyFile;

/// A file as one life of a host sees it; closing a database writes to it, and after a crash must not.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    file: FaultyFile,
    is_mounted: Arc<AtomicBool>,
}

impl Mount {
    pub(crate) fn new(file: FaultyFile) -> Self {
        Self { file, is_mounted: Arc::new(AtomicBool::new(true)) }
    }

    /// From now on nothing reaches the file.
    pub(crate) fn unmount(&self) {
        self.is_mounted.store(false, Ordering::Relaxed);
    }

    fn if_mounted(&self, change: impl FnOnce(&FaultyFile) -> io::Result<()>) -> io::Result<()> {
        if self.is_mounted.load(Ordering::Relaxed) { change(&self.file) } else { Ok(()) }
    }
}

impl StorageBackend for Mount {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.if_mounted(|file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.if_mounted(StorageBackend::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.if_mounted(|file| file.write(offset, data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_file_of_a_dead_process() {
        let file = FaultyFile::new();
        let mount = Mount::new(file.clone());
        mount.set_len(2).expect("room");
        mount.unmount();
        mount.set_len(9).expect("ignored");
        assert_eq!(file.len().expect("a length"), 2);
    }
}
