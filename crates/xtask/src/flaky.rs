//! Tests that fail once and pass alone: the run goes on, and names them at its end.
//!
//! A busy machine can make a sound test fail, and one such test must not waste a whole run. It is still a fault
//! whose cause is to be found, so at most two are forgiven, and their first logs are kept.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::shell::root;
use crate::steps::Tally;

/// How many failed tests run again. More of them are a fault of the tree, not of the moment.
const AGAIN_MAX: usize = 2;

/// The names of tests that failed, as pytest lists them at its end.
#[derive(Default)]
pub(crate) struct Failures(Vec<String>);

impl Failures {
    /// Reads one line of pytest's output.
    pub(crate) fn read(&mut self, line: &str) {
        let rest = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR "));
        let Some(name) = rest.map(|rest| rest.split(" - ").next().unwrap_or(rest).trim()) else { return };
        if name.contains("::") && !self.0.iter().any(|known| known == name) {
            self.0.push(name.to_owned());
        }
    }

    /// Runs each failed test alone when they are few. `tally` is that of the whole run; the result counts a test that
    /// passes now as passed, and `flaky` names it.
    pub(crate) fn run_again(
        self,
        mut tally: Tally,
        flaky: &mut Vec<String>,
        mut run: impl FnMut(&str) -> Result<Tally>,
    ) -> Result<Tally> {
        let are_all_known = self.0.len() as u64 == tally.failed;
        if self.0.len() > AGAIN_MAX || !are_all_known {
            return Ok(tally);
        }
        for name in self.0 {
            println!("\n{name} failed; it runs once more, alone");
            let kept = keep_logs(&name);
            let again = run(&name)?;
            if again.failed == 0 && again.passed > 0 {
                tally.failed -= 1;
                tally.passed += 1;
                flaky.push(match kept {
                    Some(folder) => format!("FLAKY {name} (first logs: {})", folder.display()),
                    None => format!("FLAKY {name}"),
                });
            }
        }
        Ok(tally)
    }
}

/// Moves the logs of a test's module to where its second run does not write; none when it kept none.
fn keep_logs(name: &str) -> Option<PathBuf> {
    let module = Path::new(name.split("::").next()?).file_stem()?;
    let folder = root().join("target/e2e-logs").join(module);
    let kept = root().join("target/e2e-flaky").join(module);
    // An earlier run may have left it.
    let _ = std::fs::remove_dir_all(&kept);
    std::fs::create_dir_all(kept.parent()?).ok()?;
    std::fs::rename(folder, &kept).ok().map(|()| kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(lines: &[&str]) -> Failures {
        let mut failures = Failures::default();
        lines.iter().for_each(|line| failures.read(line));
        failures
    }

    #[test]
    fn failed_tests_are_named_once_by_their_ids() {
        let lines = [
            "FAILED tests/e2e/test_a.py::test_one - assert 1 == 2",
            "ERROR tests/e2e/test_a.py::test_one",
            "FAILED (errors=1)",
        ];
        assert_eq!(failures(&lines).0, ["tests/e2e/test_a.py::test_one"]);
    }

    #[test]
    fn a_test_that_passes_alone_is_flaky_and_one_that_does_not_fails() {
        let found = failures(&["FAILED a.py::shaky - x", "FAILED a.py::broken - y"]);
        let mut flaky = Vec::new();
        let alone = |name: &str| match name {
            "a.py::shaky" => Ok(Tally { passed: 1, failed: 0 }),
            _ => Ok(Tally { passed: 0, failed: 1 }),
        };
        let tally = found.run_again(Tally { passed: 8, failed: 2 }, &mut flaky, alone).expect("it runs");
        assert_eq!((tally, flaky), (Tally { passed: 9, failed: 1 }, vec!["FLAKY a.py::shaky".to_owned()]));
    }

    #[test]
    fn many_failures_and_unnamed_ones_run_no_more() {
        let never = |_: &str| panic!("it must not run");
        let three = failures(&["FAILED a.py::1 - x", "FAILED a.py::2 - x", "FAILED a.py::3 - x"]);
        let whole = Tally { passed: 1, failed: 3 };
        assert_eq!(three.run_again(whole, &mut Vec::new(), never).expect("no run"), whole);
        let unnamed = Tally { passed: 1, failed: 1 };
        assert_eq!(failures(&[]).run_again(unnamed, &mut Vec::new(), never).expect("no run"), unnamed);
    }
}
