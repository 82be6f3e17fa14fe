//! The snapshot of another volume that a clone may be built upon (repo-format.md §8.1, step 4).
//!
//! What makes it good: it is live, confirmed after the registration, as the own volume's parent is; whose volume it is does not enter the
//! proof. That the clone hangs on what it was read from is known by the ids of cluster, image and snapshot, which its own record has; what
//! the catalog says of a volume only tells where to look.

use crate::error::{ErrorKind, Result};
use crate::format::record::{Snapshot, VolumeRecord};
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::session::Session;
use crate::volume::Identity;

/// A snapshot, and the catalog's entry of its volume.
pub type Found = (VolumeRecord, SnapshotEntry);

impl Session {
    /// The newest live snapshot that was read from one snapshot of an image, confirmed live now, that is after the registration.
    ///
    /// # Errors
    /// Those of the store. What does not open is no origin: the clone is then read as a whole.
    pub async fn origin(&self, image: &Identity, rbd_snap_id: u64) -> Result<Option<Found>> {
        let project = &self.project;
        for volume in volumes_of(project, image).await? {
            if volume.number == self.volume.number {
                continue;
            }
            let known = match self.roster.entry(project, volume.number).await {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    tracing::warn!("{}: nothing can be built upon its snapshots: {e}", volume.name);
                    continue;
                }
                known => known?,
            };
            let log = project.log(volume.number).read_by(known).await?;
            for (sequence, entry) in log.candidates() {
                let Some(found) = project.history(&volume).outcome_if_any(sequence, entry).await? else {
                    continue;
                };
                if is_of(&found.snapshot, image, rbd_snap_id)
                    && found.snapshot.generation <= self.generation
                    && !project.slot(volume.number, sequence).is_forgotten().await?
                {
                    return Ok(Some((volume, found)));
                }
            }
        }
        Ok(None)
    }
}

/// What a clone's snapshot names as its origin, as long as that is live.
pub async fn of(project: &Project, snapshot: &Snapshot) -> Result<Option<Found>> {
    let Some(origin) = &snapshot.origin else { return Ok(None) };
    let catalog = project.volumes().once().await?;
    let Some(volume) = catalog.by_number(origin.volume).cloned() else { return Ok(None) };
    match project.history(&volume).at(&origin.sequence.0.to_string()).await {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        found => Ok(Some(found?).filter(|f| f.snapshot_id == origin.snapshot_id).map(|f| (volume, f))),
    }
}

/// The newest snapshot that was read from one snapshot of an image, as it is listed: for who references nothing.
pub async fn listed(project: &Project, image: &Identity, rbd_snap_id: u64) -> Result<Option<Found>> {
    for volume in volumes_of(project, image).await? {
        let snapshots = project.history(&volume).snapshots().await?;
        let found = snapshots.into_iter().rev().find(|s| is_of(&s.snapshot, image, rbd_snap_id));
        if let Some(found) = found {
            return Ok(Some((volume, found)));
        }
    }
    Ok(None)
}

/// The volumes that were first made for an image. One that goes on under another's name is not found: that costs a full read.
async fn volumes_of(project: &Project, image: &Identity) -> Result<Vec<VolumeRecord>> {
    let catalog = project.volumes().once().await?;
    Ok(catalog.entries().iter().filter(|volume| volume.identity.is_same(image)).cloned().collect())
}

fn is_of(snapshot: &Snapshot, image: &Identity, rbd_snap_id: u64) -> bool {
    // 0 is what is not known.
    rbd_snap_id != 0
        && snapshot.identity.is_same(image)
        && snapshot.point.as_ref().is_some_and(|point| point.rbd_snap_id == rbd_snap_id)
}
