//! A disk that is really full: a small file system in memory, filled by another file.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use slipring_model::{BucketId, Position, Room};
use slipring_storage::{DataDir, DiskEngine, Engine, Error, RecordKey, Write};
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(60);

/// A file system of so many MiB. Only a process that may mount one can run these tests.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn new(mib: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={mib}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mount.expect("mount runs").success(), "a file system can be mounted");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Another program takes all that is left.
    fn fill(&self) {
        let mut filler = File::options().create(true).append(true).open(self.filler()).expect("a file");
        while filler.write_all(&[7; 4096]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("removed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn put(engine: &DiskEngine, number: u64, bytes: usize) -> Result<(), Error> {
    let (key, record) = (number.to_be_bytes(), noise(number, bytes));
    let at = RecordKey { bucket: BucketId(1), position: Position(number << 32), key: &key };
    engine.apply(&[Write { at, record: Some(&record) }])
}

/// Bytes that cannot be compressed.
fn noise(number: u64, bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    std::iter::repeat_with(|| rng.u8(..)).take(bytes).collect()
}

fn has(engine: &DiskEngine, number: u64, bytes: usize) -> bool {
    let key = number.to_be_bytes();
    let at = RecordKey { bucket: BucketId(1), position: Position(number << 32), key: &key };
    let mut is_right = false;
    engine.read(at, &mut |found| is_right = found == Some(&noise(number, bytes))).expect("read");
    is_right
}

fn until_writes_go_on(engine: &DiskEngine) {
    let began = Instant::now();
    while !engine.look().expect("it can be looked at") {
        assert!(began.elapsed() < PATIENCE, "it takes no writes: {:?}", engine.space());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes until the disk is full; how many were taken.
fn write_until_full(engine: &DiskEngine, from: u64, bytes: usize) -> u64 {
    let mut number = from;
    loop {
        match put(engine, number, bytes) {
            Ok(()) => number += 1,
            Err(Error::Full { .. }) => return number,
            Err(other) => panic!("write {number}: {other}"),
        }
    }
}

#[test]
fn store_reads_while_full_and_writes_again_once_there_is_room() {
    let disk = Disk::new(48);
    let engine = DiskEngine::open(&disk.path().join("data")).expect("opened");
    (0..100).for_each(|number| put(&engine, number, 10_000).expect("there is room"));
    engine.sync().expect("synced");
    assert_eq!(engine.room(0), Room::Ample);
    disk.fill();
    let next = write_until_full(&engine, 100, 10_000);
    assert_eq!(engine.room(0), Room::Spent);
    assert!(matches!(put(&engine, next + 1, 1), Err(Error::NoRoom { .. })), "it was not tried");
    assert!(matches!(engine.sync(), Err(Error::NoRoom { .. })), "nothing more counts as synced");
    assert!(!engine.look().expect("looked at"), "there is no room yet");
    assert!((0..next).all(|number| has(&engine, number, 10_000)), "reads go on");
    disk.empty();
    until_writes_go_on(&engine);
    assert!((0..next).all(|number| has(&engine, number, 10_000)));
    (next + 1..next + 100).for_each(|number| put(&engine, number, 10_000).expect("there is room"));
    engine.sync().expect("synced");
    drop(engine);
    let engine = DiskEngine::open(&disk.path().join("data")).expect("opened");
    assert!((0..next).chain(next + 1..next + 100).all(|number| has(&engine, number, 10_000)));
}

#[test]
fn store_that_cannot_flush_reads_and_writes_again_once_there_is_room() {
    // The buffer is written when it has 64 MiB, which the journal has taken already.
    let disk = Disk::new(160);
    let engine = DiskEngine::open(&disk.path().join("data")).expect("opened");
    engine.set_reserve(8 * MIB);
    let mut number = 0;
    while number < 60 {
        put(&engine, number, MIB as usize).expect("there is room");
        number += 1;
    }
    let filler = File::create(disk.filler()).expect("a file");
    let left = engine.look().map(|_| engine.space().free).expect("looked at");
    (&filler).write_all(&vec![7; (left - 24 * MIB) as usize]).expect("it fits");
    drop(filler);
    let began = Instant::now();
    loop {
        match put(&engine, number, 100_000) {
            Ok(()) => {}
            Err(Error::Full { .. }) => break,
            Err(other) => panic!("write {number}: {other}"),
        }
        assert!(began.elapsed() < PATIENCE, "it never was full");
        number += 1;
    }
    assert!((0..60).all(|number| has(&engine, number, MIB as usize)), "reads go on");
    disk.empty();
    until_writes_go_on(&engine);
    assert!((0..60).all(|number| has(&engine, number, MIB as usize)));
    put(&engine, 1_000, 10).and_then(|()| engine.sync()).expect("it writes again");
}

#[test]
fn node_opens_and_decides_on_a_disk_that_another_program_has_filled() {
    let disk = Disk::new(48);
    let directory = DataDir::claim(&disk.path().join("node")).expect("claimed");
    let (engine, meta) = (directory.disk().expect("opened"), directory.meta().expect("opened"));
    (0..100).for_each(|number| put(&engine, number, 10_000).expect("there is room"));
    meta.put(&[("name", b"before")]).expect("stored");
    disk.fill();
    for round in 0..20_u8 {
        meta.put(&[("name", &vec![round; 10_000])]).expect("the ballast has room for it");
    }
    drop((engine, meta));
    let (engine, meta) = (directory.disk().expect("opened"), directory.meta().expect("opened"));
    meta.put(&[("start", b"2")]).expect("stored");
    assert_eq!(meta.get("name").expect("read"), Some(vec![19; 10_000]));
    assert!((0..100).all(|number| has(&engine, number, 10_000)), "reads go on");
    assert_eq!(engine.room(0), Room::Spent);
    disk.empty();
    engine.look().expect("looked at");
    assert_eq!(engine.room(0), Room::Ample);
    put(&engine, 100, 10_000).and_then(|()| engine.sync()).expect("it writes again");
    assert!(disk.path().join("node/reserve").exists(), "it is kept again");
}
