//! Copies of small immutable objects on the local disk, sealed as they are in the store (repo-format.md §8.4).
//!
//! Always rebuildable and never the truth: whether something exists or is live is asked of the store, and what
//! comes from here is authenticated like everything else. That is not enough: copies of a repository that went different
//! ways have different objects under one name, all authentic. So a page, whose name says what it holds, is found by its
//! name; a record only under the [`Stamp`] that the store's listing shows now. A hurt copy is dropped and fetched again.

mod entries;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::format::ObjectName;
use crate::format::names::volumes_prefix;
use crate::repo::cache::entries::Entries;
use crate::repo::scratch::Scratch;
use crate::store::Stamp;
use crate::units::{ProjectName, hex};

/// Bytes in front of a copy of a record: the stamp of what it is a copy of.
const STAMP_LEN_BYTES: usize = 16;

/// Sealed copies of manifest pages, `.end` records and catalog entries.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    dir: Option<PathBuf>,
    /// Read when the first is asked for; `None` where that failed.
    entries: Arc<Mutex<HashMap<ProjectName, Option<Entries>>>>,
    warned: Arc<AtomicBool>,
}

impl Cache {
    /// Copies of this repository's objects below `dir`, which need not be there; `None` keeps none.
    pub(crate) fn new(dir: Option<&Path>, repo_id: &[u8; 16]) -> Self {
        Self { dir: dir.map(|d| d.join(hex(repo_id))), entries: Arc::default(), warned: Arc::default() }
    }

    /// Where the copies are, for people.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Room for what an operation puts down, on the disk that has the copies.
    pub(crate) fn scratch(&self) -> Scratch {
        Scratch::new(self.dir())
    }

    /// A page, whatever store it is from: its id says what it holds.
    pub(crate) fn page(&self, name: &ObjectName) -> Option<Bytes> {
        self.read(self.page_path(name)?, name).map(Bytes::from)
    }

    /// Keeps a copy of a whole page object; where that fails, it is told of once and nothing else.
    pub(crate) fn put_page(&self, name: &ObjectName, object: &[u8]) {
        if let Some(path) = self.page_path(name) {
            self.write(&path, &[object]);
        }
    }

    /// The copy of just that object which the store shows under the name now.
    pub(super) fn record(&self, name: &ObjectName, stamp: &Stamp) -> Option<Bytes> {
        if let ObjectName::Volume(project, number) = name {
            return self.with_entries(project, |entries| Ok(entries.get(*number, stamp)))?;
        }
        let bytes = Bytes::from(self.read(self.record_path(name)?, name)?);
        bytes.starts_with(&stamp.0).then(|| bytes.slice(STAMP_LEN_BYTES..))
    }

    pub(super) fn put_record(&self, name: &ObjectName, stamp: &Stamp, object: &[u8]) {
        if let ObjectName::Volume(project, number) = name {
            self.with_entries(project, |entries| entries.put(*number, stamp, object));
        }
        if let Some(path) = self.record_path(name) {
            self.write(&path, &[&stamp.0, object]);
        }
    }

    /// Whether there is a copy of anything under the name, from whatever store: a hint for people.
    pub(crate) fn has(&self, name: &ObjectName) -> bool {
        if let ObjectName::Volume(project, number) = name {
            return self.with_entries(project, |entries| Ok(entries.has(*number))).unwrap_or(false);
        }
        self.page_path(name).or_else(|| self.record_path(name)).is_some_and(|path| path.exists())
    }

    /// Drops the copy of a page or record, if there is one.
    pub(crate) fn remove(&self, name: &ObjectName) {
        if let ObjectName::Volume(project, number) = name {
            self.with_entries(project, |entries| {
                entries.remove(*number);
                Ok(())
            });
        }
        if let Some(path) = self.page_path(name).or_else(|| self.record_path(name)) {
            let _ = fs::remove_file(path);
        }
    }

    /// The copies of a project's catalog; `None` without a cache, and where it is of no use.
    fn with_entries<T>(
        &self,
        project: &ProjectName,
        with: impl FnOnce(&mut Entries) -> io::Result<T>,
    ) -> Option<T> {
        let path = self.dir.as_ref()?.join(volumes_prefix(project)).join("copies");
        let mut all = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = all
            .entry(project.clone())
            .or_insert_with(|| Entries::read(&path).map_err(|e| self.warn(&e, &path)).ok())
            .as_mut()?;
        with(entries).map_err(|e| self.warn(&e, &path)).ok()
    }

    fn page_path(&self, name: &ObjectName) -> Option<PathBuf> {
        let kept = matches!(name, ObjectName::Page(..));
        self.dir.as_ref().filter(|_| kept).map(|d| d.join(name.to_string()))
    }

    /// Only what is written once, needed again and small is kept; secrets, chunks and what is deleted are not.
    fn record_path(&self, name: &ObjectName) -> Option<PathBuf> {
        let kept = matches!(name, ObjectName::End(..));
        self.dir.as_ref().filter(|_| kept).map(|d| d.join(name.to_string()))
    }

    fn read(&self, path: PathBuf, name: &ObjectName) -> Option<Vec<u8>> {
        let max = name.object_type().object_len_bytes_max() + STAMP_LEN_BYTES;
        let found = fs::metadata(&path).and_then(|meta| match meta.len() <= max as u64 {
            true => fs::read(&path).map(Some),
            false => Ok(None),
        });
        match found {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound) => None,
            Err(e) => {
                self.warn(&e, &path);
                None
            }
        }
    }

    /// Keeps a copy. A cache that cannot be written is a slow one, not an error.
    fn write(&self, path: &Path, parts: &[&[u8]]) {
        let Some(parent) = path.parent() else { return };
        let written = fs::create_dir_all(parent).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(parent)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.persist(path).map_err(|e| e.error)
        });
        if let Err(error) = written {
            self.warn(&error, path);
        }
    }

    fn warn(&self, error: &io::Error, path: &Path) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("the cache is of no use, which only takes time: {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ProjectName, Sequence, VolumeNumber};

    /// Two copies of a repository differ in what stands under one name.
    #[test]
    fn a_record_is_found_under_its_own_stamp_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(Some(dir.path()), &[1; 16]);
        let project: ProjectName = "default".parse().expect("valid");
        let name = ObjectName::End(project, VolumeNumber(1), Sequence(3));
        let (here, there) = (Stamp([1; 16]), Stamp([2; 16]));
        cache.put_record(&name, &here, b"one");
        assert_eq!(cache.record(&name, &here).as_deref(), Some(&b"one"[..]));
        assert_eq!(cache.record(&name, &there), None);
        cache.put_record(&name, &there, b"other");
        assert_eq!((cache.record(&name, &here), cache.page(&name)), (None, None));
        cache.remove(&name);
        assert_eq!(cache.record(&name, &there), None);
    }
}
