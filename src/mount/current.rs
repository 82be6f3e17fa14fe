//! The snapshots of a project as they are now: listed when somebody looks, and not too often.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::format::record::VolumeRecord;
use crate::reading::snapshot::{SnapshotReader, Snapshots};
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::log::LogEntry;
use crate::units::{Sequence, VolumeNumber};

/// How long a listing is good: a new backup is seen after this at the latest.
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(30);
/// Records read at once.
const RECORDS_INFLIGHT_MAX: usize = 32;

/// Which snapshot of a volume is meant: `latest` or its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest one that is live when it is looked up.
    Latest,
    /// The one of this sequence.
    Sequence(Sequence),
}

impl Which {
    /// `latest`, or a number without leading zeros.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "latest" => Some(Self::Latest),
            _ => {
                let number: u32 = text.parse().ok()?;
                (number.to_string() == text).then_some(Self::Sequence(Sequence(number)))
            }
        }
    }
}

/// Snapshots that can be found and read, old and new.
pub struct Current {
    readers: Snapshots,
    catalog: tokio::sync::Mutex<Option<Listed<Vec<VolumeRecord>>>>,
    volumes: Mutex<HashMap<VolumeNumber, Arc<Kept>>>,
}

/// A listing and when it was made.
struct Listed<T> {
    at: Instant,
    what: Arc<T>,
}

/// One volume's snapshots. One at a time looks for new ones.
type Kept = tokio::sync::Mutex<Option<Listed<Row>>>;

/// The outcomes of a volume's sequences, with the times that the store says they have. They never change, so each is read once.
#[derive(Debug, Default)]
struct Row {
    outcomes: BTreeMap<Sequence, (Option<u64>, Outcome)>,
}

#[derive(Debug, Clone)]
enum Outcome {
    Snapshot(Box<SnapshotEntry>),
    /// Aborted.
    Nothing,
    /// Its record cannot be read. Others can.
    Damaged,
}

impl Current {
    /// `memory_bytes` bounds the chunks in memory, as for [`Snapshots::new`].
    pub fn new(project: &Project, memory_bytes: u64) -> Self {
        Self {
            readers: Snapshots::new(project, memory_bytes),
            catalog: tokio::sync::Mutex::default(),
            volumes: Mutex::default(),
        }
    }

    /// Whose snapshots they are.
    pub fn project(&self) -> &Project {
        self.readers.project()
    }

    /// A reader of a snapshot. Costs no request.
    pub fn open(&self, snapshot: &SnapshotEntry) -> Result<Arc<SnapshotReader>> {
        self.readers.open(snapshot)
    }

    /// All volumes, as they were made. None ever goes.
    pub async fn volumes(&self) -> Result<Arc<Vec<VolumeRecord>>> {
        let mut listed = self.catalog.lock().await;
        if let Some(fresh) = fresh(&listed) {
            return Ok(fresh);
        }
        let found = self.project().volumes().confirmed().await.map(|c| c.entries().to_vec());
        renewed(&mut listed, found)
    }

    /// The live snapshots of a volume, oldest first. What is damaged is left out.
    pub async fn snapshots(&self, volume: &VolumeRecord) -> Result<Vec<SnapshotEntry>> {
        let row = self.row(volume).await?;
        let snapshots = row.outcomes.values().filter_map(|(_, outcome)| match outcome {
            Outcome::Snapshot(snapshot) => Some((**snapshot).clone()),
            Outcome::Nothing | Outcome::Damaged => None,
        });
        Ok(snapshots.collect())
    }

