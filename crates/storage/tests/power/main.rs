//! What the stores promise on real files, when the power fails, the disk is full, or a sync fails.
//!
//! The test runs itself again as a process under `power.c`, which keeps what each sync forces to disk in a
//! second folder, and kills it at a random moment. What lies in that folder, with some of the unsynced pages
//! and names or none of them, must hold every write that was acknowledged after a sync, and no write without
//! those before.
#![cfg(target_os = "linux")]

mod disk;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use disk::{Disk, FOLDER};
use slipring_model::{BucketId, Position};
use slipring_storage::{DiskEngine, Engine, Error, MetaStore, RecordKey, Write};

/// Losses of power in a row; `SLIPRING_TEST_LOSSES` asks for more.
const LOSSES: usize = 8;
/// The largest record; large ones make the store seal journals and write tables.
const RECORD_BYTES_MAX: usize = 256 * 1024;
/// Record by record they are written in turn, again and again.
const KEYS: u64 = 2_000;

/// What a process had been promised when it ended.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    records: u64,
    round: u64,
}

/// It begins with its number.
fn record(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let length = if random.u8(..16) == 0 { random.usize(..RECORD_BYTES_MAX) } else { random.usize(..600) };
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    [&number.to_be_bytes()[..], &bytes].concat()
}

fn at(key: &[u8; 8]) -> RecordKey<'_> {
    RecordKey { bucket: BucketId(1), position: Position::of(key), key }
}

