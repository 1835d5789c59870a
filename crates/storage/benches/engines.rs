//! What one operation of an engine costs: a million keys of 16 bytes with records of 120, one thread.

use std::time::{Duration, Instant};

use slipring_model::{BucketId, Position};
use slipring_storage::{DiskEngine, Engine, MemoryEngine, RecordKey, Write};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEYS: u64 = 1_000_000;
const SYNCS: u32 = 500;

fn main() {
    let before = resident_bytes();
    let memory = MemoryEngine::new();
    measure("memory", &memory, KEYS);
    println!("memory  bytes per key     {:>8}", (resident_bytes() - before) / KEYS);
    drop(memory);
    let folder = tempfile::tempdir().expect("a folder");
    let disk = DiskEngine::open(folder.path()).expect("opened");
    measure("disk", &disk, KEYS / 5);
    let began = Instant::now();
    for number in 0..SYNCS {
        apply(&disk, u64::from(number), 3);
        disk.sync().expect("synced");
    }
    report("disk", "write and sync", began.elapsed(), u64::from(SYNCS));
    drop(disk);
    opening();
}

/// Opens a store of all keys as the process that filled it left it when it was killed.
fn opening() {
    let folder = tempfile::tempdir().expect("a folder");
    let filled = DiskEngine::open(&folder.path().join("filled")).expect("opened");
    (0..KEYS).for_each(|number| apply(&filled, number, 1));
    let killed = folder.path().join("killed");
    let copied =
        std::process::Command::new("cp").arg("-r").arg(folder.path().join("filled")).arg(&killed).status();
    assert!(copied.is_ok_and(|status| status.success()));
    drop(filled);
    let began = Instant::now();
    let disk = DiskEngine::open(&killed).expect("opened");
    println!("disk    opened in         {:>8} ms", began.elapsed().as_millis());
    let (began, mut seen) = (Instant::now(), 0);
    let all = Position(0)..=Position(u64::MAX);
    let count = &mut |_: Position, _: &[u8], _: Option<&[u8]>| {
        seen += 1;
        true
    };
    disk.scan(BucketId(0), all, None, count).expect("scanned");
    assert_eq!(seen, KEYS);
    println!("disk    scanned in        {:>8} ms", began.elapsed().as_millis());
}

fn measure(name: &str, engine: &dyn Engine, keys: u64) {
    timed(name, "insert", keys, |number| apply(engine, number, 1));
    timed(name, "overwrite", keys, |number| apply(engine, number, 2));
    timed(name, "read", keys, |number| {
        with_key(number, |at| {
            engine
                .read(at, &mut |record| assert!(record.is_some_and(|bytes| bytes.len() == 120)))
                .expect("read");
        });
    });
    let began = Instant::now();
    let mut seen = 0;
    let all = Position(0)..=Position(u64::MAX);
    engine
        .scan(BucketId(0), all, None, &mut |_, _, _| {
            seen += 1;
            true
        })
        .expect("scanned");
    report(name, "scanned record", began.elapsed(), seen);
}

/// Runs over all keys in an order that has nothing to do with theirs.
fn timed(name: &str, what: &str, keys: u64, mut run: impl FnMut(u64)) {
    let began = Instant::now();
    for step in 0..keys {
        run(step * 7_919 % keys);
    }
    report(name, what, began.elapsed(), keys);
}

fn report(name: &str, what: &str, took: Duration, count: u64) {
    println!("{name:<7} {what:<17} {:>8} ns", took.as_nanos() as u64 / count.max(1));
}

fn apply(engine: &dyn Engine, number: u64, fill: u8) {
    with_key(number, |at| engine.apply(&[Write { at, record: Some(&[fill; 120]) }]).expect("applied"));
}

fn with_key(number: u64, run: impl FnOnce(RecordKey<'_>)) {
    let key = format!("key:{number:012}");
    run(RecordKey { bucket: BucketId(0), position: Position::of(key.as_bytes()), key: key.as_bytes() });
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("every process has a size");
    let kibibytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok());
    kibibytes.expect("a number") * 1024
}
