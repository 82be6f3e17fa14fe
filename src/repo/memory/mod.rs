//! What this host remembers of repositories, outside them, so that one that goes back in time is noticed (repo-format.md §8.4).
//!
//! Two kinds of files: one for each place says which repository was seen there; one for each repository, wherever it was seen,
//! what was seen of it. Only what was opened is remembered, never that a name exists: whoever can write to the store can make
//! names. A repository that is another copy on purpose, an older one say, is set apart by `trust_store`: what was seen of it at
//! that place counts there alone from then on, and nothing of what was seen elsewhere is forgotten.
//!
//! That all this can be written is nobody's condition: a host that cannot remember says so once and goes on.

mod journal;
mod place;
mod seen;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};
use crate::format::record::{RepositoryRecord, VolumeRecord};
use crate::keys::MasterKey;
use crate::repo::Cache;
use crate::units::{Generation, ProjectName, Sequence, SnapshotId, VolumeNumber, hex};

use journal::{Found, Journal};
use place::{damaged, short, unreadable};
use seen::{Line, Seen, SeenVolume};

pub use place::AtPlace;
pub(crate) use seen::SeenSnapshot;

/// Text that is gathered before it is written, where nobody asks for it earlier.
const PENDING_LEN_BYTES_MAX: usize = 16 << 10;
/// Text that is kept while another process has the file for itself.
const PENDING_LEN_BYTES_KEPT_MAX: usize = 1 << 20;

/// The memory of one repository at one place.
pub struct Memory {
    repository: String,
    /// For people.
    cache_dir: Option<PathBuf>,
    inner: Mutex<Inner>,
}

struct Inner {
    seen: Seen,
    at: AtPlace,
    /// `None` where nothing can be kept.
    journal: Option<Journal>,
    /// Lines that are still to be written.
    pending: String,
}

impl Memory {
    /// Reads what was remembered of the repository that was found at a place; nothing where this host never saw it.
    ///
    /// # Errors
    /// `Conflict` where another repository was seen there, or this one encrypted.
    pub(super) fn load(mut at: AtPlace, record: &RepositoryRecord, cache: &Cache) -> Result<Self> {
        let repository = hex(&record.repo_id);
        let same = at.record.repository.as_deref() == Some(&repository);
        let expected = at.known().filter(|_| !same).map(str::to_owned);
        if !same && expected.is_none() {
            (at.record.key_slot, at.record.apart) = (None, false);
        }
        let shared = at.dir.as_ref().map(|dir| dir.join(format!("repository-{repository}.jsonl")));
        at.record.apart |= at.trust && shared.as_ref().is_some_and(|path| path.exists());
        let own = at.dir.as_ref().map(|dir| dir.join(format!("repository-{repository}-{}.jsonl", at.hash())));
        let trust = at.trust;
        let path = if at.record.apart { own } else { shared };
        let this = Self::new(repository, at, path, cache);
        if let Some(expected) = expected {
            return Err(this.went_back(format!("its id is {}, expected {expected}", this.repository)));
        }
        this.lock().read(trust)?;
        this.check_encryption(record)?;
        Ok(this)
    }

    /// The memory of a repository that was made here just now.
    pub(super) fn begin(mut at: AtPlace, record: &RepositoryRecord, cache: &Cache) -> Self {
        let repository = hex(&record.repo_id);
        let place = std::mem::take(&mut at.record.place);
        at.record = place::Record { place, ..place::Record::default() };
        let path = at.dir.as_ref().map(|dir| dir.join(format!("repository-{repository}.jsonl")));
        Self::new(repository, at, path, cache)
    }

