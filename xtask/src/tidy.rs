//! `cargo xtask tidy`: the rules of the house that the compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Lines of a source file without its tests.
const FILE_LINES_MAX: usize = 450;
/// What the specification and the code that implements it looked like when they were last held against each other.
const FORMAT_LOCK: &str = "xtask/format.lock";
const LEAVES: [&str; 10] =
    ["units", "volume", "error", "progress", "clock", "cancel", "cpu", "budget", "random", "testing"];

/// `cargo xtask tidy [--accept]`. With `--accept` the specification and the code are declared to agree as they are now.
pub fn command(args: &[String]) -> Result<()> {
    let sources = sources(Path::new("src"))?;
    let mut faults = Vec::new();
    layers(&sources, &mut faults)?;
    for (path, text) in &sources {
        house_rules(path, text, &mut faults);
    }
    format_lock(&sources, args.iter().any(|a| a == "--accept"), &mut faults)?;
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults", faults.len());
    }
    println!("tidy: {} files are in order", sources.len());
    Ok(())
}

type Sources = BTreeMap<PathBuf, String>;

fn sources(dir: &Path) -> Result<Sources> {
    let mut out = Sources::new();
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            out.extend(sources(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path)?;
            out.insert(path, text);
        }
    }
    Ok(out)
}

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn is_test_file(path: &Path) -> bool {
    path.ends_with("tests.rs")
        || path.ends_with("testing.rs")
        || path.components().any(|c| c.as_os_str() == "tests")
}

/// The room of a file: its folder below `src`, or its own name.
fn room(path: &Path) -> Option<String> {
    let below = path.strip_prefix("src").ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    Some(first.trim_end_matches(".rs").to_owned())
}

/// Holds every `use crate::` against the table in ARCHITECTURE.md.
fn layers(sources: &Sources, faults: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string("ARCHITECTURE.md").context("read ARCHITECTURE.md")?;
    let table = text
        .split("| room | may use |")
        .nth(1)
        .context("ARCHITECTURE.md has no table of who may use whom")?;
    let mut allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in table.lines().skip(2).take_while(|l| l.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, room, uses, ..] = cells[..] {
            allowed.insert(room, uses.split(", ").filter(|s| !s.is_empty()).collect());
        }
    }
    for leaf in LEAVES {
        allowed.insert(leaf, BTreeSet::new());
    }
    for (path, text) in sources.iter().filter(|(path, _)| !is_test_file(path)) {
        let Some(room) = room(path).filter(|r| r != "lib" && r != "main") else { continue };
        let Some(uses) = allowed.get(room.as_str()) else {
            faults.push(format!("{}: room {room} is not in ARCHITECTURE.md's table", path.display()));
            continue;
        };
        for used in used_rooms(without_tests(text)) {
            let fine = used == room || LEAVES.contains(&used.as_str()) || uses.contains(used.as_str());
            if !fine {
                faults.push(format!("{}: {room} may not use {used}", path.display()));
            }
        }
    }
    Ok(())
}

/// First segments behind `crate::` and `cuttle::`, also within one pair of braces.
fn used_rooms(text: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for start in ["crate::", "cuttle::"] {
        for part in text.split(start).skip(1) {
            let names = match part.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
                None => vec![part],
            };
            for name in names {
                let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_module = name.chars().next().is_some_and(char::is_lowercase);
                if is_module && name != "self" {
                    out.insert(name);
                }
            }
        }
    }
    out
}

fn house_rules(path: &Path, text: &str, faults: &mut Vec<String>) {
    let body = without_tests(text);
    let lines = body.lines().count();
    if lines > FILE_LINES_MAX && !is_test_file(path) {
        faults.push(format!(
            "{}: {lines} lines, at most {FILE_LINES_MAX}: is it still one idea?",
            path.display()
        ));
    }
    if is_test_file(path) {
        return;
    }
    let mut before: Vec<&str> = Vec::new();
    for (number, line) in body.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let mut fault = |what: &str| faults.push(format!("{}:{}: {what}", path.display(), number + 1));
        for banned in [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!(", "#[ignore"] {
            if code.contains(banned) {
                fault(&format!("{banned} does not belong here: input never panics"));
            }
        }
        let has_unsafe = code.contains("unsafe {") || code.contains("unsafe impl");
        if has_unsafe && !path.starts_with("src/rbd") {
            fault("unsafe outside src/rbd");
        }
        if has_unsafe
            && !before.iter().rev().take(12).any(|l| l.contains("SAFETY:"))
            && !line.contains("SAFETY:")
        {
            fault("unsafe without a SAFETY comment");
        }
        before.push(line);
    }
}

/// Fails when the specification moved and the code did not, or the other way round.
fn format_lock(sources: &Sources, accept: bool, faults: &mut Vec<String>) -> Result<()> {
    let spec = fs::read_to_string("repo-format.md").context("read repo-format.md")?;
    let mut code = String::new();
    for (path, text) in sources.iter().filter(|(path, _)| path.starts_with("src/format")) {
        code.push_str(&path.to_string_lossy());
        // Comments and tests may change freely.
        for line in without_tests(text).lines().map(str::trim).filter(|l| !l.starts_with("//")) {
            code.push_str(line);
        }
    }
    let hash = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
    let now = format!("repo-format.md {}\nsrc/format {}\n", hash(&spec), hash(&code));
    let locked = fs::read_to_string(FORMAT_LOCK).unwrap_or_default();
    if now == locked {
        return Ok(());
    }
    if accept {
        fs::write(FORMAT_LOCK, now).with_context(|| format!("write {FORMAT_LOCK}"))?;
        return Ok(());
    }
    let moved: Vec<&str> = now.lines().filter(|l| !locked.lines().any(|o| o == *l)).collect();
    let moved: Vec<&str> = moved.iter().filter_map(|l| l.split(' ').next()).collect();
    faults.push(format!(
        "{} changed since specification and code were last held against each other. Change the other as well where it must, \
         renew the fixtures and the version note, then run `cargo xtask tidy --accept`",
        moved.join(" and ")
    ));
    Ok(())
}