    /// One snapshot of a volume. An older one never stands in for the latest where that is damaged.
    pub async fn find(&self, volume: &VolumeRecord, which: Which) -> Result<SnapshotEntry> {
        let row = self.row(volume).await?;
        let found = match which {
            Which::Latest => row.outcomes.iter().rev().find(|(_, (_, o))| !matches!(o, Outcome::Nothing)),
            Which::Sequence(sequence) => row.outcomes.get_key_value(&sequence),
        };
        match (found, which) {
            (Some((_, (_, Outcome::Snapshot(snapshot)))), _) => Ok((**snapshot).clone()),
            (Some((sequence, (_, Outcome::Damaged))), _) => {
                Err(Error::corrupt(format!("snapshot {sequence} of volume {} is damaged", volume.name))
                    .help("see `cuttle verify`"))
            }
            (_, Which::Latest) => Err(Error::not_found(format!("volume {} has no snapshot", volume.name))),
            (_, Which::Sequence(sequence)) => {
                Err(Error::not_found(format!("volume {} has no snapshot {sequence}", volume.name)))
            }
        }
    }

    async fn row(&self, volume: &VolumeRecord) -> Result<Arc<Row>> {
        let kept = {
            let mut volumes = self.volumes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(volumes.entry(volume.number).or_default())
        };
        let mut listed = kept.lock().await;
        if let Some(fresh) = fresh(&listed) {
            return Ok(fresh);
        }
        let before = listed.as_ref().map(|l| Arc::clone(&l.what)).unwrap_or_default();
        let found = self.look(volume, &before).await;
        renewed(&mut listed, found)
    }

    /// What a volume's log holds now; only what is new is read.
    async fn look(&self, volume: &VolumeRecord, before: &Row) -> Result<Row> {
        let log = self.project().log(volume.number).confirmed().await?;
        let candidates: Vec<(Sequence, LogEntry)> = log.candidates().map(|(s, entry)| (s, *entry)).collect();
        let outcomes = stream::iter(candidates)
            .map(|(sequence, entry)| async move {
                let at = entry.ended_unix_ms;
                match before.outcomes.get(&sequence) {
                    Some((then, known @ (Outcome::Snapshot(_) | Outcome::Nothing))) if *then == at => {
                        (sequence, (at, known.clone()))
                    }
                    _ => (sequence, (at, self.outcome(volume, sequence, &entry).await)),
                }
            })
            .buffer_unordered(RECORDS_INFLIGHT_MAX)
            .collect()
            .await;
        Ok(Row { outcomes })
    }

    async fn outcome(&self, volume: &VolumeRecord, sequence: Sequence, entry: &LogEntry) -> Outcome {
        match self.project().history(volume).outcome(sequence, entry).await {
            Ok(Some(snapshot)) => Outcome::Snapshot(Box::new(snapshot)),
            Ok(None) => Outcome::Nothing,
            Err(error) => {
                tracing::warn!("snapshot {sequence} of volume {} is left out: {error}", volume.name);
                Outcome::Damaged
            }
        }
    }
}

fn fresh<T>(listed: &Option<Listed<T>>) -> Option<Arc<T>> {
    listed.as_ref().filter(|l| l.at.elapsed() < REFRESH_INTERVAL).map(|l| Arc::clone(&l.what))
}

/// Keeps a new listing. Where the store is away the one before stays good for as long again, if there is one.
fn renewed<T>(listed: &mut Option<Listed<T>>, found: Result<T>) -> Result<Arc<T>> {
    let what = match (found, listed.as_ref()) {
        (Ok(found), _) => Arc::new(found),
        (Err(error), Some(before)) => {
            tracing::warn!("what is new could not be listed: {error}");
            Arc::clone(&before.what)
        }
        (Err(error), None) => return Err(error),
    };
    *listed = Some(Listed { at: Instant::now(), what: Arc::clone(&what) });
    Ok(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_one_name() {
        let sequence = |n| Some(Which::Sequence(Sequence(n)));
        for (text, expected) in [
            ("latest", Some(Which::Latest)),
            ("1", sequence(1)),
            ("4294967295", sequence(u32::MAX)),
            ("01", None),
            ("+1", None),
            ("4294967296", None),
            ("Latest", None),
            ("", None),
        ] {
            assert_eq!(Which::parse(text), expected, "{text}");
        }
    }
}
