//! A disk that loses its power: a process runs on it, is killed, and what would be left is put together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

const PAGE_BYTES: usize = 4096;
const SIGKILL: i32 = 9;
/// In a process on such a disk, the folder to work in.
pub(crate) const FOLDER: &str = "SLIPRING_TEST_FOLDER";

/// The kind and identity that each name of a folder stands for.
type Names = BTreeMap<String, (String, String)>;

/// A folder, and beside it what of it is safe from a loss of power.
pub(crate) struct Disk {
    written: TempDir,
    synced: TempDir,
}

/// A test of this file running in a process of its own, with what it prints.
pub(crate) struct Writer {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            written: tempfile::tempdir().expect("a folder"),
            synced: tempfile::tempdir().expect("a folder"),
        }
    }

    /// As its processes see it.
    pub(crate) fn folder(&self) -> PathBuf {
        self.written.path().canonicalize().expect("a folder")
    }

    /// Starts a test of this program on the disk; `settings` are those of `power.c`.
    pub(crate) fn run(&self, test: &str, settings: &[(&str, &str)]) -> Writer {
        let mut process = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", test, "--nocapture"])
            .env("LD_PRELOAD", library())
            .env("SLIPRING_POWER_ROOT", self.folder())
            .env("SLIPRING_POWER_DISK", self.synced.path())
            .env(FOLDER, self.folder())
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(process.stdout.take().expect("asked for")).lines();
        Writer { process, lines }
    }

    /// The disk after the power failed; of the pages that were written, and the names that were given and taken, and
    /// not synced, `is_there` picks those that had reached it all the same.
    pub(crate) fn after_power_loss(&self, is_there: impl FnMut() -> bool) -> Self {
        let left = Self::new();
        let mut files = BTreeMap::new();
        list(self.written.path(), &mut files);
        let mut loss = Loss { synced: self.synced.path(), files, is_there };
        loss.restore(&identity(self.written.path()), Some(self.written.path()), left.written.path());
        left
    }

    /// A second disk with the same files, to look at without a trace on this one.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        copy_files(self.written.path(), copy.written.path());
        copy
    }
}

/// What puts a disk together after a loss of power.
struct Loss<'d, F> {
    synced: &'d Path,
    /// The files as the processes saw them, by identity.
    files: BTreeMap<String, PathBuf>,
    is_there: F,
}

impl<F: FnMut() -> bool> Loss<'_, F> {
    /// Fills `target` with what is left of the folder `id`, which the processes saw as `seen` unless it was gone.
    fn restore(&mut self, id: &str, seen: Option<&Path>, target: &Path) {
        let was = self.synced_names(id);
        let is = seen.map_or_else(|| was.clone(), seen_names);
        let mut names: Vec<&String> =
            was.keys().chain(is.keys().filter(|name| !was.contains_key(*name))).collect();
        names.sort_by_key(|name| age(name));
        let mut removals_arrive = true;
        for name in names {
            let (old, new) = (was.get(name), is.get(name));
            let is_removal = old.is_some() && new.is_none();
            let arrived = old != new && (self.is_there)() && (removals_arrive || !is_removal);
            removals_arrive &= arrived || !is_removal;
            let Some((kind, id)) = (if arrived { new } else { old }) else { continue };
            let path = target.join(name);
            if kind == "folder" {
                std::fs::create_dir(&path).expect("made");
                let seen = seen
                    .map(|seen| seen.join(name))
                    .filter(|_| is.get(name) == Some(&(kind.clone(), id.clone())));
                self.restore(id, seen.as_deref(), &path);
            } else {
                std::fs::write(&path, self.bytes(id)).expect("written");
            }
        }
    }

    /// Kind and identity by name. A folder that was never synced has no names in it.
    fn synced_names(&self, id: &str) -> Names {
        let names = std::fs::read_to_string(self.synced.join(format!("{id}.names"))).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            let mut word = || words.next().expect("identity, kind, name");
            let (id, kind, name) = (word(), word(), word());
            (name, (kind, id))
        };
        names.lines().map(entry).collect()
    }

    fn bytes(&mut self, id: &str) -> Vec<u8> {
        let mut bytes = std::fs::read(self.synced.join(id)).unwrap_or_default();
        // A file without a name any more has no pages left to reach the disk.
        let Some(written) = self.files.get(id) else { return bytes };
        let newer = std::fs::read(written).expect("read");
        for (number, page) in newer.chunks(PAGE_BYTES).enumerate() {
            let start = number * PAGE_BYTES;
            if bytes.get(start..start + page.len()) == Some(page) || !(self.is_there)() {
                continue;
            }
            bytes.resize(bytes.len().max(start + page.len()), 0);
            bytes.get_mut(start..start + page.len()).expect("resized").copy_from_slice(page);
        }
        bytes
    }
}

impl Writer {
    /// The rest of the next line that begins with `word`; `None` when the process has ended.
    pub(crate) fn next(&mut self, word: &str) -> Option<String> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix(word)?.trim().to_owned()))
    }

    /// Ends the process as a loss of power does, at any moment; what it had printed is still to be read.
    pub(crate) fn kill(&mut self) {
        let ended = self.process.try_wait().expect("a process");
        assert!(ended.is_none(), "it ended by itself: {ended:?}");
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }

    /// Waits for the end; whether it was that of a loss of power.
    pub(crate) fn ends_killed(mut self) -> bool {
        self.process.wait().expect("gone").signal() == Some(SIGKILL)
    }

    /// Waits for the end; whether it was a good one.
    pub(crate) fn ends_well(mut self) -> bool {
        self.process.wait().expect("gone").success()
    }
}

/// Sorts journals by their numbers: the store removes the oldest first, and the file systems of Linux write the removals
/// of one folder in the order in which they were made.
fn age(name: &str) -> Option<u64> {
    Path::new(name).file_stem()?.to_str()?.parse().ok()
}

fn seen_names(folder: &Path) -> Names {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.expect("an entry");
        let kind = if entry.path().is_dir() { "folder" } else { "file" };
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, (kind.to_owned(), identity(&entry.path())))
    };
    std::fs::read_dir(folder).expect("a folder").map(entry).collect()
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy_files(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

fn list(folder: &Path, found: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, found);
        } else {
            found.insert(identity(&path), path);
        }
    }
}

/// As `power.c` names it.
fn identity(path: &Path) -> String {
    let info: Metadata = std::fs::metadata(path).expect("it is there");
    let birth =
        info.created().expect("the file system tells").duration_since(UNIX_EPOCH).expect("after 1970");
    format!("{}-{}-{}", info.ino(), birth.as_secs(), birth.subsec_nanos())
}

/// `power.c` as a library, built once by the C compiler that builds the dependencies too.
fn library() -> &'static OsStr {
    static LIBRARY: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let build = || {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("power.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/power.c");
        let built = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-o"])
            .args([&path, &source])
            .arg("-ldl")
            .status()
            .expect("a C compiler");
        assert!(built.success());
        (folder, path)
    };
    LIBRARY.get_or_init(build).1.as_os_str()
}
