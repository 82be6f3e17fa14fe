//! Specification and code move together.

use std::fs;

use anyhow::{Context, Result};

use super::source::Source;

/// What the specification and the code that implements it looked like when they were last held against each other.
const FORMAT_LOCK: &str = "xtask/format.lock";

/// Fails when the specification moved and the code did not, or the other way round.
pub(super) fn format_lock(sources: &[Source], accept: bool, faults: &mut Vec<String>) -> Result<()> {
    let spec = fs::read_to_string("repo-format.md").context("read repo-format.md")?;
    let mut code = String::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/format")) {
        code.push_str(&source.path.to_string_lossy());
        // Comments and tests may change freely.
        for line in source.lines.iter().map(|(_, line)| line.trim()).filter(|line| !line.starts_with("//")) {
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
