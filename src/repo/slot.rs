//! One sequence of a volume's log: the records that it may have, and what they prove.

use crate::error::{ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::record::{AliveRecord, EndRecord, ForgetRecord, NoteRecord, OpenRecord, Outcome};
use crate::repo::found::Found;
use crate::repo::log::LogEntry;
use crate::repo::reserve::Reserve;
use crate::repo::row;
use crate::repo::{Creating, Project};
use crate::store::Created;
use crate::units::{Sequence, SnapshotId, VolumeNumber};

/// The records of one sequence in the store.
#[derive(Clone, Copy)]
pub(crate) struct Slot<'a> {
    pub(super) project: &'a Project,
    pub(super) volume: VolumeNumber,
    pub(super) sequence: Sequence,
}

impl Slot<'_> {
    pub(crate) fn open_name(self) -> ObjectName {
        ObjectName::Open(self.project.name().clone(), self.volume, self.sequence)
    }

    pub(crate) fn end_name(self) -> ObjectName {
        ObjectName::End(self.project.name().clone(), self.volume, self.sequence)
    }

    pub(crate) fn forget_name(self) -> ObjectName {
        ObjectName::Forget(self.project.name().clone(), self.volume, self.sequence)
    }

    pub(crate) fn note_name(self, number: u32) -> ObjectName {
        ObjectName::Note(self.project.name().clone(), self.volume, self.sequence, number)
    }

    pub(crate) fn alive_name(self, k: u32) -> ObjectName {
        ObjectName::Alive(self.project.name().clone(), self.volume, self.sequence, k)
    }

    /// What the store itself says of one sequence, whether it opens or not; `None` where there is nothing, and where
    /// `opened_only` where it was never begun.
    pub(crate) async fn probe(self, opened_only: bool) -> Result<Option<LogEntry>> {
        let store = &self.project.repository().store;
        let open = store.head(&self.open_name().to_string()).await?;
        if open.is_none() && opened_only {
            return Ok(None);
        }
        let end = store.head(&self.end_name().to_string()).await?;
        let forget = store.head(&self.forget_name().to_string()).await?;
        if open.is_none() && end.is_none() && forget.is_none() {
            return Ok(None);
        }
        Ok(Some(LogEntry {
            opened_unix_ms: open.map(|i| i.modified_unix_ms),
            ended_unix_ms: end.map(|i| i.modified_unix_ms),
            forgotten: forget.is_some(),
            ..LogEntry::default()
        }))
    }

    pub(super) async fn opens(self) -> Result<bool> {
        Ok(self.project.look::<OpenRecord>(&self.open_name()).await?.opens())
    }

    /// What makes a sequence forgotten: it opens, and is of the snapshot that the sequence is of.
    pub(crate) async fn forget_of(self) -> Result<Found<ForgetRecord>> {
        let name = self.forget_name();
        let found = self.project.look::<ForgetRecord>(&name).await?;
        let Found::Opens(forget) = &found else { return Ok(found) };
        match self.snapshot_id().await? {
            Some(of) if of != forget.snapshot_id => {
                let why = format!("it is of snapshot {}, its sequence of {of}", forget.snapshot_id);
                self.project.repository().foreign.tell(&name, &why);
                Ok(Found::Foreign(why))
            }
            _ => Ok(found),
        }
    }

    /// The snapshot that the sequence is of: as its registration says, and where that does not open, its outcome.
    pub(super) async fn snapshot_id(self) -> Result<Option<SnapshotId>> {
        if let Some(open) = self.project.look::<OpenRecord>(&self.open_name()).await?.opened() {
            return Ok(Some(open.snapshot_id));
        }
        let end = self.project.look::<EndRecord>(&self.end_name()).await?;
        Ok(end.opened().map(|end| end.snapshot_id))
    }

    /// Whether a sequence is forgotten by now, whatever a listing said.
    pub(crate) async fn is_forgotten(self) -> Result<bool> {
        Ok(self.forget_of().await?.opens())
    }

    /// Whether it is over by now, as its own records or the newest seal say: for who does not find what was there a moment ago.
    pub(crate) async fn is_gone(self) -> Result<bool> {
        Ok(self.is_forgotten().await? || self.project.rosters().is_past(self.volume, self.sequence).await?)
    }

    /// The newest note that opens, of those up to a number, and its number.
    pub(crate) async fn newest_note(self, last: u32, of: SnapshotId) -> Result<Option<(u32, NoteRecord)>> {
        for k in (1..=last).rev().take(row::FOREIGN_MAX as usize) {
            let name = self.note_name(k);
            match self.project.read_known_record(&name).await {
                Ok(note) => match self.belongs(&note, of) {
                    Ok(()) => return Ok(Some((k, note))),
                    Err(why) => self.project.repository().foreign.tell(&name, &why),
                },
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                    self.project.repository().foreign.tell(&name, &e.to_string());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Whether a note is of the snapshot that its sequence is of.
    pub(super) fn belongs(self, note: &NoteRecord, of: SnapshotId) -> std::result::Result<(), String> {
        match note.snapshot_id == of {
            true => Ok(()),
            false => Err(format!("it is of snapshot {}, its sequence of {of}", note.snapshot_id)),
        }
    }

    /// Whether this host saw a snapshot live under a number.
    pub(crate) fn was_seen(self) -> bool {
        self.project
            .repository()
            .memory
            .live(self.project.name(), self.volume)
            .iter()
            .any(|seen| seen.sequence == self.sequence)
    }

    /// A sign of life: it opens, and is of the session that the sequence is of, where that is known.
    pub(crate) async fn look_sign(self, k: u32, of: Option<SnapshotId>) -> Result<Found<AliveRecord>> {
        let belongs = |alive: &AliveRecord| match of {
            Some(of) if of != alive.snapshot_id => {
                Err(format!("it is of snapshot {}, its sequence of {of}", alive.snapshot_id))
            }
            _ => Ok(()),
        };
        self.project.look_bound(&self.alive_name(k), belongs).await
    }
}

impl Creating<Slot<'_>> {
    /// Creates the outcome of somebody else's session. Whether it is this one that stands is returned; whoever was first
    /// decided.
    pub(crate) async fn end_as_aborted(self, snapshot_id: SnapshotId, reason: String) -> Result<bool> {
        let by = self.project.repository().environment.host.clone();
        let outcome = Outcome::Aborted { by, reason };
        let end = EndRecord { snapshot_id, outcome };
        let name = self.end_name();
        Ok(matches!(Reserve { project: self.project }.create_record(&name, &end).await?, Created::New))
    }
}
