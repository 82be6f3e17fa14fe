//! A volume's log: which backups were begun, how they ended, which are no longer wanted.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::ObjectName;
use crate::format::names::log_prefix;
use crate::format::record::{EndRecord, NoteRecord, Outcome, Snapshot, VolumeRecord};
use crate::repo::Project;
use crate::repo::catalog::Catalog;
use crate::store::Stamp;
use crate::units::{Sequence, VolumeName, VolumeNumber};

/// Log records read at once.
const RECORDS_INFLIGHT_MAX: usize = 32;

/// What exists of one sequence. Times are the store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogEntry {
    pub opened_unix_ms: Option<u64>,
    pub ended_unix_ms: Option<u64>,
    /// Which `.end` it is that was listed, where it may come from the cache.
    pub end_stamp: Option<Stamp>,
    pub forgotten: bool,
    /// Highest note; 0 for none.
    pub notes: u32,
    /// Last sign of life after the registration; 0 for none.
    pub alive: u32,
    pub alive_unix_ms: Option<u64>,
}

/// A volume's log as a listing shows it.
#[derive(Debug, Clone, Default)]
pub struct VolumeLog {
    pub entries: BTreeMap<Sequence, LogEntry>,
}

/// A live snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotEntry {
    pub volume_name: String,
    pub snapshot_id: crate::units::SnapshotId,
    pub snapshot: Snapshot,
    /// When the store says that it was committed.
    pub committed_unix_ms: u64,
    pub protected: bool,
    pub tags: Vec<String>,
    /// The newest note that was seen; 0 for none.
    pub notes: u32,
}

impl VolumeLog {
    pub fn last(&self) -> Sequence {
        self.entries.last_key_value().map_or(Sequence(0), |(s, _)| *s)
    }

    /// Sequences that must exist, as higher ones do, but were not listed.
    pub fn gaps(&self) -> Vec<Sequence> {
        let known = |s: &Sequence| self.entries.get(s).is_some_and(|e| e.opened_unix_ms.is_some());
        (1..=self.last().0).map(Sequence).filter(|s| !known(s)).collect()
    }

    /// Sequences with an outcome and not forgotten, newest first. Some may turn out aborted.
    pub fn candidates(&self) -> impl Iterator<Item = (Sequence, &LogEntry)> {
        let live = |(_, e): &(&Sequence, &LogEntry)| e.ended_unix_ms.is_some() && !e.forgotten;
        self.entries.iter().rev().filter(live).map(|(s, e)| (*s, e))
    }

    /// Sequences begun that have no outcome yet. One that is forgotten is over: prune may have removed its outcome.
    pub fn unfinished(&self) -> impl Iterator<Item = Sequence> {
        let open = |(_, e): &(&Sequence, &LogEntry)| e.ended_unix_ms.is_none() && !e.forgotten;
        self.entries.iter().filter(open).map(|(s, _)| *s)
    }
}

impl Project {
    /// Lists a volume's log. The tail is what the listing showed: see [`Project::confirmed_log`].
    pub(crate) async fn log(&self, volume: VolumeNumber) -> Result<VolumeLog> {
        let memory = &self.repository().memory;
        let (expected, seen) = (memory.sequence(self.name(), volume), memory.live(self.name(), volume));
        let mut log = self.listed_log(volume).await?;
        if log.last() < expected {
            // A listing may be short; the object itself tells.
            let open = ObjectName::Open(self.name().clone(), volume, expected);
            if self.repository().store.head(&open.to_string()).await?.is_none() {
                return Err(memory.log_went_back(self.name(), volume, log.last(), expected));
            }
        }
        self.recall_log(volume, &seen, &mut log).await?;
        Ok(log)
    }

    /// As [`log`](Self::log), whatever this client saw before.
    pub(crate) async fn listed_log(&self, volume: VolumeNumber) -> Result<VolumeLog> {
        let mut log = VolumeLog::default();
        for info in self.repository().store.list(&log_prefix(self.name(), volume), None).await? {
            let modified = Some(info.modified_unix_ms);
            match ObjectName::parse(&info.key) {
                Some(ObjectName::Open(_, _, s)) => {
                    log.entries.entry(s).or_default().opened_unix_ms = modified
                }
                Some(ObjectName::End(_, _, s)) => {
                    let entry = log.entries.entry(s).or_default();
                    (entry.ended_unix_ms, entry.end_stamp) = (modified, Some(info.stamp));
                }
                Some(ObjectName::Forget(_, _, s)) => log.entries.entry(s).or_default().forgotten = true,
                Some(ObjectName::Note(_, _, s, k)) => {
                    let entry = log.entries.entry(s).or_default();
                    entry.notes = entry.notes.max(k);
                }
                Some(ObjectName::Alive(_, _, s, k)) => {
                    let entry = log.entries.entry(s).or_default();
                    entry.alive = entry.alive.max(k);
                    entry.alive_unix_ms = entry.alive_unix_ms.max(modified);
                }
                _ => {}
            }
        }
        Ok(log)
    }

