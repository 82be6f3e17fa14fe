//! The snapshots of a volume as a chain of files, each on top of the one before.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;

/// One file of a chain.
#[derive(Debug, Clone)]
pub struct ChainLink {
    /// What the file holds; beyond the first, as what differs from the one before.
    pub snapshot: SnapshotEntry,
    /// The file's name within its folder: number and id, so that it stands for this snapshot and no other.
    pub file: PathBuf,
}

/// The live snapshots of a volume up to one of them, oldest first.
pub async fn chain(project: &Project, newest: &SnapshotEntry) -> Result<Vec<ChainLink>> {
    let catalog = project.volumes().confirmed().await?;
    let volume = catalog.by_number(newest.snapshot.volume);
    let volume = volume.ok_or_else(|| Error::internal("a snapshot of no volume"))?;
    let mut snapshots = project.history(volume).snapshots().await?;
    snapshots.retain(|s| s.snapshot.sequence <= newest.snapshot.sequence);
    snapshots.sort_by_key(|s| s.snapshot.sequence);
    let link = |snapshot: SnapshotEntry| {
        let id = snapshot.snapshot_id.to_string();
        let file = format!("{}-{}.qcow2", snapshot.snapshot.sequence, id.get(..8).unwrap_or(&id)).into();
        ChainLink { snapshot, file }
    };
    Ok(snapshots.into_iter().map(link).collect())
}
