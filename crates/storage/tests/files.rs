//! A process that has no file left for its store. The only test here: the limit is the whole process's.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use slipring_model::{BucketId, Position};
use slipring_storage::{DiskEngine, Engine, Error, RecordKey, Write};

const PATIENCE: Duration = Duration::from_secs(60);
const BYTES: usize = 256 * 1024;
/// More than the store keeps in its buffer: to go on it needs a file.
const RECORDS_MAX: u64 = 2_000;

fn at(key: &[u8; 8]) -> RecordKey<'_> {
    let position = Position(u64::from_be_bytes(*key) << 32);
    RecordKey { bucket: BucketId(1), position, key }
}

fn record(number: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(number);
    std::iter::repeat_with(|| rng.u8(..)).take(BYTES).collect()
}

fn put(engine: &DiskEngine, number: u64) -> Result<(), Error> {
    engine.apply(&[Write { at: at(&number.to_be_bytes()), record: Some(&record(number)) }])
}

fn has(engine: &DiskEngine, number: u64) -> bool {
    let mut is_right = false;
    let read = engine.read(at(&number.to_be_bytes()), &mut |found| is_right = found == Some(&record(number)));
    read.expect("read");
    is_right
}

#[test]
fn store_without_files_reads_and_writes_once_there_are_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = DiskEngine::open(folder.path()).expect("opened");
    put(&engine, 0).and_then(|()| engine.sync()).expect("there are files");
    let before = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").expect("listed").count() as u64 - 1;
    setrlimit(Resource::Nofile, Rlimit { current: Some(open), ..before }).expect("lowered");
    let mut taken = 1;
    let refusal = loop {
        match put(&engine, taken) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < RECORDS_MAX, "it never needed a file");
    };
    assert!(matches!(refusal, Error::NoFiles { .. }), "{refusal}");
    assert!(matches!(put(&engine, taken + 1), Err(Error::Busy { .. })), "it was not tried");
    assert!(matches!(engine.sync(), Err(Error::Busy { .. })), "nothing more counts as synced");
    assert_eq!(engine.batches(), None, "what it holds is not known");
    assert!(!engine.look().expect("looked at"), "there are no files yet");
    assert!((0..taken).all(|number| has(&engine, number)), "reads go on");
    setrlimit(Resource::Nofile, before).expect("raised");
    let began = Instant::now();
    while !engine.look().expect("looked at") {
        assert!(began.elapsed() < PATIENCE, "it takes no writes");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!((0..taken).all(|number| has(&engine, number)));
    put(&engine, taken + 1).and_then(|()| engine.sync()).expect("it writes again");
    drop(engine);
    let engine = DiskEngine::open(folder.path()).expect("opened");
    assert!((0..taken).chain([taken + 1]).all(|number| has(&engine, number)));
}
