//! What the stores promise on real files, when the power fails, the disk is full, or a sync fails.
//!
//! The test runs itself again as a process under `power.c`, which keeps what each sync forces to disk in a
//! second folder, and kills it at a random moment. What lies in that folder, with some of the unsynced pages
//! or none of them, must hold every write that was acknowledged after a sync, and no write without those before.
#![cfg(target_os = "linux")]

mod disk;

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use disk::{Disk, FOLDER};
use slipring_model::{BucketId, Position};
use slipring_storage::{DiskEngine, Engine, Error, MetaStore, RecordKey, Write};

/// Losses of power in a row; `SLIPRING_TEST_LOSSES` asks for more.
const LOSSES: usize = 8;
/// The largest record; large ones make the store seal journals and write tables.
const RECORD_BYTES_MAX: usize = 256 * 1024;

/// What a process had been promised when it ended.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    records: u64,
    round: u64,
}

fn record(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let length = if random.u8(..) == 0 { random.usize(..RECORD_BYTES_MAX) } else { random.usize(..600) };
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

fn at(key: &[u8; 8]) -> RecordKey<'_> {
    RecordKey { bucket: BucketId(1), position: Position::of(key), key }
}

/// How many records there are, counted from the first; an error when one is wrong or missing in between.
fn count(engine: &DiskEngine) -> Result<u64, String> {
    let (mut found, mut highest) = (0, None);
    let mut wrong = None;
    engine
        .scan(BucketId(1), Position(0)..=Position(u64::MAX), None, &mut |_, key, bytes| {
            let number = u64::from_be_bytes(key.try_into().expect("eight bytes"));
            (found, highest) = (found + 1, highest.max(Some(number)));
            if bytes != Some(record(number).as_slice()) {
                wrong = Some(format!("record {number} is not what was written"));
            }
            true
        })
        .map_err(|error| error.to_string())?;
    let next = highest.map_or(0, |highest| highest + 1);
    match wrong {
        None if next == found => Ok(found),
        None => Err(format!("{} records are missing before record {next}", next - found)),
        Some(wrong) => Err(wrong),
    }
}

fn round(meta: &MetaStore) -> Result<u64, String> {
    let stored = meta.get("round").map_err(|error| error.to_string())?;
    Ok(stored.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes"))))
}

/// Opens what is left; an error when a promise was broken.
fn check(folder: &Path, promised: Promised) -> Result<(), String> {
    let engine = DiskEngine::open(&folder.join("data")).map_err(|error| error.to_string())?;
    let records = count(&engine)?;
    if records < promised.records {
        return Err(format!("{records} records are left of {}", promised.records));
    }
    let meta = MetaStore::open(&folder.join("meta.redb")).map_err(|error| error.to_string())?;
    let round = round(&meta)?;
    if round < promised.round { Err(format!("round {round} of {}", promised.round)) } else { Ok(()) }
}

/// Writes in batches of several sizes, says what is safe, and goes on until it is killed.
#[test]
fn writes_until_the_power_fails() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let directory = slipring_storage::DataDir::claim(folder).expect("claimed");
    let (engine, meta) = (directory.disk().expect("opened"), directory.meta().expect("opened"));
    let (mut records, mut round) = (count(&engine).expect("counted"), round(&meta).expect("read"));
    let mut random = fastrand::Rng::new();
    loop {
        let batches = if random.u8(..8) == 0 { 400 } else { random.usize(1..40) };
        for _ in 0..batches {
            let numbers: Vec<u64> = (records..records + random.u64(1..4)).collect();
            let batch: Vec<_> =
                numbers.iter().map(|number| (number.to_be_bytes(), record(*number))).collect();
            let writes: Vec<_> =
                batch.iter().map(|(key, bytes)| Write { at: at(key), record: Some(bytes) }).collect();
            match engine.apply(&writes) {
                Ok(()) => records += numbers.len() as u64,
                Err(error) => return stopped(&engine, &error),
            }
        }
        if let Err(error) = engine.sync() {
            return stopped(&engine, &error);
        }
        round += 1;
        if let Err(error) = meta.put(&[("round", &round.to_be_bytes())]) {
            return stopped(&engine, &error);
        }
        say(&format!("safe: {records} {round}"));
    }
}

/// Nothing is taken any more, and everything is still read.
fn stopped(engine: &DiskEngine, error: &Error) {
    let key = u64::MAX.to_be_bytes();
    if engine.sync().is_ok() {
        // It was the meta store that failed.
        return say(&format!("stopped: {error}"));
    }
    let refused =
        engine.apply(&[Write { at: at(&key), record: Some(b"late") }]).expect_err("taken after a failure");
    assert!(matches!(refused, Error::Stopped(_)), "{refused}");
    assert!(engine.sync().is_err());
    count(engine).expect("still read");
    say(&format!("stopped: {error}"));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{line}").expect("said");
    out.flush().expect("said");
}