    /// Lists a volume's log, confirms its tail by a request that must find nothing, and asks again for what is missing
    /// in between: a short listing never hides a live snapshot.
    pub async fn confirmed_log(&self, volume: VolumeNumber) -> Result<VolumeLog> {
        let log = self.log(volume).await?;
        self.confirm_log(volume, log).await
    }

    /// Confirms what a listing showed.
    pub(crate) async fn confirm_log(&self, volume: VolumeNumber, mut log: VolumeLog) -> Result<VolumeLog> {
        let (p, store) = (self.name(), &self.repository().store);
        for sequence in log.unfinished().collect::<Vec<_>>() {
            let end = store.head(&ObjectName::End(p.clone(), volume, sequence).to_string()).await?;
            // Also without an outcome: prune removes that of what is forgotten.
            let forgotten = self.is_forgotten(volume, sequence).await?;
            if let Some(entry) = log.entries.get_mut(&sequence) {
                entry.ended_unix_ms = end.map(|info| info.modified_unix_ms);
                entry.forgotten = forgotten;
            }
        }
        let mut doubtful = log.gaps();
        loop {
            let next = Sequence(log.last().0.saturating_add(1));
            doubtful.push(next);
            for sequence in doubtful.drain(..) {
                if let Some(found) = self.probe(volume, sequence).await? {
                    let LogEntry { opened_unix_ms, ended_unix_ms, forgotten, .. } = found;
                    let entry = log.entries.entry(sequence).or_default();
                    *entry = LogEntry { opened_unix_ms, ended_unix_ms, forgotten, ..*entry };
                }
            }
            if log.last() < next {
                return Ok(log);
            }
        }
    }

    /// What the store itself says of one sequence; `None` where it was never begun.
    pub(crate) async fn probe(&self, volume: VolumeNumber, sequence: Sequence) -> Result<Option<LogEntry>> {
        let store = &self.repository().store;
        let (p, n, s) = (self.name().clone(), volume, sequence);
        let Some(open) = store.head(&ObjectName::Open(p.clone(), n, s).to_string()).await? else {
            return Ok(None);
        };
        let end = store.head(&ObjectName::End(p.clone(), n, s).to_string()).await?;
        let forget = store.head(&ObjectName::Forget(p, n, s).to_string()).await?;
        Ok(Some(LogEntry {
            opened_unix_ms: Some(open.modified_unix_ms),
            ended_unix_ms: end.map(|i| i.modified_unix_ms),
            forgotten: forget.is_some(),
            ..LogEntry::default()
        }))
    }

    pub(crate) fn end_name(&self, volume: VolumeNumber, sequence: Sequence) -> ObjectName {
        ObjectName::End(self.name().clone(), volume, sequence)
    }

    /// Whether a sequence is forgotten by now, whatever a listing said.
    pub(crate) async fn is_forgotten(&self, volume: VolumeNumber, sequence: Sequence) -> Result<bool> {
        let name = ObjectName::Forget(self.name().clone(), volume, sequence);
        Ok(self.repository().store.head(&name.to_string()).await?.is_some())
    }

    /// The outcome of a sequence that has one; `None` when it was aborted, or forgotten and removed meanwhile.
    pub(crate) async fn outcome(
        &self,
        volume: &VolumeRecord,
        sequence: Sequence,
        entry: &LogEntry,
    ) -> Result<Option<SnapshotEntry>> {
        let name = ObjectName::End(self.name().clone(), volume.number, sequence);
        let end: EndRecord = match self.read_listed_record(&name, entry.end_stamp).await {
            Err(e)
                if e.kind() == ErrorKind::Corrupt && self.is_forgotten(volume.number, sequence).await? =>
            {
                return Ok(None);
            }
            end => end?,
        };
        let Outcome::Committed(snapshot) = end.outcome else { return Ok(None) };
        if (snapshot.volume, snapshot.sequence) != (volume.number, sequence) {
            return Err(Error::corrupt(format!(
                "{name} holds the snapshot {} of volume {}",
                snapshot.sequence, snapshot.volume
            )));
        }
        let mut out = SnapshotEntry {
            volume_name: volume.name.clone(),
            snapshot_id: end.snapshot_id,
            tags: snapshot.tags.clone(),
            snapshot: *snapshot,
            committed_unix_ms: entry.ended_unix_ms.unwrap_or_default(),
            protected: false,
            notes: entry.notes,
        };
        if entry.notes > 0 {
            let name = ObjectName::Note(self.name().clone(), volume.number, sequence, entry.notes);
            let note: NoteRecord = self.read_known_record(&name).await?;
            (out.protected, out.tags) = (note.protected, note.tags);
        }
        self.recall_snapshot(&out)?;
        Ok(Some(out))
    }

