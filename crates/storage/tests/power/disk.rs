//! A disk that loses its power: a process runs on it, is killed, and what would be left is put together.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::UNIX_EPOCH;

use tempfile::TempDir;

const PAGE_BYTES: usize = 4096;
/// In a process on such a disk, the folder to work in.
pub(crate) const FOLDER: &str = "SLIPRING_TEST_FOLDER";

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

    /// The disk after the power failed; of the pages that were written and not synced, `is_there` picks those
    /// that had reached it all the same.
    pub(crate) fn after_power_loss(&self, mut is_there: impl FnMut() -> bool) -> Self {
        let left = Self::new();
        let mut written = BTreeMap::new();
        list(self.written.path(), &mut written);
        self.restore(&identity(self.written.path()), left.written.path(), &written, &mut is_there);
        left
    }

    fn restore(
        &self,
        folder: &str,
        target: &Path,
        written: &BTreeMap<String, PathBuf>,
        is_there: &mut dyn FnMut() -> bool,
    ) {
        // A folder that was never synced has no names in it.
        let names =
            std::fs::read_to_string(self.synced.path().join(format!("{folder}.names"))).unwrap_or_default();
        for line in names.lines() {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().expect("identity, kind, name");
            let (id, kind, path) = (word(), word(), target.join(word()));
            if kind == "folder" {
                std::fs::create_dir(&path).expect("made");
                self.restore(id, &path, written, is_there);
            } else {
                std::fs::write(&path, self.bytes(id, written.get(id), is_there)).expect("written");
            }
        }
    }

    fn bytes(&self, id: &str, written: Option<&PathBuf>, is_there: &mut dyn FnMut() -> bool) -> Vec<u8> {
        let mut bytes = std::fs::read(self.synced.path().join(id)).unwrap_or_default();
        // A file without a name any more has no pages left to reach the disk.
        let Some(written) = written else { return bytes };
        let newer = std::fs::read(written).expect("read");
        for (number, page) in newer.chunks(PAGE_BYTES).enumerate() {
            let start = number * PAGE_BYTES;
            if bytes.get(start..start + page.len()) == Some(page) || !is_there() {
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
        self.process.kill().expect("killed");
        self.process.wait().expect("gone");
    }

    /// Waits for the end; whether it was a good one.
    pub(crate) fn ends_well(mut self) -> bool {
        self.process.wait().expect("gone").success()
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
