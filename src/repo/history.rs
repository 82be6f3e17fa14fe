//! A volume's snapshots: which are live, and what each is.

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::record::{EndRecord, Outcome, Snapshot, VolumeRecord};
use crate::repo::Project;
use crate::repo::log::{LogEntry, RECORDS_INFLIGHT_MAX};
use crate::repo::slot::Slot;
use crate::units::{Sequence, SnapshotId};

/// A live snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotEntry {
    /// As the catalog has it.
    pub volume_name: String,
    /// As its `.end` says.
    pub snapshot_id: SnapshotId,
    /// What the `.end` record says (repo-format.md §6.6).
    pub snapshot: Snapshot,
    /// When the store says that it was committed.
    pub committed_unix_ms: u64,
    /// By its newest note.
    pub protected: bool,
    /// By its newest note; where there is none, those given to the backup.
    pub tags: Vec<String>,
    /// The newest note that was seen; 0 for none.
    pub notes: u32,
}

impl SnapshotEntry {
    /// `vms/db@14`, as a user names it.
    pub fn name(&self) -> String {
        format!("{}@{}", self.volume_name, self.snapshot.sequence)
    }
}

/// The snapshots of one volume.
#[derive(Clone, Copy)]
pub struct History<'a> {
    pub(super) project: &'a Project,
    pub(super) volume: &'a VolumeRecord,
}

impl<'a> History<'a> {
    /// Live snapshots of a volume, oldest first. What does not open is told of, and none.
    pub async fn snapshots(self) -> Result<Vec<SnapshotEntry>> {
        let log = self.project.log(self.volume.number).confirmed().await?;
        let found = stream::iter(log.candidates()).map(|(s, entry)| self.outcome_if_any(s, entry));
        self.oldest_first(found).await
    }

    /// As [`snapshots`](Self::snapshots), for those who decide by all of them: each must open.
    pub async fn all(self) -> Result<Vec<SnapshotEntry>> {
        let log = self.project.log(self.volume.number).confirmed().await?;
        if let Some((sequence, why)) = log.unproven.first_key_value() {
            let name = self.slot(*sequence).forget_name();
            return Err(Error::corrupt(format!("{name} does not open: {why}")));
        }
        let found = stream::iter(log.candidates()).map(|(s, entry)| self.outcome(s, entry));
        self.oldest_first(found).await
    }

    /// The newest live snapshot of a volume, if it has any. Damage of older ones does not stand in the way.
    pub async fn latest(self) -> Result<Option<SnapshotEntry>> {
        let log = self.project.log(self.volume.number).confirmed().await?;
        for (sequence, entry) in log.candidates() {
            if let Some(found) = self.outcome_unless_planted(sequence, entry).await? {
                self.project.repository().memory.flush();
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Reads no more records than it takes to find the one: damage of another snapshot does not stand in the way.
    pub async fn at(self, point: &str) -> Result<SnapshotEntry> {
        let log = self.project.log(self.volume.number).confirmed().await?;
        if let Ok(number) = point.parse::<u32>() {
            for (sequence, entry) in log.candidates().filter(|(sequence, _)| sequence.0 == number) {
                if let Some(found) = self.outcome(sequence, entry).await? {
                    return Ok(found);
                }
            }
        }
        let (mut any, mut damage) = (false, None);
        for (sequence, entry) in log.candidates() {
            match self.outcome_unless_planted(sequence, entry).await {
                Ok(None) => {}
                Ok(Some(found)) => {
                    any = true;
                    let name = found.snapshot.point.as_ref().map(|p| p.name.as_str());
                    if point == "latest" || name == Some(point) {
                        return Ok(found);
                    }
                }
                // An older snapshot is not the latest, however damaged that is.
                Err(e) if point == "latest" || e.kind() != ErrorKind::Corrupt => return Err(e),
                Err(e) => damage = damage.or(Some(e)),
            }
        }
        match damage {
            // It may be the one.
            Some(e) => Err(e),
            None if any => {
                Err(Error::not_found(format!("volume {} has no snapshot {point:?}", self.volume.name))
                    .help(format!("see `cuttle snapshots {}`", self.volume.name)))
            }
            None => Err(Error::not_found(format!("volume {} has no snapshot", self.volume.name))
                .help("make one with `cuttle backup`")),
        }
    }

    /// As [`outcome`](Self::outcome), for those who want the newest. An outcome that does not open may be it, where its
    /// sequence was begun or this host saw it live; where nothing says so, it is none.
    async fn outcome_unless_planted(
        self,
        sequence: Sequence,
        entry: &LogEntry,
    ) -> Result<Option<SnapshotEntry>> {
        match self.outcome(sequence, entry).await {
            Err(e)
                if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
                    && !self.slot(sequence).was_seen()
                    && !self.slot(sequence).opens().await? =>
            {
                self.project.repository().foreign.tell(&self.slot(sequence).end_name(), &e.to_string());
                Ok(None)
            }
            found => found,
        }
    }

    /// The outcome of a sequence that has one; `None` when it was aborted, or forgotten and removed meanwhile.
    pub(crate) async fn outcome(self, sequence: Sequence, entry: &LogEntry) -> Result<Option<SnapshotEntry>> {
        let name = self.slot(sequence).end_name();
        let end: EndRecord = match self.project.read_listed_record(&name, entry.end_stamp).await {
            Err(e) if e.kind() == ErrorKind::Corrupt && self.slot(sequence).is_gone().await? => {
                return Ok(None);
            }
            end => end?,
        };
        // What opened is remembered, and nothing else.
        self.project.repository().memory.saw_sequence(self.project.name(), self.volume.number, sequence);
        let Outcome::Committed(snapshot) = end.outcome else { return Ok(None) };
        if (snapshot.volume, snapshot.sequence) != (self.volume.number, sequence) {
            return Err(Error::corrupt(format!(
                "{name} holds the snapshot {} of volume {}",
                snapshot.sequence, snapshot.volume
            )));
        }
        let mut out = SnapshotEntry {
            volume_name: self.volume.name.clone(),
            snapshot_id: end.snapshot_id,
            tags: snapshot.tags.clone(),
            snapshot: *snapshot,
            committed_unix_ms: entry.ended_unix_ms.unwrap_or_default(),
            protected: false,
            notes: entry.notes,
        };
        let mut opened = 0;
        if let Some((k, note)) = self.slot(sequence).newest_note(entry.notes, end.snapshot_id).await? {
            (opened, out.protected, out.tags) = (k, note.protected, note.tags);
        }
        self.project.log(self.volume.number).recall(&out, opened)?;
        Ok(Some(out))
    }

    /// As [`outcome`](Self::outcome), for those who go on around what does not open: it is told of, and no snapshot.
    pub(crate) async fn outcome_if_any(
        self,
        sequence: Sequence,
        entry: &LogEntry,
    ) -> Result<Option<SnapshotEntry>> {
        match self.outcome(sequence, entry).await {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                let name = self.slot(sequence).end_name();
                self.project.repository().foreign.tell(&name, &e.to_string());
                Ok(None)
            }
            found => found,
        }
    }

    async fn oldest_first<F>(self, found: impl futures::Stream<Item = F>) -> Result<Vec<SnapshotEntry>>
    where
        F: Future<Output = Result<Option<SnapshotEntry>>>,
    {
        let mut found: Vec<SnapshotEntry> = found
            .buffered(RECORDS_INFLIGHT_MAX)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        self.project.repository().memory.flush();
        found.reverse();
        Ok(found)
    }

    fn slot(self, sequence: Sequence) -> Slot<'a> {
        self.project.slot(self.volume.number, sequence)
    }
}
