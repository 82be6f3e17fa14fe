//! Rewind: a target that still has a snapshot which a backup was made from need not be read to know what it holds.
//!
//! What did not change since that snapshot is what that backup says. It is not believed blindly: some of it is read, and
//! where that is not so, all of the target is.

use std::sync::Arc;

use crate::cpu;
use crate::error::{ErrorKind, Result};
use crate::format::record::Snapshot;
use crate::progress::Progress;
use crate::reading::local::LocalReader;
use crate::repo::Project;
use crate::repo::log::SnapshotEntry;
use crate::restore::known::Known;
use crate::source::{Head, Since};

/// A backup whose snapshot the target has, and what the target changed since.
#[derive(Debug, Clone)]
pub struct Rewind {
    pub base: Snapshot,
    pub since: Since,
}

/// Finds the newest backup of the volume that was made from a snapshot which the target still has. `Err` within says why
/// the whole target must be read instead.
pub async fn find(
    project: &Project,
    snapshot: &SnapshotEntry,
    head: Arc<dyn Head>,
) -> Result<std::result::Result<Rewind, String>> {
    let catalog = project.confirmed_catalog().await?;
    let Some(volume) = catalog.by_number(snapshot.snapshot.volume) else {
        return Ok(Err("the volume is not in the catalog".to_owned()));
    };
    let backups = match project.snapshots(volume).await {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            return Ok(Err(format!("the volume's backups cannot all be read: {error}")));
        }
        backups => backups?,
    };
    let identity = head.identity()?;
    let usable = |backup: &&SnapshotEntry| {
        let point = backup.snapshot.point.as_ref();
        // A stream does not say which snapshot it was.
        backup.snapshot.identity == identity && point.is_some_and(|p| p.rbd_snap_id != 0 && head.has(p))
    };
    let Some((base, point)) = backups
        .iter()
        .rev()
        .find(usable)
        .and_then(|b| b.snapshot.point.clone().map(|point| (b.snapshot.clone(), point)))
    else {
        return Ok(Err("the target has no snapshot that a backup of this volume was made from".to_owned()));
    };
    let since = cpu::block(move || head.changed_since(&point)).await?;
    Ok(Ok(Rewind { base, since }))
}

/// What the target holds by that, unless a look at some of it says otherwise.
pub(crate) async fn known(
    target: &LocalReader,
    snapshot: &SnapshotEntry,
    rewind: &Rewind,
    progress: &dyn Progress,
) -> Result<Option<Known>> {
    if rewind.base.chunk_size_bytes != snapshot.snapshot.chunk_size_bytes {
        return Ok(None);
    }
    let geometry = snapshot.snapshot.geometry()?;
    let known = Known::rewind(&target.project, rewind, geometry)?;
    let (cursor, seed) = (rewind.base.sample_cursor, snapshot.snapshot_id);
    if let Some(index) = known.contradicted(target, geometry, cursor, seed).await? {
        let at = geometry.offset_bytes(index);
        let name = rewind.base.point.as_ref().map_or("", |p| p.name.as_str());
        progress.warn(&format!(
            "the target differs at offset {at} from the backup of its snapshot {name}, though it says that nothing changed \
             there since: all of it is read and compared. See `rbd object-map check`, and `cuttle verify --against`"
        ));
        return Ok(None);
    }
    Ok(Some(known))
}

#[cfg(test)]
mod tests;
