//! Rules of the house that no compiler checks: sizes, module docs, words that must not stay.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::root;

/// Lines of a file before its inline tests: a ceiling, and a number that is worth a question.
const PRODUCTION_LINES_MAX: usize = 600;
const PRODUCTION_LINES_WORTH_A_QUESTION: usize = 400;
/// Lines of a `lib.rs`, which is a map.
const MAP_LINES_MAX: usize = 100;
/// What a generator writes, which is as long as it is.
const GENERATED: &str = "generated";
/// Where our own source is.
const FOLDERS: [&str; 2] = ["crates", "fuzz/fuzz_targets"];

/// Names everything that breaks a rule, and fails if anything does.
pub(crate) fn check() -> Result<()> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut files)?;
    }
    files.sort();
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let name = path.strip_prefix(root()).unwrap_or(&path).display();
        wrong.extend(complaints(&path, &text).iter().map(|complaint| format!("{name}: {complaint}")));
        let lines = production_lines(&text);
        if lines > PRODUCTION_LINES_WORTH_A_QUESTION && !is_generated(&path) {
            println!("{name} has {lines} lines: still one noun?");
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("untidy:\n  {}", wrong.join("\n  ")) }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn production_lines(text: &str) -> usize {
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

fn is_generated(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with(GENERATED))
}

fn complaints(path: &Path, text: &str) -> Vec<String> {
    let production = production_lines(text);
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("does not say what it is: begin with `//!`".to_owned());
    }
    if production > PRODUCTION_LINES_MAX && !is_generated(path) {
        found.push(format!(
            "has {production} lines, at most {PRODUCTION_LINES_MAX}: is it one noun or several?"
        ));
    }
    if file == "lib.rs" && text.lines().count() > MAP_LINES_MAX {
        found.push(format!("is a map and has more than {MAP_LINES_MAX} lines"));
    }
    if file == "mod.rs" {
        found.push("is a mod.rs: name the file like its module".to_owned());
    }
    let banned = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("dbg", "!("), concat!("#[ign", "ore")];
    for word in banned {
        if let Some(line) = text.lines().position(|line| line.contains(word)) {
            found.push(format!("line {}: `{word}` must not stay", line + 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_is_seen_to_be_broken() {
        let long = "//! A file.\n".repeat(PRODUCTION_LINES_MAX + 1);
        assert_eq!(complaints(Path::new("a.rs"), &long).len(), 1);
        assert!(complaints(Path::new("src/generated/a.rs"), &long).is_empty());
        assert_eq!(complaints(Path::new("src/lib.rs"), &"//! A map.\n".repeat(MAP_LINES_MAX + 1)).len(), 1);
        assert_eq!(complaints(Path::new("mod.rs"), "fn x() {}").len(), 2);
        let tested = format!("//! A file.\n#[cfg(test)]\n{long}");
        assert!(complaints(Path::new("a.rs"), &tested).is_empty());
        assert_eq!(
            complaints(Path::new("a.rs"), &format!("//! A file.\n// {}", concat!("FIX", "ME"))).len(),
            1
        );
    }
}
