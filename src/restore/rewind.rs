//! Rewind: a target that still has a snapshot which a backup was made from need not be read to know what it holds.
//!
//! What did not change since that snapshot is what that backup says. It is not believed blindly: some of it is read, and
//! where that is not so, all of the target is.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::chunker::{self, Span, Unlisted};
use crate::cpu;
use crate::error::{ErrorKind, Result};
use crate::format::REFS_PER_PAGE;
use crate::format::record::Snapshot;
use crate::plan::restore::{Local, Window};
use crate::progress::Progress;
use crate::reading::local::LocalReader;
use crate::reading::sample;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::repo::origin;
use crate::source::rbd_held::BackedUp;
use crate::source::{Content, Extent, Head, Since};
use crate::units::{ChunkIndex, Geometry};

/// A backup whose snapshot the target has, and what the target changed since.
#[derive(Debug, Clone)]
pub struct Rewind {
    /// What that backup says, from which the rest follows.
    pub base: Snapshot,
    /// What the target changed since that snapshot.
    pub since: Since,
}

/// Finds the newest backup of the volume that was made from a snapshot which the target still has, or that a snapshot was made of when
/// it was restored to the target; or the origin, where the target is a clone of that. `Err` within says why the whole target must be
/// read instead.
pub async fn find(
    project: &Project,
    snapshot: &SnapshotEntry,
    head: Arc<dyn Head>,
) -> Result<std::result::Result<Rewind, String>> {
    let catalog = project.volumes().confirmed().await?;
    let Some(volume) = catalog.by_number(snapshot.snapshot.volume) else {
        return Ok(Err("the volume is not in the catalog".to_owned()));
    };
    let backups = match project.history(volume).snapshots().await {
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
    let own = backups.iter().rev().find(usable);
    let own = own.and_then(|b| b.snapshot.point.clone().map(|point| (b.snapshot.clone(), point)));
    let is_own = own.is_some();
    let restored = match own {
        Some(_) => own,
        None => {
            let head = Arc::clone(&head);
            let noted = cpu::block(move || head.restored()).await?;
            let point = |b: &SnapshotEntry| noted.iter().find(|(id, _)| *id == b.snapshot_id.to_string());
            backups.iter().rev().find_map(|b| Some((b.snapshot.clone(), point(b)?.1.clone())))
        }
    };
    let Some((base, point)) = restored else {
        return match own_of_clone(project, snapshot, head).await? {
            Some(rewind) => Ok(Ok(rewind)),
            None => {
                Ok(Err("the target has no snapshot that a backup of this volume was made from".to_owned()))
            }
        };
    };
    let mut since = cpu::block(move || head.changed_since(&point)).await?;
    if !is_own {
        // No backup recorded what there was when a restore made it, so the slow diff is the rule, and no news.
        since.remark = None;
    }
    Ok(Ok(Rewind { base, since }))
}

/// What the target has of its own, where it is a clone of what holds the snapshot's origin.
async fn own_of_clone(
    project: &Project,
    snapshot: &SnapshotEntry,
    head: Arc<dyn Head>,
) -> Result<Option<Rewind>> {
    let Some((_, origin)) = origin::of(project, &snapshot.snapshot).await? else { return Ok(None) };
    let (id, record) = (origin.snapshot_id.to_string(), origin.snapshot.clone());
    let own = move || {
        let (identity, point) = (&record.identity, record.point.as_ref());
        head.own(BackedUp { snapshot_id: &id, identity, point })
    };
    Ok(cpu::block(own).await?.map(|since| Rewind { base: origin.snapshot, since }))
}

/// Whether a target that is said to hold a snapshot does, where some of it is looked at.
pub(crate) async fn agrees(
    target: &LocalReader,
    snapshot: &SnapshotEntry,
    holds: &Snapshot,
    progress: &dyn Progress,
) -> Result<bool> {
    let since = Since {
        size_bytes: snapshot.snapshot.size_bytes,
        changes: Vec::new(),
        remark: None,
        check_command: None,
    };
    let rewind = Rewind { base: holds.clone(), since };
    plan(target, snapshot, Some(&rewind), progress).await.map(|agreed| agreed.is_some())
}

/// The backup that the target holds but for some spans, and these; `None` where there is none, or where a look at some of the
/// target says otherwise.
pub(crate) async fn plan<'a>(
    target: &LocalReader,
    snapshot: &SnapshotEntry,
    rewind: Option<&'a Rewind>,
    progress: &dyn Progress,
) -> Result<Option<(&'a Snapshot, Vec<Span>)>> {
    let geometry = snapshot.snapshot.geometry()?;
    let Some(Rewind { base, since }) =
        rewind.filter(|rewind| rewind.base.chunk_size_bytes == geometry.chunk_size_bytes)
    else {
        return Ok(None);
    };
    let spans = spans(since, geometry);
    let manifest = Manifest::of(&target.project, base)?;
    let chosen = sample::choose(&manifest, &spans, base.sample_cursor, snapshot.snapshot_id).await?;
    let Some(index) = contradicted(target, &manifest, geometry, chosen.chunks).await? else {
        return Ok(Some((base, spans)));
    };
    let at = geometry.offset_bytes(index);
    let name = base.point.as_ref().map_or("", |p| p.name.as_str());
    let check = since.check_command.as_ref().map(|command| format!(". See `{command}`")).unwrap_or_default();
    progress.warn(&format!(
        "the target differs at offset {at} from the backup of its snapshot {name}, though nothing is said to have changed \
         there since: all of it is read and compared{check}"
    ));
    Ok(None)
}

/// Where a target may differ from the backup, once it has this geometry.
fn spans(since: &Since, geometry: Geometry) -> Vec<Span> {
    let mut changes = since.changes.clone();
    // Where the target ends too early it has nothing yet; it is read as what it will be when it has grown.
    if since.size_bytes < geometry.size_bytes {
        let (offset_bytes, length_bytes) = (since.size_bytes, geometry.size_bytes - since.size_bytes);
        changes.push(Extent { offset_bytes, length_bytes, content: Content::Zero });
    }
    chunker::spans(&changes, geometry, Unlisted::Unchanged, &BTreeSet::new())
}

/// The first of some chunks of which the target holds something else than the manifest says.
async fn contradicted(
    target: &LocalReader,
    manifest: &Manifest,
    geometry: Geometry,
    chunks: Vec<ChunkIndex>,
) -> Result<Option<ChunkIndex>> {
    let base = manifest.geometry();
    for index in chunks {
        if base.chunk_len_bytes(index) != geometry.chunk_len_bytes(index) {
            continue;
        }
        let (leaf, at) = (index.0 / REFS_PER_PAGE as u64, (index.0 % REFS_PER_PAGE as u64) as usize);
        let window = Window::of_leaves(base, leaf, vec![manifest.leaf(leaf).await?]);
        let mut known = vec![Some(Local::Zero); window.chunks().count()];
        if let Some(place) = known.get_mut(at) {
            *place = None;
        }
        let found = target.look_where(&window, known).await?;
        let expected = window.get(index).id().map_or(Local::Zero, Local::Content);
        if found.get(at) != Some(&expected) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
