//! One byte of any file is changed: the store says so, or gives back everything as it was written.

use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use slipring_model::{BucketId, Position};
use slipring_storage::faults::FaultyFile;
use slipring_storage::{DataDir, DiskEngine, Engine, Error, MetaStore, RecordKey, Write};
use tempfile::TempDir;

const RECORDS: u64 = 5_000;
/// Large records after the small ones: more than the store keeps in memory before it writes a table.
const LARGE: u64 = 300;
const LARGE_BYTES: usize = 256 * 1024;
/// Bytes changed in each file, spread evenly; `SLIPRING_TEST_FLIPS` asks for more.
const FLIPS_PER_FILE: usize = 10;
/// The tail of each file, where the store keeps lengths, is looked at more closely.
const TAIL_BYTES: usize = 160;
const TABLE_TIMEOUT: Duration = Duration::from_secs(60);
const FOLDER: &str = "SLIPRING_TEST_FOLDER";

fn record(number: u64) -> Vec<u8> {
    let mut bytes = format!("record {number} as it was written").into_bytes();
    if number >= RECORDS {
        bytes.resize(LARGE_BYTES, number as u8);
    }
    bytes
}

fn with_key<R>(number: u64, run: impl FnOnce(RecordKey<'_>) -> R) -> R {
    let key = number.to_be_bytes();
    run(RecordKey { bucket: BucketId(1), position: Position(number << 40), key: &key })
}

fn fill(folder: &Path) {
    let engine = DiskEngine::open(folder).expect("opened");
    let write = |number| {
        let bytes = record(number);
        with_key(number, |at| engine.apply(&[Write { at, record: Some(&bytes) }]).expect("applied"));
    };
    (RECORDS..RECORDS + LARGE).for_each(write);
    let has_table =
        || files(folder).iter().any(|path| path.to_string_lossy().contains("keyspaces/1/tables/"));
    let began = Instant::now();
    while !has_table() {
        assert!(began.elapsed() < TABLE_TIMEOUT, "the store wrote no table: are there enough large records?");
        std::thread::sleep(Duration::from_millis(20));
    }
    (0..RECORDS).for_each(write);
    engine.sync().expect("synced");
}

/// What is read back: every small record, and some of the large ones, which take long.
fn numbers() -> impl Iterator<Item = u64> {
    (0..RECORDS).chain((RECORDS..RECORDS + LARGE).step_by(10))
}

/// How many records come back right; an error when the store says that it is damaged.
fn readable(folder: &Path) -> Result<u64, Error> {
    let engine = DiskEngine::open(folder)?;
    let mut right = 0;
    for number in numbers() {
        let mut is_right = false;
        with_key(number, |at| engine.read(at, &mut |found| is_right = found == Some(&record(number))))?;
        right += u64::from(is_right);
    }
    Ok(right)
}

/// A folder in memory where the system has one: these tests sync often, and no power is lost in them.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a folder")
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

/// The bytes of a file that are changed, one at a time.
fn places(length: usize) -> Vec<usize> {
    let flips = std::env::var("SLIPRING_TEST_FLIPS")
        .map_or(FLIPS_PER_FILE, |asked| asked.parse().expect("a number"))
        .min(length);
    let spread = (0..flips).map(|flip| flip * length / flips);
    let tail = length.saturating_sub(TAIL_BYTES);
    let dense = (tail..length).step_by((TAIL_BYTES / flips.max(1)).max(1));
    let mut places: Vec<usize> = spread.chain(dense).collect();
    places.sort_unstable();
    places.dedup();
    places
}

#[test]
fn a_changed_byte_is_named_or_harmless_and_never_ends_the_process() {
    let original = folder();
    fill(original.path());
    // Opened twice, so that the journal has no zeros at its end.
    let all = numbers().count() as u64;
    assert_eq!(readable(original.path()), Ok(all));
    assert_eq!(readable(original.path()), Ok(all));
    let (mut named, mut harmless) = (0, 0);
    for file in files(original.path()) {
        let length = std::fs::metadata(&file).expect("a file").len() as usize;
        let file = file.strip_prefix(original.path()).expect("below").to_owned();
        for (place, outcome) in change_in_a_process_of_its_own(original.path(), &file, &places(length)) {
            match outcome.as_str() {
                "whole" => harmless += 1,
                "named" => named += 1,
                other => panic!("byte {place} of {}: {other}", file.display()),
            }
        }
    }
    println!("{named} changes were named, {harmless} changed nothing");
    assert!(named > harmless / 10);
}

#[test]
fn a_file_that_is_gone_is_named_or_not_missed() {
    let original = folder();
    fill(original.path());
    let all = numbers().count() as u64;
    assert_eq!(readable(original.path()), Ok(all));
    let mut named = 0;
    for file in files(original.path()) {
        let copied = folder();
        copy(original.path(), copied.path());
        let gone = copied.path().join(file.strip_prefix(original.path()).expect("below"));
        std::fs::remove_file(&gone).expect("removed");
        match readable(copied.path()) {
            Ok(count) => assert_eq!(count, all, "{} was gone, and not a word", gone.display()),
            Err(Error::Damaged { place, detail }) => {
                named += 1;
                let name = gone.display().to_string();
                let is_journal = name.ends_with(".jnl");
                assert!(place == name || is_journal, "{name} was gone, and {place}: {detail}");
                assert!(detail.contains("gone") || is_journal && detail.contains("lost"), "{detail}");
            }
            Err(other) => panic!("{} was gone: {other}", gone.display()),
        }
    }
    assert!(named >= 6, "{named}: manifests, tables, the mark, the version and the journal are missed");
}

#[test]
fn a_folder_that_is_gone_is_named() {
    let original = folder();
    fill(original.path());
    for gone in ["keyspaces", "keyspaces/0", "keyspaces/1", "keyspaces/1/tables"] {
        let copied = folder();
        copy(original.path(), copied.path());
        let path = copied.path().join("records").join(gone);
        std::fs::remove_dir_all(&path).expect("removed");
        let opened = readable(copied.path());
        let parent = path.parent().expect("a parent").display().to_string();
        let is_named = |place: &str| place.starts_with(&path.display().to_string()) || place == parent;
        assert!(
            matches!(&opened, Err(Error::Damaged { place, .. }) if is_named(place)),
            "{gone}: {opened:?}"
        );
    }
}

/// Changes one byte after the other, each in a copy of its own, and says what came of it. The process must
/// live to the end.
fn change_in_a_process_of_its_own(original: &Path, file: &Path, places: &[usize]) -> Vec<(usize, String)> {
    let mut process = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "changes_what_it_is_told_to", "--nocapture"])
        .env(FOLDER, original)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut input = process.stdin.take().expect("asked for");
    let asked: String = places.iter().map(|place| format!("{place} {}\n", file.display())).collect();
    input.write_all(asked.as_bytes()).expect("said");
    drop(input);
    let output = process.wait_with_output().expect("gone");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let outcomes = text.lines().filter_map(|line| line.strip_prefix("outcome: ")).map(str::to_owned);
    let outcomes: Vec<_> = places.iter().copied().zip(outcomes).collect();
    let next = places.get(outcomes.len());
    assert!(
        output.status.success() && next.is_none(),
        "byte {next:?} of {} ended the process: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    outcomes
}

