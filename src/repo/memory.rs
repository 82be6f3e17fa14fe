//! What this client remembers of a repository, outside it, so that one that goes back in time is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, io_error};
use crate::format::record::RepositoryRecord;
use crate::keys::MasterKey;
use crate::units::{Generation, ProjectName, Sequence, VolumeNumber, hex};

/// Most bytes in a memory file.
const FILE_LEN_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    url: String,
    repo_id: Option<String>,
    encrypted: bool,
    key_fingerprint: Option<String>,
    key_slot: Option<String>,
    #[serde(default)]
    projects: BTreeMap<String, SeenProject>,
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
struct SeenProject {
    generation: u32,
    /// Highest sequence seen, by volume number.
    sequences: BTreeMap<u32, u32>,
}

impl Seen {
    /// Takes over what another process saw of the same repository.
    fn merge(&mut self, other: Self) {
        if self.repo_id != other.repo_id {
            return;
        }
        for (name, theirs) in other.projects {
            let ours = self.projects.entry(name).or_default();
            ours.generation = ours.generation.max(theirs.generation);
            for (volume, sequence) in theirs.sequences {
                let known = ours.sequences.entry(volume).or_default();
                *known = sequence.max(*known);
            }
        }
    }
}

/// Reads a memory file; `None` where there is none.
fn read(path: &Path) -> Result<Option<Seen>> {
    let unreadable = |why: String| {
        Error::invalid(format!("{} cannot be read: {why}", path.display())).help(
            "it holds what this host remembers of the repository; remove it to begin anew, if you trust the repository",
        )
    };
    let Ok(meta) = fs::metadata(path) else { return Ok(None) };
    if meta.len() > FILE_LEN_BYTES_MAX {
        return Err(unreadable(format!("{} bytes, at most {FILE_LEN_BYTES_MAX}", meta.len())));
    }
    let text = fs::read(path).map_err(|e| io_error(format!("read {}", path.display()), e))?;
    serde_json::from_slice(&text).map(Some).map_err(|e| unreadable(e.to_string()))
}

/// The memory of one repository, by its URL.
pub struct Memory {
    path: Option<PathBuf>,
    seen: Mutex<(Seen, bool)>,
}

impl Memory {
    /// Reads what was remembered; nothing where this client never saw the repository.
    pub fn load(dir: Option<&Path>, url: &str) -> Result<Self> {
        let file = format!("{}.json", hex(&blake3::hash(url.as_bytes()).as_bytes()[..16]));
        let path = dir.map(|d| d.join(file));
        let mut seen = Seen { url: url.to_owned(), ..Seen::default() };
        if let Some(saved) = path.as_deref().map_or(Ok(None), read)? {
            seen = saved;
        }
        Ok(Self { path, seen: Mutex::new((seen, false)) })
    }