    /// Live snapshots of a volume, oldest first.
    pub async fn snapshots(&self, volume: &VolumeRecord) -> Result<Vec<SnapshotEntry>> {
        let log = self.confirmed_log(volume.number).await?;
        let mut found: Vec<SnapshotEntry> = stream::iter(log.candidates())
            .map(|(sequence, entry)| self.outcome(volume, sequence, entry))
            .buffered(RECORDS_INFLIGHT_MAX)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        self.repository().memory.flush();
        found.reverse();
        Ok(found)
    }

    /// The newest live snapshot of a volume, if it has any. Damage of older ones does not stand in the way.
    pub async fn latest_snapshot(&self, volume: &VolumeRecord) -> Result<Option<SnapshotEntry>> {
        let log = self.confirmed_log(volume.number).await?;
        for (sequence, entry) in log.candidates() {
            if let Some(found) = self.outcome(volume, sequence, entry).await? {
                self.repository().memory.flush();
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Finds the snapshot that a user named: `VOLUME`, `VOLUME@latest`, `VOLUME@SEQ`, `VOLUME@SNAPNAME`, or a unique
    /// prefix of a snapshot id.
    pub async fn find_snapshot(&self, spec: &str) -> Result<SnapshotEntry> {
        let catalog = self.confirmed_catalog().await?;
        let (volume, point) = spec.rsplit_once('@').map_or((spec, "latest"), |(v, p)| (v, p));
        let named = volume.parse::<VolumeName>().ok().and_then(|name| catalog.by_name(&name).cloned());
        let found = match named {
            Some(volume) => self.find_in_volume(&volume, point).await,
            None => self.find_by_id(&catalog, spec).await,
        };
        self.repository().memory.flush();
        found
    }

    /// Reads no more records than it takes to find the one: damage of another snapshot does not stand in the way.
    async fn find_in_volume(&self, volume: &VolumeRecord, point: &str) -> Result<SnapshotEntry> {
        let log = self.confirmed_log(volume.number).await?;
        if let Ok(number) = point.parse::<u32>() {
            for (sequence, entry) in log.candidates().filter(|(sequence, _)| sequence.0 == number) {
                if let Some(found) = self.outcome(volume, sequence, entry).await? {
                    return Ok(found);
                }
            }
        }
        let (mut any, mut damage) = (false, None);
        for (sequence, entry) in log.candidates() {
            match self.outcome(volume, sequence, entry).await {
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
            None if any => Err(Error::not_found(format!("volume {} has no snapshot {point:?}", volume.name))
                .help(format!("see `cuttle snapshots {}`", volume.name))),
            None => Err(Error::not_found(format!("volume {} has no snapshot", volume.name))
                .help("make one with `cuttle backup`")),
        }
    }

    async fn find_by_id(&self, catalog: &Catalog, spec: &str) -> Result<SnapshotEntry> {
        const ID_PREFIX_LEN_MIN: usize = 4;
        let is_id = (ID_PREFIX_LEN_MIN..=32).contains(&spec.len())
            && spec.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
        let mut found = Vec::new();
        if is_id {
            for volume in catalog.entries() {
                let all = self.snapshots(volume).await?;
                found.extend(all.into_iter().filter(|s| s.snapshot_id.to_string().starts_with(spec)));
            }
        }
        match found.len() {
            1 => Ok(found.swap_remove(0)),
            0 => {
                let names: Vec<&str> = catalog.entries().iter().map(|v| v.name.as_str()).take(10).collect();
                Err(Error::not_found(format!("no volume and no snapshot is named {spec:?}")).help(format!(
                    "expected VOLUME, VOLUME@latest, VOLUME@NUMBER, VOLUME@NAME or an id; volumes of project {} are: {}",
                    self.name(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                )))
            }
            n => Err(Error::invalid(format!("{n} snapshots have ids that begin with {spec}"))
                .help("give more digits, as `cuttle snapshots` shows them")),
        }
    }
}
