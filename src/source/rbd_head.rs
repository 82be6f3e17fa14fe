//! An RBD image as it is now, beside the snapshots that it still has.

use std::sync::Arc;

use super::rbd_held::{self, BackedUp};
use super::rbd_taken::told;
use super::rbd_target::Target;
use super::{ClonedFrom, Head, OriginPoint, Since, rbd_clone};
use crate::error::{Error, Result};
use crate::rbd::class::snap_context;
use crate::rbd::diff::judge::{Between, History, Verdict};
use crate::rbd::diff::{Comparison, End};
use crate::rbd::{Access, Cluster, Image, RbdSpec, Snapshot, advice};
use crate::volume::{Identity, SnapshotPoint};

type Distrust = dyn Fn() -> Result<()> + Send + Sync;

/// An image's head.
pub struct RbdHead {
    target: Target,
    image: Arc<Image>,
    snapshots: Vec<Snapshot>,
    distrust: Option<Box<Distrust>>,
}

impl RbdHead {
    /// Opens an image to read. What others write to it meanwhile is not seen.
    pub fn open(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        Self::of(Target::find(cluster, spec)?)
    }

    pub(super) fn of(target: Target) -> Result<Self> {
        let image = Arc::new(target.open(Access::ReadOnly)?);
        let snapshots = image.snapshots().list()?;
        Ok(Self { target, image, snapshots, distrust: None })
    }

    /// The image is about to be written. Where its object map cannot be relied upon, `distrust` makes that right before it is
    /// asked what changed: what a map hides from both ends would else be left below, and seen once the map is right.
    pub fn to_be_written(self, distrust: impl Fn() -> Result<()> + Send + Sync + 'static) -> Self {
        Self { distrust: Some(Box::new(distrust)), ..self }
    }

    pub(super) fn image(&self) -> &Arc<Image> {
        &self.image
    }

    fn snapshot(&self, point: &SnapshotPoint) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| s.id == point.rbd_snap_id && s.name == point.name)
    }
}

impl RbdHead {
    /// What holds a backup of the snapshot that this clone hangs on, if it does: what there was of its objects then.
    fn hangs_on(&self, from: &ClonedFrom, of: BackedUp<'_>) -> Result<Option<OriginPoint>> {
        let cloned_from = from.clone();
        if of.identity.is_same(&from.image)
            && let Some(point) = of.point.filter(|p| p.rbd_snap_id == from.rbd_snap_id && p.rbd_snap_id != 0)
        {
            return Ok(Some(OriginPoint { cloned_from, objects: point.objects.clone() }));
        }
        let mut noted = rbd_held::noted(&rbd_clone::open_parent_head(&self.target, from)?)?.into_iter();
        let noted = noted.find(|(id, point)| id == of.snapshot_id && point.rbd_snap_id == from.rbd_snap_id);
        Ok(noted.map(|(_, point)| OriginPoint { cloned_from, objects: point.objects }))
    }
}

impl Head for RbdHead {
    fn identity(&self) -> Result<Identity> {
        Ok(self.target.identity())
    }

    fn has(&self, point: &SnapshotPoint) -> bool {
        self.snapshot(point).is_some()
    }

    fn changed_since(&self, point: &SnapshotPoint) -> Result<Since> {
        let snapshot = self
            .snapshot(point)
            .cloned()
            .ok_or_else(|| Error::not_found(format!("{}: no snapshot {}", self.image.label(), point.name)))?;
        let base = End::at(Arc::new(self.target.open(Access::Snapshot(snapshot.id))?), snapshot);
        let compared = |between| -> Result<(Since, Verdict)> {
            let history = History { made: point.made.clone(), objects: Some(point.objects.clone()), between };
            let newer = End::now(Arc::clone(&self.image));
            let compare =
                || Comparison::new(&self.target.path(), newer.clone(), Some(base.clone()), &history);
            let mut comparison = compare()?;
            if let Some(distrust) = self.distrust.as_ref().filter(|_| *comparison.verdict() != Verdict::Fast)
            {
                distrust()?;
                comparison = compare()?;
            }
            let since = Since {
                size_bytes: comparison.size_bytes(),
                changes: comparison.changed()?,
                remark: comparison.remark(),
                check_command: Some(advice::check_map(&self.target.path(), None)),
            };
            Ok((since, comparison.verdict().clone()))
        };
        let before = snap_context(&self.image);
        let (since, verdict) = compared(match &before {
            Ok(before) => Between::Seen { before: before.clone(), after: before.clone() },
            Err(error) => Between::Unreadable(told(error)),
        })?;
        let (Verdict::Fast, Ok(before)) = (verdict, before) else { return Ok(since) };
        // The object maps were believed: was that right until the end?
        let after = snap_context(&self.image)?;
        if after == before {
            return Ok(since);
        }
        compared(Between::Seen { before, after }).map(|(since, _)| since)
    }

    fn restored(&self) -> Result<Vec<(String, SnapshotPoint)>> {
        rbd_held::noted(&self.image)
    }

    fn own(&self, origin: BackedUp<'_>) -> Result<Option<Since>> {
        let Some(from) = rbd_clone::cloned_from(&self.target, &self.image)? else { return Ok(None) };
        let Some(origin) = self.hangs_on(&from, origin)? else { return Ok(None) };
        let parent = rbd_clone::open_parent(&self.target, &from)?;
        let path = self.target.path();
        let compare = || {
            let newer = End::now(Arc::clone(&self.image));
            Comparison::with_parent(&path, newer, &parent, &origin.objects)
        };
        let mut comparison = compare()?;
        if let Some(distrust) = self.distrust.as_ref().filter(|_| *comparison.verdict() != Verdict::Fast) {
            distrust()?;
            comparison = compare()?;
        }
        Ok(Some(Since {
            size_bytes: comparison.size_bytes(),
            changes: comparison.changed()?,
            remark: comparison.remark(),
            check_command: Some(advice::check_map(&path, None)),
        }))
    }
}
