//! Steps in a row: each is timed and counted, all of them run, and a table and one line tell the outcome.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }

    /// An error when anything failed.
    pub(crate) fn verdict(self) -> Result<()> {
        if self.failed > 0 {
            bail!("{} passed, {} failed", self.passed, self.failed);
        }
        Ok(())
    }

    /// Reads the closing line of a suite, as cargo and pytest write it; `None` for any other line.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let plain = line.trim_matches(|letter| letter == '=' || letter == ' ');
        let is_cargo = plain.starts_with("test result: ");
        let is_pytest = plain.starts_with(|letter: char| letter.is_ascii_digit()) && plain.contains(" in ");
        if !is_cargo && !is_pytest {
            return None;
        }
        let words: Vec<&str> = plain.split_whitespace().collect();
        let mut tally = Self::default();
        let mut is_found = false;
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what.trim_end_matches([',', ';']) {
                "passed" => tally.passed += number,
                "failed" | "error" | "errors" => tally.failed += number,
                _ => continue,
            }
            is_found = true;
        }
        is_found.then_some(tally)
    }
}

struct Step {
    name: &'static str,
    took: Duration,
    tally: Tally,
}

/// Steps that have run, and lines to print at the end.
#[derive(Default)]
pub(crate) struct Steps {
    steps: Vec<Step>,
    notes: Vec<String>,
}

impl Steps {
    /// Runs a step that counts as one test.
    pub(crate) fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> &mut Self {
        self.count(name, || step().map(|()| Tally { passed: 1, failed: 0 }))
    }

    /// Runs a step that counts by itself; an error is one failure more.
    pub(crate) fn count(&mut self, name: &'static str, step: impl FnOnce() -> Result<Tally>) -> &mut Self {
        println!("\n== {name}");
        let began = Instant::now();
        let tally = step().unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally { passed: 0, failed: 1 }
        });
        self.steps.push(Step { name, took: began.elapsed(), tally });
        self
    }

    /// Keeps lines that are printed after the table of steps.
    pub(crate) fn note(&mut self, lines: Vec<String>) -> &mut Self {
        self.notes.extend(lines);
        self
    }

    /// Prints what each step took and what came of it, then the notes; the last line is the sum.
    pub(crate) fn finish(&self) -> ExitCode {
        println!();
        let mut sum = Tally::default();
        for Step { name, took, tally } in &self.steps {
            let word = if tally.failed == 0 { "ok" } else { "FAILED" };
            println!("{:>7.1} s  {word:<6}  {:>4} passed  {name}", took.as_secs_f64(), tally.passed);
            sum = sum.plus(*tally);
        }
        let took: Duration = self.steps.iter().map(|step| step.took).sum();
        println!("{:>7.1} s  in all", took.as_secs_f64());
        self.notes.iter().for_each(|note| println!("{note}"));
        println!("{} passed, {} failed", sum.passed, sum.failed);
        if sum.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_read_and_others_are_not() {
        let read = |line| Tally::read(line).map(|tally| (tally.passed, tally.failed));
        let cargo = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out; finished in 0.1s";
        assert_eq!(read(cargo), Some((12, 3)));
        assert_eq!(read("41 passed in 101.52s (0:01:41)"), Some((41, 0)));
        assert_eq!(read("== 1 failed, 39 passed, 2 skipped, 1 error in 9.10s =="), Some((39, 2)));
        assert_eq!(read("2 skipped in 0.01s"), None);
        assert_eq!(read("running 3 tests"), None);
        assert_eq!(read("test a_write_that_failed_passed ... ok"), None);
    }

    #[test]
    fn a_step_that_fails_does_not_stop_the_next_and_is_counted() {
        let mut steps = Steps::default();
        let mut has_run = false;
        steps.run("one", || bail!("no")).run("two", || {
            has_run = true;
            Ok(())
        });
        assert!(has_run);
        assert_eq!(steps.steps.iter().map(|step| step.tally.failed).sum::<u64>(), 1);
        assert_eq!(steps.finish(), ExitCode::FAILURE);
    }
}
