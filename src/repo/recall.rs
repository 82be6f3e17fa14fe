//! What the store shows is held against what this host remembers of it. A listing may be short, so what it lacks is asked for by
//! name before anything is said: a GET sees whatever was acknowledged.

use crate::error::Result;
use crate::format::ObjectName;
use crate::repo::Project;
use crate::repo::catalog::Catalog;
use crate::repo::history::SnapshotEntry;
use crate::repo::log::{Log, VolumeLog};
use crate::repo::memory::SeenSnapshot;

/// What is missing of one log and told; more of it tells nothing more.
const MISSING_MAX: usize = 16;

/// Something that this host saw, and that is not there.
#[derive(Debug, Clone)]
pub(crate) struct Missing {
    pub(crate) object: ObjectName,
    pub(crate) what: String,
}

impl Log<'_> {
    /// What this host saw of a volume's log and the log lacks. What only a listing lacked is added to the log.
    ///
    /// Between a look and the next a snapshot may be forgotten and pruned. So for whatever is not there it is asked last whether
    /// it was forgotten: that stays.
    pub(crate) async fn missing_of(self, seen: &[SeenSnapshot], log: &mut VolumeLog) -> Result<Vec<Missing>> {
        let (store, memory) = (self.project.repository().store(), &self.project.repository().memory);
        let (mut missing, mut forgotten) = (Vec::new(), Vec::new());
        for one in seen {
            let sequence = one.sequence;
            if log.known.as_ref().is_some_and(|known| known.is_past(sequence)) {
                // A seal says that it is over, and of that nothing need be there.
                forgotten.push(sequence);
                continue;
            }
            let entry = log.entries.get(&sequence).copied().unwrap_or_default();
            let mut gone = None;
            if entry.ended_unix_ms.is_none() {
                let end = self.slot(sequence).end_name();
                match store.head(&end.to_string()).await? {
                    Some(info) => {
                        log.entries.entry(sequence).or_default().ended_unix_ms = Some(info.modified_unix_ms);
                    }
                    None => gone = Some((end, "was a live snapshot")),
                }
            }
            if gone.is_none() && entry.notes < one.notes {
                let note = self.slot(sequence).note_name(one.notes);
                match store.head(&note.to_string()).await? {
                    Some(_) => log.entries.entry(sequence).or_default().notes = one.notes,
                    None if one.protected => gone = Some((note, "was protected")),
                    None => gone = Some((note, "had a note with tags")),
                }
            }
            let Some((object, what)) = gone else { continue };
            if self.slot(sequence).is_gone().await? {
                forgotten.push(sequence);
                continue;
            }
            let name = memory.volume_name(self.project.name(), self.volume);
            let id = one.short_id();
            let what = format!(
                "snapshot {sequence} ({id}…) of {name} {what}, {object} is gone, and it was not forgotten"
            );
            missing.push(Missing { object, what });
            if missing.len() >= MISSING_MAX {
                break;
            }
        }
        memory.saw_forgotten(self.project.name(), self.volume, &forgotten);
        Ok(missing)
    }

    /// As [`missing_of`](Self::missing_of).
    ///
    /// # Errors
    /// `Conflict` where something is missing.
    pub(crate) async fn recall_all(self, seen: &[SeenSnapshot], log: &mut VolumeLog) -> Result<()> {
        let missing = self.missing_of(seen, log).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let what: Vec<String> = missing.into_iter().map(|m| m.what).collect();
        Err(self.project.repository().memory.went_back(what.join("; ")))
    }

    /// Holds a snapshot that was opened against what this host saw, and remembers it. `opened` is the newest of its notes that
    /// opens; 0 for none.
    ///
    /// # Errors
    /// `Conflict` where another one was seen under its number, or a note that was seen does not open any more.
    pub(crate) fn recall(self, entry: &SnapshotEntry, opened: u32) -> Result<()> {
        let memory = &self.project.repository().memory;
        let seen = SeenSnapshot::new(entry.snapshot.sequence, entry.snapshot_id);
        let seen = seen.with_note(opened, entry.protected);
        memory.check_snapshot(
            self.project.name(),
            self.volume,
            entry.snapshot.sequence,
            entry.snapshot_id,
        )?;
        memory.check_note(self.project.name(), self.volume, &seen, entry.notes)?;
        memory.saw_snapshot(self.project.name(), self.volume, seen);
        Ok(())
    }

    /// Remembers what this host made of a snapshot: the snapshot, or a note of it.
    pub(crate) fn made(self, seen: SeenSnapshot) {
        let memory = &self.project.repository().memory;
        memory.saw_snapshot(self.project.name(), self.volume, seen);
        memory.flush();
    }
}

/// Holds a catalog against what this host saw, and remembers it. `expected` is where it ended then.
///
/// # Errors
/// `Conflict` where it is shorter, lacks a volume, or a volume is another one.
pub(crate) fn catalog(project: &Project, expected: u32, catalog: &Catalog) -> Result<()> {
    let memory = &project.repository().memory;
    let found = catalog.last().0;
    if found < expected {
        return Err(memory.catalog_went_back(project.name(), found));
    }
    // What does not open may be rot, and others go on around it; what is gone was taken away.
    if let Some(gone) = catalog.missing().iter().find(|n| memory.has_seen_volume(project.name(), **n)) {
        let (project, volume) = (project.name(), memory.volume_name(project.name(), *gone));
        return Err(memory.went_back(format!("the catalog of project {project} lacks {volume}")));
    }
    memory.saw_volumes(project.name(), catalog.entries())
}
