//! What the store shows is held against what this host remembers of it. A listing may be short, so what it lacks is asked for by
//! name before anything is said: a GET sees whatever was acknowledged.

use crate::error::Result;
use crate::format::ObjectName;
use crate::repo::Project;
use crate::repo::catalog::Catalog;
use crate::repo::log::{SnapshotEntry, VolumeLog};
use crate::repo::memory::SeenSnapshot;
use crate::units::{Sequence, VolumeNumber};

/// What is missing of one log and told; more of it tells nothing more.
const MISSING_MAX: usize = 16;

/// Something that this host saw, and that is not there.
#[derive(Debug, Clone)]
pub(crate) struct Missing {
    pub(crate) object: ObjectName,
    pub(crate) what: String,
}

impl Project {
    /// What this host saw of a volume's log and the log lacks. What only a listing lacked is added to the log.
    ///
    /// Between a look and the next a snapshot may be forgotten and pruned. So for whatever is not there it is asked last whether
    /// it was forgotten: that stays.
    pub(crate) async fn missing_of(
        &self,
        volume: VolumeNumber,
        seen: &[SeenSnapshot],
        log: &mut VolumeLog,
    ) -> Result<Vec<Missing>> {
        let (store, memory) = (&self.repository().store, &self.repository().memory);
        let (mut missing, mut forgotten) = (Vec::new(), Vec::new());
        for one in seen {
            let sequence = one.sequence;
            let entry = log.entries.get(&sequence).copied().unwrap_or_default();
            let mut gone = None;
            if entry.ended_unix_ms.is_none() {
                let end = self.end_name(volume, sequence);
                match store.head(&end.to_string()).await? {
                    Some(info) => {
                        log.entries.entry(sequence).or_default().ended_unix_ms = Some(info.modified_unix_ms);
                    }
                    None => gone = Some((end, "was a live snapshot")),
                }
            }
            if gone.is_none() && entry.notes < one.notes {
                let note = ObjectName::Note(self.name().clone(), volume, sequence, one.notes);
                match store.head(&note.to_string()).await? {
                    Some(_) => log.entries.entry(sequence).or_default().notes = one.notes,
                    None if one.protected => gone = Some((note, "was protected")),
                    None => gone = Some((note, "had a note with tags")),
                }
            }
            let Some((object, what)) = gone else { continue };
            if self.is_forgotten(volume, sequence).await? {
                forgotten.push(sequence);
                continue;
            }
            let name = memory.volume_name(self.name(), volume);
            let id = one.short_id();
            let what = format!(
                "snapshot {sequence} ({id}…) of {name} {what}, {object} is gone, and it was not forgotten"
            );
            missing.push(Missing { object, what });
            if missing.len() >= MISSING_MAX {
                break;
            }
        }
        memory.saw_forgotten(self.name(), volume, &forgotten);
        Ok(missing)
    }

    /// As [`missing_of`](Self::missing_of).
    ///
    /// # Errors
    /// `Conflict` where something is missing.
    pub(crate) async fn recall_log(
        &self,
        volume: VolumeNumber,
        seen: &[SeenSnapshot],
        log: &mut VolumeLog,
    ) -> Result<()> {
        let missing = self.missing_of(volume, seen, log).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let what: Vec<String> = missing.into_iter().map(|m| m.what).collect();
        Err(self.repository().memory.went_back(what.join("; ")))
    }

    /// Holds a catalog against what this host saw, and remembers it. `expected` is where it ended then.
    ///
    /// # Errors
    /// `Conflict` where it is shorter, lacks a volume, or a volume is another one.
    pub(crate) fn recall_catalog(&self, expected: u32, catalog: &Catalog) -> Result<()> {
        let memory = &self.repository().memory;
        let found = catalog.last().0;
        if found < expected {
            return Err(memory.catalog_went_back(self.name(), found));
        }
        // What does not open may be rot, and others go on around it; what is gone was taken away.
        if let Some(gone) = catalog.missing().iter().find(|n| memory.has_seen_volume(self.name(), **n)) {
            let (project, volume) = (self.name(), memory.volume_name(self.name(), *gone));
            return Err(memory.went_back(format!("the catalog of project {project} lacks {volume}")));
        }
        memory.saw_volumes(self.name(), catalog.entries())
    }

    /// Holds a snapshot that was opened against what this host saw, and remembers it. `opened` is the newest of its notes that
    /// opens; 0 for none.
    ///
    /// # Errors
    /// `Conflict` where another one was seen under its number, or a note that was seen does not open any more.
    pub(crate) fn recall_snapshot(&self, entry: &SnapshotEntry, opened: u32) -> Result<()> {
        let memory = &self.repository().memory;
        let volume = entry.snapshot.volume;
        let seen = SeenSnapshot::new(entry.snapshot.sequence, entry.snapshot_id);
        let seen = seen.with_note(opened, entry.protected);
        memory.check_snapshot(self.name(), volume, entry.snapshot.sequence, entry.snapshot_id)?;
        memory.check_note(self.name(), volume, &seen, entry.notes)?;
        memory.saw_snapshot(self.name(), volume, seen);
        Ok(())
    }

    /// Whether this host saw a snapshot live under a number.
    pub(crate) fn was_seen(&self, volume: VolumeNumber, sequence: Sequence) -> bool {
        self.repository().memory.live(self.name(), volume).iter().any(|seen| seen.sequence == sequence)
    }

    /// Remembers what this host made of a snapshot: the snapshot, or a note of it.
    pub(crate) fn made(&self, volume: VolumeNumber, seen: SeenSnapshot) {
        let memory = &self.repository().memory;
        memory.saw_snapshot(self.name(), volume, seen);
        memory.flush();
    }
}
