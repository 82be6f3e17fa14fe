//! The files, without their tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file.
pub(super) struct Source {
    pub path: PathBuf,
    /// Its lines with their numbers, from 1, but for its unit tests.
    pub lines: Vec<(usize, String)>,
}

/// All files below a folder, by path. Files of tests are left out.
pub(super) fn sources(folder: &Path) -> Result<Vec<Source>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            out.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") && !is_test_file(&path) {
            out.push(Source::new(&path, &fs::read_to_string(&path)?));
        }
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

impl Source {
    pub fn new(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), lines: without_tests(text) }
    }

    /// The code, without comments.
    pub fn code(&self) -> String {
        self.lines.iter().map(|(_, line)| without_comment(line).to_owned() + "\n").collect()
    }

    /// The room: the folder below `src`, or the file's own name.
    pub fn room(&self) -> Option<&str> {
        self.path.strip_prefix("src").ok()?.components().next()?.as_os_str().to_str()?.split('.').next()
    }
}

/// Where a line has a string with `//` in it, what is behind that is lost: an address, mostly.
pub(super) fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Modules of tests are left out wherever they stand, and only they: what is behind one counts.
fn without_tests(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < lines.len() {
        let next = lines.get(at + 1).copied().unwrap_or_default();
        let is_module = next.starts_with("mod ") || next.starts_with("pub mod ");
        if lines[at] == "#[cfg(test)]" && is_module {
            let end = match next.ends_with(';') {
                true => at + 1,
                false => (at..lines.len()).find(|end| lines[*end] == "}").unwrap_or(lines.len()),
            };
            at = end + 1;
            continue;
        }
        out.push((at + 1, lines[at].to_owned()));
        at += 1;
    }
    out
}

fn is_test_file(path: &Path) -> bool {
    path.ends_with("tests.rs")
        || path.ends_with("testing.rs")
        || path.components().any(|c| c.as_os_str() == "tests")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_tests_is_seen() {
        let text = "one\n#[cfg(test)]\nmod tests;\ntwo\n#[cfg(test)]\nmod more {\n    x\n}\nthree // four\n";
        let source = Source::new(Path::new("src/a/b.rs"), text);
        assert_eq!(source.code(), "one\ntwo\nthree \n");
        assert_eq!(source.lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 4, 9]);
        assert_eq!(source.room(), Some("a"));
        assert_eq!(Source::new(Path::new("src/cpu.rs"), "").room(), Some("cpu"));
    }
}
