//! Copies of small immutable objects on the local disk, sealed as they are in the store.
//!
//! Always rebuildable and never the truth: whether something exists or is live is asked of the store, and what
//! comes from here is authenticated like everything else. A hurt copy is dropped and fetched again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::format::ObjectName;
use crate::units::hex;

/// Sealed copies of `.end` records, catalog entries and manifest pages.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: Option<PathBuf>,
}

impl Cache {
    pub fn new(dir: Option<&Path>, repo_id: &[u8; 16]) -> Self {
        Self { dir: dir.map(|d| d.join(hex(repo_id))) }
    }

    /// Only what is written once, needed again and small is kept; secrets, chunks and what is deleted are not.
    fn path(&self, name: &ObjectName) -> Option<PathBuf> {
        let kept = matches!(name, ObjectName::Volume(..) | ObjectName::End(..) | ObjectName::Page(..));
        self.dir.as_ref().filter(|_| kept).map(|d| d.join(name.to_string()))
    }

    pub fn get(&self, name: &ObjectName) -> Option<Bytes> {
        let path = self.path(name)?;
        let len = fs::metadata(&path).ok()?.len();
        if len > name.object_type().object_len_bytes_max() as u64 {
            return None;
        }
        fs::read(path).ok().map(Bytes::from)
    }

    /// Keeps a copy. A cache that cannot be written is a slow one, not an error.
    pub fn put(&self, name: &ObjectName, object: &[u8]) {
        let Some(path) = self.path(name) else { return };
        let Some(parent) = path.parent() else { return };
        let written = fs::create_dir_all(parent).and_then(|()| {
            let mut file = tempfile::NamedTempFile::new_in(parent)?;
            file.write_all(object)?;
            file.persist(&path).map_err(|e| e.error)
        });
        if let Err(error) = written {
            tracing::debug!(%error, path = %path.display(), "the cache could not be written");
        }
    }

    pub fn remove(&self, name: &ObjectName) {
        if let Some(path) = self.path(name) {
            let _ = fs::remove_file(path);
        }
    }
}
