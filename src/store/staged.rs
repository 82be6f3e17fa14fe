//! What crashes leave in a local directory: files written beside their name, `NAME#N`, and never moved there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::cpu;
use crate::error::{Result, io_error};

use super::Store;
use super::attempt::key_path;

/// A file that was written and not moved to its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Staged {
    path: PathBuf,
    /// What was written of it.
    pub size_bytes: u64,
    /// By the file system's clock; 0 for times before 1970.
    pub modified_unix_ms: u64,
}

impl Store {
    /// Finds staged files in a local directory; none in any other store. Some may be under way.
    pub(crate) async fn staged(&self) -> Result<Vec<Staged>> {
        let Some(dir) = self.shared.local_dir.clone() else { return Ok(Vec::new()) };
        cpu::block(move || {
            let mut found = Vec::new();
            find(&dir, &mut found)?;
            Ok(found)
        })
        .await
    }

    /// Removes one.
    pub(crate) async fn remove_staged(&self, staged: Staged) -> Result<()> {
        cpu::block(move || match fs::remove_file(&staged.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(io_error(format!("delete {}", staged.path.display()), e))
            }
            _ => Ok(()),
        })
        .await
    }
}

fn find(dir: &Path, found: &mut Vec<Staged>) -> Result<()> {
    let failed = |e| io_error(format!("read directory {}", dir.display()), e);
    let entries = match fs::read_dir(dir) {
        // It was empty and is gone.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            // Other folders are nobody's of ours: `lost+found` may be read by root alone.
            if entry.file_name().to_str().is_some_and(|name| key_path(name).is_ok()) {
                find(&entry.path(), found)?;
            }
        } else if metadata.is_file() && entry.file_name().to_str().is_some_and(is_staged) {
            let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
            found.push(Staged {
                path: entry.path(),
                size_bytes: metadata.len(),
                modified_unix_ms: modified.map_or(0, |at| at.as_millis() as u64),
            });
        }
    }
    Ok(())
}

/// As object_store's `LocalFileSystem` names them, and leaves them out of listings.
fn is_staged(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(stem, number)| {
        !stem.is_empty() && !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::is_staged;

    #[test]
    fn staged_names() {
        for (name, expected) in
            [("a#1", true), ("a.end#23", true), ("a", false), ("#1", false), ("a#", false), ("a#b", false)]
        {
            assert_eq!(is_staged(name), expected, "{name}");
        }
    }
}
