//! A volume's snapshots, and finding the one that a user named.

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::format::record::VolumeRecord;
use crate::repo::Project;
use crate::repo::catalog::Catalog;
use crate::repo::log::{LogEntry, RECORDS_INFLIGHT_MAX, SnapshotEntry};
use crate::units::{Sequence, VolumeName};

impl Project {
    /// Live snapshots of a volume, oldest first. What does not open is told of, and none.
    pub async fn snapshots(&self, volume: &VolumeRecord) -> Result<Vec<SnapshotEntry>> {
        let log = self.confirmed_log(volume.number).await?;
        let found = stream::iter(log.candidates()).map(|(s, entry)| self.outcome_if_any(volume, s, entry));
        self.oldest_first(found).await
    }

    /// As [`snapshots`](Self::snapshots), for those who decide by all of them: each must open.
    pub async fn all_snapshots(&self, volume: &VolumeRecord) -> Result<Vec<SnapshotEntry>> {
        let log = self.confirmed_log(volume.number).await?;
        if let Some((sequence, why)) = log.unproven.first_key_value() {
            let name = self.forget_name(volume.number, *sequence);
            return Err(Error::corrupt(format!("{name} does not open: {why}")));
        }
        let found = stream::iter(log.candidates()).map(|(s, entry)| self.outcome(volume, s, entry));
        self.oldest_first(found).await
    }

    /// The newest live snapshot of a volume, if it has any. Damage of older ones does not stand in the way.
    pub async fn latest_snapshot(&self, volume: &VolumeRecord) -> Result<Option<SnapshotEntry>> {
        let log = self.confirmed_log(volume.number).await?;
        for (sequence, entry) in log.candidates() {
            if let Some(found) = self.outcome_unless_planted(volume, sequence, entry).await? {
                self.repository().memory.flush();
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// As [`outcome`](Self::outcome), for those who want the newest. An outcome that does not open may be it, where its
    /// sequence was begun or this host saw it live; where nothing says so, it is none.
    async fn outcome_unless_planted(
        &self,
        volume: &VolumeRecord,
        sequence: Sequence,
        entry: &LogEntry,
    ) -> Result<Option<SnapshotEntry>> {
        match self.outcome(volume, sequence, entry).await {
            Err(e)
                if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported)
                    && !self.was_seen(volume.number, sequence)
                    && !self.opens(volume.number, sequence).await? =>
            {
                self.repository().foreign.tell(&self.end_name(volume.number, sequence), &e.to_string());
                Ok(None)
            }
            found => found,
        }
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
            match self.outcome_unless_planted(volume, sequence, entry).await {
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
            0 if !catalog.foreign().is_empty() => {
                let entries = catalog.foreign().iter();
                let entries: Vec<String> = entries
                    .map(|(n, why)| format!("volumes/{n:010} does not open: {why}"))
                    .take(10)
                    .collect();
                Err(Error::corrupt(format!(
                    "no volume and no snapshot is named {spec:?}, and it may be in what cannot be read: {}",
                    entries.join("; ")
                ))
                .help("run `cuttle verify`; bring the object back from a copy or a bucket version"))
            }
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

    async fn oldest_first<F>(&self, found: impl futures::Stream<Item = F>) -> Result<Vec<SnapshotEntry>>
    where
        F: Future<Output = Result<Option<SnapshotEntry>>>,
    {
        let mut found: Vec<SnapshotEntry> = found
            .buffered(RECORDS_INFLIGHT_MAX)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await?;
        self.repository().memory.flush();
        found.reverse();
        Ok(found)
    }
}