fn promised(line: &str) -> Promised {
    let mut numbers = line.split(' ').map(|number| number.parse().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    Promised { records: next(), round: next() }
}

/// Runs a writer for up to `most` milliseconds and kills it; what it had been promised.
fn kill_a_writer(disk: &Disk, before: Promised, most: u64, settings: &[(&str, &str)]) -> Promised {
    let mut writer = disk.run("writes_until_the_power_fails", settings);
    std::thread::sleep(Duration::from_millis(fastrand::u64(..most)));
    writer.kill();
    let mut last = before;
    while let Some(line) = writer.next("safe:") {
        last = promised(&line);
    }
    last
}

/// The same, after the writer has left a mark of its own boot: this process looks at every loss in one and the
/// same boot, and a disk never comes back to a boot that it has left.
fn kill_a_writer_that_has_promised(disk: &Disk, before: Promised) -> Promised {
    let mut writer = disk.run("writes_until_the_power_fails", &[]);
    let mut last = writer.next("safe:").map_or(before, |line| promised(&line));
    std::thread::sleep(Duration::from_millis(fastrand::u64(..1_000)));
    writer.kill();
    while let Some(line) = writer.next("safe:") {
        last = promised(&line);
    }
    last
}

fn losses() -> usize {
    std::env::var("SLIPRING_TEST_LOSSES").map_or(LOSSES, |asked| asked.parse().expect("a number"))
}

#[test]
fn what_was_synced_survives_every_loss_of_power() {
    let (mut disk, mut last) = (Disk::new(), Promised::default());
    for loss in 0..losses() {
        last = kill_a_writer_that_has_promised(&disk, last);
        let luck = [0.0, 0.5, 0.98, 1.0][loss % 4];
        let left = disk.after_power_loss(|| fastrand::f64() < luck);
        if let Err(error) = check(&left.folder(), last) {
            panic!("loss {loss}, where {luck} of the unsynced pages arrived, after {last:?}: {error}");
        }
        disk = left;
    }
    println!("{} losses of power, {last:?}", losses());
}

#[test]
fn a_first_start_that_was_cut_short_is_no_harm() {
    for _ in 0..losses() * 2 {
        let disk = Disk::new();
        let promised = kill_a_writer(&disk, Promised::default(), 60, &[]);
        for left in [&disk, &disk.after_power_loss(fastrand::bool)] {
            if let Err(error) = check(&left.folder(), promised) {
                panic!("after {promised:?}: {error}");
            }
        }
    }
}

#[test]
fn a_disk_that_lies_about_its_syncs_is_found_out() {
    let disk = Disk::new();
    let mut writer = disk.run("writes_until_the_power_fails", &[("SLIPRING_POWER_LIES", "1")]);
    let promised = promised(&writer.next("safe:").expect("some were promised"));
    writer.kill();
    let found = check(&disk.after_power_loss(|| false).folder(), promised);
    assert!(found.is_err(), "records that never reached the disk were found on it");
}

/// Runs a writer until its disk fails; what it had been promised and what it said.
fn until_it_stops(disk: &Disk, settings: &[(&str, &str)]) -> (Promised, String) {
    let mut writer = disk.run("writes_until_the_power_fails", settings);
    let mut last = Promised::default();
    while let Some(line) = writer.next("s") {
        match line.split_once(": ") {
            Some(("afe", numbers)) => last = promised(numbers),
            Some(("topped", why)) => {
                assert!(writer.ends_well());
                return (last, why.to_owned());
            }
            _ => {}
        }
    }
    panic!("it ended without a word");
}

#[test]
fn a_full_disk_is_named_and_what_was_acknowledged_stays() {
    for room in [3_000_000, 20_000_000, 80_000_000] {
        let disk = Disk::new();
        let (promised, why) = until_it_stops(&disk, &[("SLIPRING_POWER_ROOM", &room.to_string())]);
        assert!(why.contains("is full; make room and restart the node"), "{why}");
        assert!(promised.records > 0);
        for left in [&disk, &disk.after_power_loss(fastrand::bool)] {
            if let Err(error) = check(&left.folder(), promised) {
                panic!("{room} bytes of room, {promised:?}: {error}");
            }
        }
    }
}

#[test]
fn nothing_is_acknowledged_after_a_sync_that_failed() {
    for syncs in [60, 61, 62, 63, 64, 200] {
        let disk = Disk::new();
        let (promised, why) = until_it_stops(&disk, &[("SLIPRING_POWER_SYNCS", &syncs.to_string())]);
        assert!(why.contains("error") || why.contains("stopped"), "{why}");
        assert!(promised.records > 0);
        for left in [&disk, &disk.after_power_loss(fastrand::bool)] {
            if let Err(error) = check(&left.folder(), promised) {
                panic!("{syncs} syncs, {promised:?}: {error}");
            }
        }
    }
}
