//! What a server offers: the snapshots that there were when it began, by volume.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;
use crate::reading::snapshot::{SnapshotReader, Snapshots};
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;

/// Volumes whose logs are read at once.
const VOLUMES_INFLIGHT_MAX: usize = 8;

/// Which snapshot of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest one that there was when the server began.
    Latest,
    /// The one of this sequence.
    Sequence(u32),
}

/// Snapshots of one project, and what reading them shares.
pub struct Shelf {
    snapshots: Snapshots,
    /// Oldest first; none is empty.
    volumes: BTreeMap<String, Vec<SnapshotEntry>>,
}

impl Shelf {
    /// All snapshots of a project. `memory_bytes` bounds the chunks in memory, see [`Snapshots::new`].
    pub async fn of_project(project: &Project, memory_bytes: u64) -> Result<Self> {
        let catalog = project.volumes().confirmed().await?;
        let found: Vec<Vec<SnapshotEntry>> = stream::iter(catalog.entries())
            .map(|volume| project.history(volume).snapshots())
            .buffered(VOLUMES_INFLIGHT_MAX)
            .try_collect()
            .await?;
        Ok(Self::of_snapshots(project, found.into_iter().flatten().collect(), memory_bytes))
    }

    /// These snapshots and no other.
    pub fn of_snapshots(project: &Project, snapshots: Vec<SnapshotEntry>, memory_bytes: u64) -> Self {
        let mut volumes: BTreeMap<String, Vec<SnapshotEntry>> = BTreeMap::new();
        for snapshot in snapshots {
            volumes.entry(snapshot.volume_name.clone()).or_default().push(snapshot);
        }
        for snapshots in volumes.values_mut() {
            snapshots.sort_by_key(|s| s.snapshot.sequence);
        }
        Self { snapshots: Snapshots::new(project, memory_bytes), volumes }
    }

    /// Whose snapshots they are.
    pub fn project(&self) -> &Project {
        self.snapshots.project()
    }

    /// Volumes by name, each with its snapshots, oldest first.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, &[SnapshotEntry])> {
        self.volumes.iter().map(|(name, snapshots)| (name.as_str(), snapshots.as_slice()))
    }

    /// The snapshots of one volume, oldest first; none where there is no such volume.
    pub fn volume(&self, name: &str) -> &[SnapshotEntry] {
        self.volumes.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// One snapshot, without a request; `None` where the shelf does not have it.
    pub fn find(&self, volume: &str, which: Which) -> Option<&SnapshotEntry> {
        let snapshots = self.volume(volume);
        match which {
            Which::Latest => snapshots.last(),
            Which::Sequence(n) => snapshots.iter().find(|s| s.snapshot.sequence.0 == n),
        }
    }

    /// A reader of a snapshot: shared by all who read it. Costs no request.
    pub fn open(&self, snapshot: &SnapshotEntry) -> Result<Arc<SnapshotReader>> {
        self.snapshots.open(snapshot)
    }
}