/// The other end of the function above; without a folder in the environment there is nothing to do.
#[test]
fn changes_what_it_is_told_to() {
    let Some(original) = std::env::var_os(FOLDER) else { return };
    for line in std::io::stdin().lines() {
        let line = line.expect("text");
        let (place, file) = line.split_once(' ').expect("a place and a file");
        let copied = folder();
        copy(Path::new(&original), copied.path());
        change(&copied.path().join(file), place.parse().expect("a number"));
        let outcome = match readable(copied.path()) {
            Ok(count) if count == numbers().count() as u64 => "whole".to_owned(),
            Ok(count) => format!("{count} records came back right, and not a word"),
            Err(Error::Damaged { .. }) => "named".to_owned(),
            Err(other) => format!("{other}"),
        };
        println!("\noutcome: {outcome}");
    }
}

fn change(path: &Path, place: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("read");
    file.write_all_at(&[byte[0] ^ 0xff], place).expect("written");
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

#[test]
fn records_that_are_gone_where_a_node_has_been_are_missed() {
    for gone in ["data", "data/records"] {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = begin(folder.path());
        drop(directory.disk().expect("opened again"));
        std::fs::remove_dir_all(folder.path().join(gone)).expect("removed");
        let opened = directory.disk().map(drop);
        assert!(matches!(&opened, Err(Error::Damaged { .. })), "{gone}: {opened:?}");
    }
}

/// A directory after its first start.
fn begin(folder: &Path) -> DataDir {
    let directory = DataDir::claim(folder).expect("claimed");
    let (disk, meta) = (directory.disk().expect("made"), directory.meta().expect("made"));
    meta.put(&[("identity", b"one")]).expect("written");
    directory.settle(b"one").expect("settled");
    drop((disk, meta));
    directory
}

/// Opens both stores and holds them against each other, as a start does.
fn start(folder: &Path, identity: &[u8]) -> Result<(), Error> {
    let directory = DataDir::claim(folder)?;
    let _stores = (directory.disk()?, directory.meta()?);
    directory.settle(identity)
}

#[test]
fn a_directory_with_traces_and_no_identity_is_refused() {
    type Loss = fn(&Path) -> std::io::Result<()>;
    let losses: [(&str, Loss); 6] = [
        ("missing", |folder| std::fs::remove_file(folder.join("meta.redb"))),
        ("of no bytes", |folder| std::fs::write(folder.join("meta.redb"), b"")),
        ("of no names", |folder| {
            std::fs::remove_file(folder.join("meta.redb"))?;
            MetaStore::open(&folder.join("meta.redb")).map(drop).map_err(std::io::Error::other)
        }),
        ("of no bytes and alone", |folder| {
            std::fs::remove_dir_all(folder.join("data"))?;
            std::fs::write(folder.join("meta.redb"), b"")
        }),
        ("missing with the records", |folder| {
            std::fs::remove_dir_all(folder.join("data/records"))?;
            std::fs::remove_file(folder.join("meta.redb"))
        }),
        ("missing beside a file of another program", |folder| {
            std::fs::remove_dir_all(folder.join("data"))?;
            std::fs::remove_file(folder.join("meta.redb"))?;
            std::fs::write(folder.join("notes.txt"), b"mine")
        }),
    ];
    for (what, lose) in losses {
        let folder = tempfile::tempdir().expect("a folder");
        drop(begin(folder.path()));
        lose(folder.path()).expect("lost");
        for _ in 0..2 {
            let refused = start(folder.path(), b"one");
            assert!(matches!(&refused, Err(Error::NoIdentity { .. })), "{what}: {refused:?}");
        }
    }
}

#[test]
fn a_meta_store_cut_short_or_of_another_node_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(begin(folder.path()));
    assert_eq!(start(folder.path(), b"one"), Ok(()));
    assert!(matches!(start(folder.path(), b"two"), Err(Error::ForeignRecords { .. })));
    std::fs::remove_file(folder.path().join("data/owner")).expect("removed");
    assert!(matches!(start(folder.path(), b"one"), Err(Error::ForeignRecords { .. })));
    let meta = std::fs::read(folder.path().join("meta.redb")).expect("read");
    let half = meta.get(..meta.len() / 2).expect("half of it");
    for rest in [half, &meta[..1]] {
        std::fs::write(folder.path().join("meta.redb"), rest).expect("cut");
        let refused = start(folder.path(), b"one");
        assert!(matches!(&refused, Err(Error::Damaged { .. })), "{refused:?}");
    }
}

#[test]
fn a_first_start_that_was_cut_short_at_any_step_goes_on() {
    for steps in 0..5 {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("lost+found")).expect("made");
        std::fs::write(folder.path().join("first-start.unfinished"), b"").expect("written");
        let directory = DataDir::claim(folder.path()).expect("claimed");
        if steps > 0 {
            drop(directory.disk().expect("made"));
        }
        if steps > 1 {
            drop(directory.meta().expect("made"));
        }
        if steps > 2 {
            let meta = directory.meta().expect("made");
            meta.put(&[("identity", b"one")]).expect("written");
        }
        if steps > 3 {
            std::fs::write(folder.path().join("data/owner"), b"one").expect("written");
        }
        drop(directory);
        assert_eq!(start(folder.path(), b"one"), Ok(()), "after {steps} steps");
    }
}
