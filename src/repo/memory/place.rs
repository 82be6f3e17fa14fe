//! Which repository this host saw at a place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::repo::Environment;
use crate::units::hex;

use super::journal::write_whole;

/// Most bytes in a place's file.
const FILE_LEN_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) place: String,
    pub(super) repository: Option<String>,
    /// The key slot that opened it last.
    #[serde(default)]
    pub(super) key_slot: Option<String>,
    /// The repository is another copy than those that were seen elsewhere: what was seen of it here counts here alone.
    #[serde(default)]
    pub(super) apart: bool,
}

/// A place, and what this host remembers of it.
#[derive(Debug)]
pub struct AtPlace {
    /// Where memories are kept; `None` where there is nothing to be had.
    pub(super) dir: Option<PathBuf>,
    pub(super) record: Record,
    saved: Record,
    /// What is remembered does not count any more.
    pub(super) trust: bool,
    /// Whether anything is written.
    pub(super) remembers: bool,
}

impl AtPlace {
    /// # Errors
    /// `Invalid` where something is remembered that cannot be made sense of: to go on would be to forget it.
    pub fn read(environment: &Environment, place: &str) -> Result<Self> {
        let (trust, remembers) = (environment.trust_store, environment.remembers);
        let fresh = Record { place: place.to_owned(), ..Record::default() };
        let (dir, record) = (environment.memory_dir.clone(), fresh.clone());
        let mut this = Self { dir, record, saved: fresh, trust, remembers };
        let Some(path) = this.path() else { return Ok(this) };
        match read(&path) {
            Ok(None) => {}
            Ok(Some(text)) => match serde_json::from_slice::<Record>(&text) {
                Ok(record) if record.place == place => {
                    (this.record, this.saved) = (record.clone(), record);
                }
                _ if trust => {}
                Ok(record) => {
                    return Err(damaged(&path, &format!("it is of {}, expected {place}", record.place)));
                }
                Err(e) => return Err(damaged(&path, &e.to_string())),
            },
            Err(error) => {
                unreadable(&path, &error);
                this.dir = None;
            }
        }
        Ok(this)
    }

    /// The id of the repository that was seen here, unless that does not count any more.
    pub fn known(&self) -> Option<&str> {
        self.record.repository.as_deref().filter(|_| !self.trust)
    }

    pub(super) fn hash(&self) -> String {
        hex(&blake3::hash(self.record.place.as_bytes()).as_bytes()[..16])
    }

    fn path(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join(format!("place-{}.json", self.hash())))
    }

    /// Writes what changed.
    pub(super) fn save(&mut self) -> io::Result<()> {
        let is_new = self.remembers && self.record != self.saved;
        let Some(path) = self.path().filter(|_| is_new) else { return Ok(()) };
        let text = serde_json::to_vec_pretty(&self.record).map_err(io::Error::other)?;
        write_whole(&path, &text)?;
        self.saved = self.record.clone();
        Ok(())
    }

    /// A repository may be made here unless this host saw one: its disk may just not be mounted.
    ///
    /// # Errors
    /// `Conflict` that names what was seen.
    pub fn refuse_new(&self) -> Result<()> {
        let Some(known) = self.known() else { return Ok(()) };
        Err(Error::conflict(format!(
            "this host saw repository {} at {}, and it is not there now",
            short(known),
            self.record.place
        ))
        .help(
            "is the disk mounted, is it the right bucket and prefix? If that repository is gone for good and a new one is to \
             take its place, say so with --trust-store",
        ))
    }

    /// What this host knows of a place where no repository was found.
    pub fn explain(&self, error: Error) -> Error {
        let Some(known) = self.known() else { return error };
        error.context(format!("this host saw repository {} here before", short(known))).help(
            "is the disk mounted, is it the right bucket and prefix? Make no new repository in its place",
        )
    }
}

/// As much of an id as people see.
pub(super) fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// What is remembered is there and makes no sense. A memory that is damaged is no absent one: whoever can change it here might
/// want it forgotten, and to go on would be just that.
pub(super) fn damaged(path: &Path, why: &str) -> Error {
    Error::invalid(format!("{}, which holds what this host remembers, is damaged: {why}", path.display())).help(
        "it guards against a store that is rolled back. If you trust the store as it is now, say so with --trust-store, or \
         remove the file",
    )
}

/// What is remembered cannot be had. That must not keep anybody from restoring.
pub(super) fn unreadable(path: &Path, error: &io::Error) {
    tracing::warn!(
        "what this host remembers of the repository cannot be read: {}: {error}. If the store was rolled back, this will not be \
         noticed",
        path.display()
    );
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_LEN_BYTES_MAX => Ok(Some(b"too long".to_vec())),
        // A crash may leave it empty.
        Ok(meta) if meta.len() == 0 => Ok(None),
        Ok(_) => fs::read(path).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