    fn new(repository: String, at: AtPlace, path: Option<PathBuf>, cache: &Cache) -> Self {
        let journal = path.map(|path| Journal { path, repository: repository.clone() });
        let inner = Inner { seen: Seen::default(), at, journal, pending: String::new() };
        Self { repository, cache_dir: cache.dir().map(Into::into), inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &Line<'_>) {
        self.lock().add(line);
    }

    /// What is not as this host saw it.
    pub(crate) fn went_back(&self, what: String) -> Error {
        let inner = self.lock();
        let files = inner.journal.as_ref().map(|j| format!(" (in {})", j.path.display())).unwrap_or_default();
        let cache = self.cache_dir.as_ref().map_or_else(String::new, |dir| {
            format!(". The cache in {} needs no clearing: nothing is decided by it", dir.display())
        });
        Error::conflict(format!("the repository is not the one this host saw before: {what}")).help(format!(
            "someone replaced or rolled back the store, or this is an older copy of it. If that was you, say so once with \
             --trust-store: what this host remembers{files} then counts no more at this place{cache}"
        ))
    }

    fn check_encryption(&self, record: &RepositoryRecord) -> Result<()> {
        let seen = self.lock().seen.encrypted;
        match seen {
            Some(seen) if seen != record.encrypted => {
                let word = |e| if e { "encrypted" } else { "not encrypted" };
                let (found, expected) = (word(record.encrypted), word(seen));
                Err(self.went_back(format!("it is {found}, expected {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether this very repository was opened or made from here before, as what it is.
    pub(super) fn has_seen(&self, record: &RepositoryRecord) -> bool {
        self.lock().seen.encrypted == Some(record.encrypted)
    }

    pub(super) fn check_key(&self, master: &MasterKey) -> Result<()> {
        let found = hex(&master.fingerprint());
        let expected = self.lock().seen.key.clone();
        match expected {
            Some(expected) if expected != found => {
                Err(self.went_back(format!("its master key is {found}, expected {expected}")))
            }
            _ => Ok(()),
        }
    }

    /// Remembers a repository that was opened, or made.
    pub(super) fn saw_repository(&self, record: &RepositoryRecord, fingerprint: Option<[u8; 8]>) {
        let key = fingerprint.map(|f| hex(&f));
        let mut inner = self.lock();
        inner.add(&Line {
            repository: Some(self.repository.as_str().into()),
            encrypted: Some(record.encrypted),
            key: key.as_deref().map(Into::into),
            ..Line::default()
        });
        inner.at.record.repository = Some(self.repository.clone());
        inner.flush();
    }

    pub(super) fn slot(&self) -> Option<u64> {
        self.lock().at.record.key_slot.as_deref().and_then(|s| u64::from_str_radix(s, 16).ok())
    }

    pub(super) fn opened_with(&self, slot: u64) {
        self.lock().at.record.key_slot = Some(format!("{slot:016x}"));
    }

    /// Volumes that a project was seen to have; `None` where it was never seen.
    pub(super) fn volumes_of(&self, project: &ProjectName) -> Option<usize> {
        self.lock().seen.projects.get(project.as_str()).map(|p| p.volumes.len())
    }

    /// Holds a project that was opened against the one that was seen, and remembers it.
    pub(super) fn saw_project(&self, project: &ProjectName, id: &[u8; 16]) -> Result<()> {
        let found = hex(id);
        let expected = self.lock().seen.projects.get(project.as_str()).and_then(|p| p.id.clone());
        match expected {
            Some(expected) if expected != found => Err(self.went_back(format!(
                "the id of project {project} is {}, expected {}",
                short(&found),
                short(&expected)
            ))),
            _ => {
                self.add(&Line { id: Some(found.into()), ..Line::of_project(project.as_str()) });
                self.flush();
                Ok(())
            }
        }
    }

    /// The generation that a project had reached when it was last looked at. Asked before a request, so that what other
    /// clients do meanwhile is not held against its answer.
    pub(crate) fn generation(&self, project: &ProjectName) -> Generation {
        Generation(self.lock().seen.projects.get(project.as_str()).map_or(0, |p| p.generation))
    }

    /// A project is at a generation below the one it was seen at.
    pub(super) fn generation_went_back(
        &self,
        project: &ProjectName,
        found: Generation,
        expected: Generation,
    ) -> Error {
        self.went_back(format!("project {project} is at generation {found}, expected at least {expected}"))
    }

    /// Remembers that a project reached a generation, whose begin was opened or made.
    pub(super) fn saw_generation(&self, project: &ProjectName, generation: Generation) {
        self.add(&Line { generation: generation.0, ..Line::of_project(project.as_str()) });
    }

    /// The last volume that a project's catalog was seen to have; 0 for none.
    pub(crate) fn catalog_end(&self, project: &ProjectName) -> u32 {
        let inner = self.lock();
        let last = inner.seen.projects.get(project.as_str()).and_then(|p| p.volumes.last_key_value());
        last.map_or(0, |(number, _)| *number)
    }

    /// The catalog ends before a volume that it was seen to have.
    pub(crate) fn catalog_went_back(&self, project: &ProjectName, found: u32) -> Error {
        let gone: Vec<String> = {
            let inner = self.lock();
            let volumes = inner.seen.projects.get(project.as_str()).map(|p| p.volumes.range(found + 1..));
            let shown = |(number, v): (&u32, &SeenVolume)| match v.name.as_str() {
                "" => number.to_string(),
                name => format!("{number} ({name})"),
            };
            volumes.into_iter().flatten().map(shown).collect()
        };
        let more = if gone.len() > 10 { ", …" } else { "" };
        self.went_back(format!(
            "the catalog of project {project} ends at volume {found}, and lacks {}{more}",
            gone[..gone.len().min(10)].join(", ")
        ))
    }

    /// Holds catalog entries that were opened against those that were seen, and remembers them.
    pub(crate) fn saw_volumes(&self, project: &ProjectName, volumes: &[VolumeRecord]) -> Result<()> {
        let mut inner = self.lock();
        for volume in volumes {
            let known = inner.volume(project, volume.number).map(|v| v.name.as_str());
            let other = known.filter(|name| !name.is_empty() && *name != volume.name).map(str::to_owned);
            if let Some(other) = other {
                drop(inner);
                let found = &volume.name;
                return Err(self.went_back(format!("volume {} is {found}, expected {other}", volume.number)));
            }
            if known != Some(&volume.name) {
                let name = Some(volume.name.as_str().into());
                inner.add(&Line { name, ..Line::of_volume(project.as_str(), volume.number.0) });
            }
        }
        inner.flush();
        Ok(())
    }

    /// The highest sequence of a volume's log of which something was opened; asked before a request, as
    /// [`generation`](Self::generation) is.
    pub(crate) fn sequence(&self, project: &ProjectName, volume: VolumeNumber) -> Sequence {
        Sequence(self.lock().volume(project, volume).map_or(0, |v| v.last))
    }

    /// A volume's log ends below what it was seen to have.
    pub(crate) fn log_went_back(
        &self,
        project: &ProjectName,
        volume: VolumeNumber,
        found: Sequence,
        expected: Sequence,
    ) -> Error {
        let name = self.volume_name(project, volume);
        self.went_back(format!(
            "the log of {name} in project {project} ends at {found}, expected at least {expected}"
        ))
    }

    /// Remembers a sequence that this host created, or of which it opened something.
    pub(crate) fn saw_sequence(&self, project: &ProjectName, volume: VolumeNumber, sequence: Sequence) {
        self.add(&Line { last: sequence.0, ..Line::of_volume(project.as_str(), volume.0) });
    }

    /// The snapshots of a volume that were live when they were last looked at; asked before a request, as
    /// [`generation`](Self::generation) is.
    pub(crate) fn live(&self, project: &ProjectName, volume: VolumeNumber) -> Vec<SeenSnapshot> {
        self.lock().volume(project, volume).map_or_else(Vec::new, |v| v.live.clone())
    }

    /// Whether a catalog entry was opened.
    pub(crate) fn has_seen_volume(&self, project: &ProjectName, volume: VolumeNumber) -> bool {
        self.lock().volume(project, volume).is_some_and(|v| !v.name.is_empty())
    }

    /// How a volume is called in what people read.
    pub(crate) fn volume_name(&self, project: &ProjectName, volume: VolumeNumber) -> String {
        let inner = self.lock();
        let name = inner.volume(project, volume).map(|v| v.name.as_str()).filter(|n| !n.is_empty());
        name.map_or_else(|| format!("volume {volume}"), |name| format!("volume {volume} ({name})"))
    }

    /// Holds the id of a snapshot whose outcome was opened against the one that was seen under its number.
    pub(crate) fn check_snapshot(
        &self,
        project: &ProjectName,
        volume: VolumeNumber,
        sequence: Sequence,
        id: SnapshotId,
    ) -> Result<()> {
        let found = SeenSnapshot::new(sequence, id);
        let known = self.lock().volume(project, volume).and_then(|v| v.get(sequence).copied());
        match known {
            Some(known) if !known.is_same(&found) => Err(self.went_back(format!(
                "snapshot {sequence} of {} has the id {}…, expected {}…",
                self.volume_name(project, volume),
                found.short_id(),
                known.short_id()
            ))),
            _ => Ok(()),
        }
    }

    /// Holds the newest note of a snapshot that opens against the one that was seen: what stands in that one's place would
    /// hide what it says. `last` is where the numbers of its notes end; 0 where nobody looked.
    pub(crate) fn check_note(
        &self,
        project: &ProjectName,
        volume: VolumeNumber,
        found: &SeenSnapshot,
        last: u32,
    ) -> Result<()> {
        let known = self.lock().volume(project, volume).and_then(|v| v.get(found.sequence).copied());
        match known {
            Some(known) if found.notes < known.notes && known.notes <= last => Err(self.went_back(format!(
                "snapshot {} of {} {}, and note {} that says so does not open any more",
                found.sequence,
                self.volume_name(project, volume),
                if known.protected { "was protected" } else { "had a note with tags" },
                known.notes
            ))),
            _ => Ok(()),
        }
    }

    /// Remembers a live snapshot: its outcome and newest note were opened, or made.
    pub(crate) fn saw_snapshot(&self, project: &ProjectName, volume: VolumeNumber, seen: SeenSnapshot) {
        self.add(&Line::of_volume(project.as_str(), volume.0).with_live(&[seen]));
    }

    /// Remembers that snapshots are forgotten.
    pub(crate) fn saw_forgotten(&self, project: &ProjectName, volume: VolumeNumber, gone: &[Sequence]) {
        if gone.is_empty() {
            return;
        }
        let gone: Vec<String> = gone.iter().map(Sequence::to_string).collect();
        self.add(&Line { gone: Some(gone.join(" ").into()), ..Line::of_volume(project.as_str(), volume.0) });
    }

    /// Writes what is new. Best effort: where it cannot be written that is told once.
    pub fn flush(&self) {
        self.lock().flush();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Inner {
    fn read(&mut self, trust: bool) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        if trust {
            if !self.at.remembers {
                return Ok(());
            }
            // Where it cannot be written, this process goes on with what it sees itself.
            if let Err(error) = journal.replace(&self.seen) {
                self.give_up(&error);
            }
            return Ok(());
        }
        let found = match self.at.remembers {
            true => journal.read(),
            false => journal.look().map(|(found, _)| found),
        };
        match found {
            Ok(Found::Nothing) => {}
            Ok(Found::Seen(seen)) => self.seen = seen,
            Ok(Found::Damaged(why)) => return Err(damaged(&journal.path, &why)),
            Err(error) => {
                unreadable(&journal.path, &error);
                (self.journal, self.at.dir) = (None, None);
            }
        }
        Ok(())
    }

    fn volume(&self, project: &ProjectName, volume: VolumeNumber) -> Option<&SeenVolume> {
        self.seen.projects.get(project.as_str())?.volumes.get(&volume.0)
    }

    fn add(&mut self, line: &Line<'_>) {
        if self.seen.add(line) != Some(true) || self.journal.is_none() {
            return;
        }
        self.pending += &line.text();
        self.pending.push('\n');
        if self.pending.len() >= PENDING_LEN_BYTES_MAX {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.at.remembers {
            return self.pending.clear();
        }
        if let Err(error) = self.at.save() {
            return self.give_up(&error);
        }
        let Some(journal) = self.journal.as_ref().filter(|_| !self.pending.is_empty()) else { return };
        match journal.append(&self.pending) {
            Ok(true) => self.pending.clear(),
            Ok(false) if self.pending.len() > PENDING_LEN_BYTES_KEPT_MAX => self.pending.clear(),
            Ok(false) => {}
            Err(error) => self.give_up(&error),
        }
    }

    fn give_up(&mut self, error: &std::io::Error) {
        let dir = self.at.dir.take();
        tracing::warn!(
            "what this host sees of the repository cannot be remembered: {}: {error}. If the store is rolled back, this will not \
             be noticed",
            dir.unwrap_or_default().display()
        );
        self.journal = None;
        self.pending.clear();
    }
}
