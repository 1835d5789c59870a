//! One byte of any file is changed: the store says so, or gives back everything as it was written.

use std::path::{Path, PathBuf};

use slipring_model::{BucketId, Position};
use slipring_storage::faults::FaultyFile;
use slipring_storage::{DataDir, DiskEngine, Engine, Error, MetaStore, RecordKey, Write};

const RECORDS: u64 = 5_000;
const FLIPS_PER_FILE: usize = 16;
const FOLDER: &str = "SLIPRING_TEST_FOLDER";

fn record(number: u64) -> Vec<u8> {
    format!("record {number} as it was written").into_bytes()
}

fn fill(folder: &Path) {
    let engine = DiskEngine::open(folder).expect("opened");
    for number in 0..RECORDS {
        let key = number.to_be_bytes();
        let at = RecordKey { bucket: BucketId(1), position: Position(number << 40), key: &key };
        engine.apply(&[Write { at, record: Some(&record(number)) }]).expect("applied");
    }
    engine.sync().expect("synced");
}

/// How many records come back right; an error when the store says that it is damaged.
fn readable(folder: &Path) -> Result<u64, Error> {
    let engine = DiskEngine::open(folder)?;
    let mut right = 0;
    for number in 0..RECORDS {
        let key = number.to_be_bytes();
        let at = RecordKey { bucket: BucketId(1), position: Position(number << 40), key: &key };
        let mut is_right = false;
        engine.read(at, &mut |found| is_right = found == Some(&record(number)))?;
        right += u64::from(is_right);
    }
    Ok(right)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).expect("below"));
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("made");
        std::fs::copy(&file, target).expect("copied");
    }
}

#[test]
fn a_changed_byte_is_never_served_and_never_takes_records_silently() {
    let original = tempfile::tempdir().expect("a folder");
    fill(original.path());
    assert_eq!(readable(original.path()), Ok(RECORDS));
    let (mut named, mut harmless) = (0, 0);
    for file in files(original.path()) {
        let length = std::fs::metadata(&file).expect("a file").len() as usize;
        for flip in 0..FLIPS_PER_FILE.min(length) {
            let copied = tempfile::tempdir().expect("a folder");
            copy(original.path(), copied.path());
            let path = copied.path().join(file.strip_prefix(original.path()).expect("below"));
            let mut bytes = std::fs::read(&path).expect("read");
            let at = (flip * length / FLIPS_PER_FILE).min(length - 1);
            bytes[at] ^= 0xff;
            std::fs::write(&path, bytes).expect("written");
            match read_in_a_process_of_its_own(copied.path()) {
                Some(RECORDS) => harmless += 1,
                Some(right) => {
                    panic!("byte {at} of {}: {right} of {RECORDS} records, and not a word", path.display())
                }
                None => named += 1,
            }
        }
    }
    println!("{named} changes were named, {harmless} changed nothing");
    assert!(named > 0);
}

/// The store may take a damaged length for a true one and end the process for want of memory: that serves
/// nothing either. So each reading is a process; `None` when it ended with an error, of whatever kind.
fn read_in_a_process_of_its_own(folder: &Path) -> Option<u64> {
    let output = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "reads_what_it_is_told_to", "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("readable: ")).and_then(|count| count.parse().ok())
}

/// The other end of the function above; without a folder in the environment there is nothing to read.
#[test]
fn reads_what_it_is_told_to() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        match readable(Path::new(&folder)) {
            Ok(count) => println!("\nreadable: {count}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn the_meta_store_keeps_every_commit_when_the_power_fails() {
    let mut file = FaultyFile::new();
    for round in 0..20_u64 {
        let store = MetaStore::with_backend(file.clone()).expect("opened");
        if round > 0 {
            let kept = store.get("round").expect("read").expect("kept");
            assert_eq!(kept, (round - 1).to_be_bytes());
        }
        store.put(&[("round", &round.to_be_bytes())]).expect("committed");
        file = file.after_power_loss();
    }
}

#[test]
fn a_directory_belongs_to_one_process_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = DataDir::claim(folder.path()).expect("claimed");
    assert!(matches!(DataDir::claim(folder.path()), Err(Error::InUse { .. })));
    drop(first);
    assert!(DataDir::claim(folder.path()).is_ok());
}
