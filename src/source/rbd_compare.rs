//! An image that a backup is compared with.

use std::sync::Arc;

use super::rbd::RbdReader;
use super::rbd_snapshots::OwnSnapshots;
use super::rbd_target::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::{Access, Cluster, RbdSpec, Snapshot, migration, watchers};
use crate::volume::{Identity, SnapshotPoint};

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Comparison<'a> {
    /// Who was backed up.
    pub identity: &'a Identity,
    /// The snapshot that was read for it.
    pub point: Option<&'a SnapshotPoint>,
    /// Name for a snapshot that is made for this.
    pub own_name: &'a str,
    /// Whether the image is read as it is now, which others may change meanwhile.
    pub as_it_is: bool,
}

/// An image, or a snapshot of it, open to be read.
pub struct Compared {
    own: OwnSnapshots,
    reader: Arc<RbdReader>,
    /// The snapshot that is read; `None` where it is the image as it is.
    snapshot: Option<Snapshot>,
    /// Whether it was made for this.
    made: bool,
}

impl Compared {
    /// Opens the snapshot that is named, or the one that the backup was read from. An image that is another one than was backed
    /// up (it was restored) has no such snapshot: then one is made, and removed by [`Compared::end`].
    pub fn open(cluster: &Cluster, spec: &RbdSpec, comparison: Comparison<'_>) -> Result<Self> {
        let target = Target::find(cluster, &RbdSpec { snapshot: None, ..spec.clone() })?;
        let own = OwnSnapshots { target, keep_locks: false };
        if comparison.as_it_is && spec.snapshot.is_none() {
            let reader = Arc::new(RbdReader::new(Arc::new(own.target.open(Access::ReadOnly)?))?);
            return Ok(Self { own, reader, snapshot: None, made: false });
        }
        match find(&own.target, spec, comparison)? {
            Some(snapshot) => Self::of(own, snapshot, false),
            None => {
                let snapshot = make(&own, comparison.own_name)?;
                let opened = Self::of(own.clone(), snapshot.clone(), true);
                if opened.is_err()
                    && let Err(left) = own.remove(|s| *s == snapshot)
                {
                    tracing::warn!("{left}");
                }
                opened
            }
        }
    }

    fn of(own: OwnSnapshots, snapshot: Snapshot, made: bool) -> Result<Self> {
        let image = own.target.open(Access::Snapshot(snapshot.id))?;
        let reader = Arc::new(RbdReader::new(Arc::new(image))?);
        Ok(Self { own, reader, snapshot: Some(snapshot), made })
    }

    /// Reads what is compared: the snapshot, or the image as it is now.
    pub fn reader(&self) -> Arc<RbdReader> {
        Arc::clone(&self.reader)
    }

    /// Whether what was read still stands: a snapshot may be removed meanwhile, and the image as it is may change.
    pub fn check(&self) -> Result<()> {
        let path = self.own.target.path();
        let Some(read) = &self.snapshot else {
            let watchers = watchers(&self.own.target.open(Access::ReadOnly)?)?;
            return match watchers.first() {
                Some(watcher) => {
                    Err(Error::conflict(format!("{path} is open elsewhere, by {watcher}, and may change")))
                }
                None => Ok(()),
            };
        };
        match self.own.target.open(Access::ReadOnly)?.snapshots().list()?.contains(read) {
            true => Ok(()),
            false => Err(Error::conflict(format!(
                "snapshot {} of {path} was removed while it was read",
                read.name
            ))),
        }
    }

    /// Removes the snapshot that was made for this.
    pub fn end(&self) -> Result<()> {
        match &self.snapshot {
            Some(made) if self.made => self.own.remove(|s| s == made),
            _ => Ok(()),
        }
    }
}

/// The snapshot that is there to be compared; `None` where one is to be made.
fn find(target: &Target, spec: &RbdSpec, comparison: Comparison<'_>) -> Result<Option<Snapshot>> {
    let (name, id) = match (&spec.snapshot, comparison.point) {
        (Some(named), _) => (named, None),
        (None, Some(point)) => (&point.name, Some(point.rbd_snap_id).filter(|id| *id != 0)),
        (None, None) => return Ok(None),
    };
    let image = target.open(Access::ReadOnly)?;
    let present = image.snapshots().list()?;
    if let Some(found) = present.into_iter().find(|s| s.name == *name && id.is_none_or(|id| s.id == id)) {
        return Ok(Some(found));
    }
    let path = target.path();
    if spec.snapshot.is_none() && target.identity() != *comparison.identity {
        return match migration::source(&image)? {
            None => Ok(None),
            Some(_) => Err(Error::conflict(format!(
                "{path} is under live migration: no snapshot can be made for this"
            ))
            .help("end the migration first, or compare the image as it is now: --as-it-is")),
        };
    }
    let id = id.map(|id| format!(" (id {id})")).unwrap_or_default();
    Err(Error::not_found(format!("no snapshot {name}{id} of image {path}")).help(
        "of its own snapshots cuttle keeps the newest only: compare the newest backup, or, with --as-it-is, the image as it is now",
    ))
}

fn make(own: &OwnSnapshots, name: &str) -> Result<Snapshot> {
    own.make(name, "").map(|taken| taken.snapshot).map_err(|error| match error.kind() {
        ErrorKind::Invalid => error
            .context("make a snapshot to compare with")
            .help("that needs a right to write to the pool; without, compare the image as it is: --as-it-is"),
        _ => error.context("make a snapshot to compare with"),
    })
}