/// How many records were written, counted from the first; an error when one is wrong, or missing before the last.
fn count(engine: &DiskEngine) -> Result<u64, String> {
    let mut numbers = BTreeSet::new();
    let mut wrong = None;
    engine
        .scan(BucketId(1), Position(0)..=Position(u64::MAX), None, &mut |_, key, bytes| {
            let key = u64::from_be_bytes(key.try_into().expect("eight bytes"));
            let number = bytes.and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?)));
            match number {
                Some(number) if number % KEYS == key && bytes == Some(&record(number)) => {
                    numbers.insert(number);
                }
                _ => wrong = Some(format!("record {number:?} at {key} is not what was written")),
            }
            true
        })
        .map_err(|error| error.to_string())?;
    let next = numbers.last().map_or(0, |highest| highest + 1);
    // Each key has the newest of its records.
    match wrong.or_else(|| {
        let lost = (next.saturating_sub(KEYS)..next).find(|number| !numbers.contains(number))?;
        Some(format!("record {lost} is missing before record {next}"))
    }) {
        None => Ok(next),
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
    say("begins:");
    let directory = slipring_storage::DataDir::claim(folder).expect("claimed");
    let (engine, meta) = (directory.disk().expect("opened"), directory.meta().expect("opened"));
    let (mut records, mut round) = (count(&engine).expect("counted"), round(&meta).expect("read"));
    let mut random = fastrand::Rng::new();
    loop {
        let batches = if random.u8(..8) == 0 { 400 } else { random.usize(1..40) };
        for _ in 0..batches {
            let numbers: Vec<u64> = (records..records + random.u64(1..4)).collect();
            let batch: Vec<_> =
                numbers.iter().map(|number| ((number % KEYS).to_be_bytes(), record(*number))).collect();
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
    assert!(matches!(refused, Error::Stopped(_) | Error::NoRoom { .. }), "{refused}");
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
    // Before this line not even what it found is on the disk.
    writer.next("begins:").expect("it begins");
    std::thread::sleep(Duration::from_millis(fastrand::u64(..most)));
    writer.kill();
    let mut last = before;
    while let Some(line) = writer.next("safe:") {
        last = promised(&line);
    }
    last
}

/// The disk after a loss of power, looked at in a copy: the next process starts on what the loss has left.
fn lose_the_power(disk: &Disk, last: Promised, luck: f64) -> Disk {
    let left = disk.after_power_loss(|| fastrand::f64() < luck);
    if let Err(error) = check(&left.copy().folder(), last) {
        panic!("where {luck} of what was not synced arrived, after {last:?}: {error}");
    }
    left
}

/// Seeds this test's own draws, and prints the seed; `SLIPRING_TEST_SEED` gives one. When the process dies is not drawn alone.
fn seed_draws() {
    let asked = std::env::var("SLIPRING_TEST_SEED").map(|asked| asked.parse().expect("a number"));
    let seed = asked.unwrap_or_else(|_| fastrand::u64(..));
    fastrand::seed(seed);
    println!("SLIPRING_TEST_SEED={seed}");
}

fn losses() -> usize {
    std::env::var("SLIPRING_TEST_LOSSES").map_or(LOSSES, |asked| asked.parse().expect("a number"))
}

#[test]
fn what_was_synced_survives_every_loss_of_power() {
    seed_draws();
    let (mut disk, mut last) = (Disk::new(), Promised::default());
    for loss in 0..losses() {
        last = kill_a_writer(&disk, last, 1_000, &[]);
        disk = lose_the_power(&disk, last, [0.0, 0.5, 0.98, 1.0][loss % 4]);
    }
    println!("{} losses of power, {last:?}", losses());
}

/// Runs a writer until it dies at one of the `steps` near `near`; what it had been promised.
fn until_a_step(disk: &Disk, before: Promised, (near, steps): (&str, Range<u32>), goes_on: bool) -> Promised {
    let steps = fastrand::u32(steps).to_string();
    let mut settings = vec![("SLIPRING_POWER_STEPS", steps.as_str()), ("SLIPRING_POWER_NEAR", near)];
    settings.extend(goes_on.then_some(("SLIPRING_POWER_GOES_ON", "1")));
    let mut writer = disk.run("writes_until_the_power_fails", &settings);
    let mut last = before;
    while let Some(line) = writer.next("safe:") {
        last = promised(&line);
    }
    assert!(writer.ends_killed(), "it ended by itself");
    last
}

#[test]
fn what_was_synced_survives_a_loss_between_any_two_steps() {
    seed_draws();
    let (mut disk, mut last) = (Disk::new(), Promised::default());
    for loss in 0..losses() {
        last = until_a_step(&disk, last, ("", 0..600), false);
        disk = lose_the_power(&disk, last, [0.0, 0.5, 0.98, 1.0][loss % 4]);
    }
    println!("{} losses of power, {last:?}", losses());
}

#[test]
fn a_start_relies_on_no_name_that_is_not_synced() {
    seed_draws();
    let mut disk = Disk::new();
    let mut writer = disk.run("writes_until_the_power_fails", &[]);
    let mut last = promised(&writer.next("safe:").expect("some were promised"));
    writer.kill();
    disk = lose_the_power(&disk, last, 0.0);
    for _ in 0..losses() / 2 {
        // The file that names the tables has just been replaced, in its folder but not on the disk, when the process
        // dies; the next one starts on what it sees, and then the power fails.
        last = until_a_step(&disk, last, ("/current", 0..1), false);
        last = until_a_step(&disk, last, ("/keyspaces/1", 0..1), true);
        for _ in 0..3 {
            lose_the_power(&disk, last, 0.5);
        }
        disk = lose_the_power(&disk, last, 0.5);
    }
    println!("{} losses of power, {last:?}", losses() / 2 * 4 + 1);
}

#[test]
fn a_start_goes_on_from_a_store_whose_last_file_was_not_synced() {
    let disk = Disk::new();
    until_a_step(&disk, Promised::default(), ("/version", 1..2), false);
    let mut writer = disk.run("writes_until_the_power_fails", &[("SLIPRING_POWER_GOES_ON", "1")]);
    let last = promised(&writer.next("safe:").expect("some were promised"));
    writer.kill();
    lose_the_power(&disk, last, 0.0);
}

#[test]
fn a_disk_that_forgets_its_names_is_found_out() {
    let disk = Disk::new();
    let before = kill_a_writer(&disk, Promised::default(), 1_000, &[]);
    let disk = lose_the_power(&disk, before, 0.0);
    let mut writer = disk.run("writes_until_the_power_fails", &[("SLIPRING_POWER_FORGETS", "1")]);
    let mut last = before;
    // Enough for another journal, in the place of those whose records lie in tables.
    while last.records < before.records + 20_000 {
        last = promised(&writer.next("safe:").expect("it goes on"));
    }
    writer.kill();
    let found = check(&disk.after_power_loss(|| false).folder(), last);
    assert!(found.is_err(), "records in files without names were found");
}

#[test]
fn a_first_start_that_was_cut_short_is_no_harm() {
    seed_draws();
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
    seed_draws();
    for room in [12_000_000, 30_000_000, 90_000_000] {
        let disk = Disk::new();
        let (promised, why) = until_it_stops(&disk, &[("SLIPRING_POWER_ROOM", &room.to_string())]);
        assert!(why.contains("is full; reads go on, and writes do once there is room"), "{why}");
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
    seed_draws();
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
