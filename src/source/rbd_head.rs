//! An RBD image as it is now, beside the snapshots that it still has.

use std::sync::Arc;

use super::rbd::Target;
use super::rbd_changes::{Base, DiffPlan};
use super::{Changes, Head, Since};
use crate::error::{Error, Result};
use crate::rbd::{Access, Cluster, Image, RbdSpec, Snapshot};
use crate::volume::{Identity, SnapshotPoint};

/// An image's head.
pub struct RbdHead {
    target: Target,
    image: Arc<Image>,
    snapshots: Vec<Snapshot>,
}

impl RbdHead {
    /// Opens an image to read. What others write to it meanwhile is not seen.
    pub fn open(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        let target = Target::find(cluster, spec)?;
        let image = Arc::new(target.open(Access::ReadOnly)?);
        let snapshots = image.snapshots()?;
        Ok(Self { target, image, snapshots })
    }

    fn snapshot(&self, point: &SnapshotPoint) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| s.id == point.rbd_snap_id && s.name == point.name)
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
        let size_bytes = self.image.size_bytes()?;
        let base = Base { image: Arc::new(self.target.open(Access::Snapshot(snapshot.id))?), snapshot };
        // No snapshot has this id: the head is compared.
        let head = Snapshot { id: u64::MAX, name: "as it is now".into(), size_bytes };
        let plan = DiffPlan::new(Arc::clone(&self.image), head, Some(base))?;
        let note = plan.note();
        match plan.changes()? {
            Changes::Since(changes) => Ok(Since { size_bytes, changes, note }),
            Changes::All(_) => Err(Error::internal("a diff to a snapshot came without it")),
        }
    }
}
