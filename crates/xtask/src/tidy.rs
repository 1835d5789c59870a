//! Rules of the house that no compiler checks: sizes, module docs, words that must not stay.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::{output, root};

/// Lines of a file before its inline tests.
const PRODUCTION_LINES_MAX: usize = 600;
/// Lines of a `lib.rs`, which is a map.
const MAP_LINES_MAX: usize = 100;

/// Fails on the first file of each kind that breaks a rule, naming all of them.
pub(crate) fn check() -> Result<()> {
    let tracked = output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])?;
    let mut wrong = Vec::new();
    for name in tracked.lines() {
        let path = root().join(name);
        if let Ok(text) = std::fs::read_to_string(&path) {
            wrong.extend(
                complaints(Path::new(name), &text)
                    .into_iter()
                    .map(|complaint| format!("{name}: {complaint}")),
            );
        }
    }
    if wrong.is_empty() { Ok(()) } else { bail!("untidy:\n  {}", wrong.join("\n  ")) }
}

fn complaints(path: &Path, text: &str) -> Vec<String> {
    let production = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
    let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push("does not say what it is: begin with `//!`".to_owned());
    }
    if production > PRODUCTION_LINES_MAX {
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