    fn lock(&self) -> MutexGuard<'_, (Seen, bool)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        let mut guard = self.lock();
        let before = guard.0.clone();
        change(&mut guard.0);
        guard.1 |= guard.0 != before;
    }

    fn went_back(&self, what: String) -> Error {
        let path = self.path.as_ref().map_or_else(String::new, |p| p.display().to_string());
        Error::conflict(format!("the repository is not the one this host saw before: {what}")).help(format!(
            "someone replaced or rolled back the store. If that was you, remove {path} and run again"
        ))
    }

    pub(super) fn check_repository(&self, record: &RepositoryRecord) -> Result<()> {
        let seen = &self.lock().0;
        let Some(repo_id) = &seen.repo_id else { return Ok(()) };
        if *repo_id != hex(&record.repo_id) {
            let found = hex(&record.repo_id);
            return Err(self.went_back(format!("its id is {found}, expected {repo_id}")));
        }
        if seen.encrypted != record.encrypted {
            let word = |e| if e { "encrypted" } else { "not encrypted" };
            let (found, expected) = (word(record.encrypted), word(seen.encrypted));
            return Err(self.went_back(format!("it is {found}, expected {expected}")));
        }
        Ok(())
    }

    /// Whether this very repository was opened or made from here before, as what it is.
    pub(super) fn has_seen(&self, record: &RepositoryRecord) -> bool {
        let seen = &self.lock().0;
        seen.repo_id.as_deref() == Some(&hex(&record.repo_id)) && seen.encrypted == record.encrypted
    }

    pub(super) fn check_key(&self, master: &MasterKey) -> Result<()> {
        let found = hex(&master.fingerprint());
        match &self.lock().0.key_fingerprint {
            Some(expected) if *expected != found => {
                Err(self.went_back(format!("its master key is {found}, expected {expected}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn saw_repository(&self, record: &RepositoryRecord, fingerprint: Option<[u8; 8]>) {
        self.update(|seen| {
            seen.repo_id = Some(hex(&record.repo_id));
            seen.encrypted = record.encrypted;
            seen.key_fingerprint = fingerprint.map(|f| hex(&f));
        });
    }

    /// Forgets all: a new repository was made at this place.
    pub(super) fn forget(&self) {
        self.update(|seen| *seen = Seen { url: std::mem::take(&mut seen.url), ..Seen::default() });
    }

    pub(super) fn slot(&self) -> Option<u64> {
        let guard = self.lock();
        guard.0.key_slot.as_deref().and_then(|s| u64::from_str_radix(s, 16).ok())
    }

    pub(super) fn opened_with(&self, slot: u64) {
        self.update(|seen| seen.key_slot = Some(format!("{slot:016x}")));
    }

    /// The generation that a project had reached when it was last looked at. Asked before a request, so that what other
    /// clients do meanwhile is not held against its answer.
    pub(super) fn generation(&self, project: &ProjectName) -> Generation {
        Generation(self.lock().0.projects.get(project.as_str()).map_or(0, |p| p.generation))
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

    /// Remembers that a project reached a generation.
    pub(super) fn saw_generation(&self, project: &ProjectName, generation: Generation) {
        self.update(|seen| {
            let known = &mut seen.projects.entry(project.to_string()).or_default().generation;
            *known = generation.0.max(*known);
        });
    }

    /// The highest sequence that a volume's log was seen to have; asked before a request, as
    /// [`generation`](Self::generation) is.
    pub(crate) fn sequence(&self, project: &ProjectName, volume: VolumeNumber) -> Sequence {
        let guard = self.lock();
        let known = guard.0.projects.get(project.as_str()).and_then(|p| p.sequences.get(&volume.0));
        Sequence(known.copied().unwrap_or(0))
    }

    /// A volume's log ends below what it was seen to have.
    pub(crate) fn log_went_back(
        &self,
        project: &ProjectName,
        volume: VolumeNumber,
        found: Sequence,
        expected: Sequence,
    ) -> Error {
        self.went_back(format!(
            "the log of volume {volume} in project {project} ends at {found}, expected at least {expected}"
        ))
    }

    /// Remembers that a volume's log has a sequence.
    pub(crate) fn saw_sequence(&self, project: &ProjectName, volume: VolumeNumber, sequence: Sequence) {
        self.update(|seen| {
            let project = seen.projects.entry(project.to_string()).or_default();
            let known = project.sequences.entry(volume.0).or_default();
            *known = sequence.0.max(*known);
        });
    }

    /// Writes what changed, atomically.
    pub fn save(&self) -> Result<()> {
        let mut guard = self.lock();
        let Some(path) = self.path.as_ref().filter(|_| guard.1) else { return Ok(()) };
        let doing = || format!("write {}", path.display());
        let parent = path.parent().ok_or_else(|| Error::internal("a memory file without a directory"))?;
        // Another process may have seen more meanwhile.
        if let Ok(Some(saved)) = read(path) {
            guard.0.merge(saved);
        }
        let text = serde_json::to_vec_pretty(&guard.0)
            .map_err(|e| Error::internal("the memory could not be encoded").caused_by(e))?;
        fs::create_dir_all(parent)
            .and_then(|()| {
                let mut file = tempfile::NamedTempFile::new_in(parent)?;
                file.write_all(&text)?;
                file.as_file().sync_all()?;
                file.persist(path).map_err(|e| e.error)
            })
            .map_err(|e| io_error(doing(), e))?;
        guard.1 = false;
        Ok(())
    }
}
