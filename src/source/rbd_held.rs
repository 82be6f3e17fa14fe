//! RBD snapshots that are known to hold what a backup says, so that clones may be made of them.
//!
//! Never by name. What proves it is one of two:
//!
//! - It is the very snapshot that was read for the backup: cluster, image and snapshot have the ids that the record has, and Ceph gives
//!   none of these twice.
//! - cuttle made it, right when it had restored all of that backup and made it durable, and while it still kept others from writing; then,
//!   and not sooner, it noted so on the image, under the ids of image and snapshot. What is written to the image later is not in the
//!   snapshot, and a note that was copied to another image names the wrong one.
//!
//! In both cases librbd must find its objects by the same map as then, or show other bytes.

use std::sync::Arc;

use crate::error::{ErrorKind, Result};
use crate::rbd::diff::{End, objects_of, reads_as_recorded};
use crate::rbd::{Access, CloneOf, Cluster, Image, ImageParent, OpenBy, Pool, RbdSpec, Snapshot, name_now};
use crate::units::{hex, hex_into};
use crate::volume::{Identity, ObjectsBy, SnapshotPoint};

/// Image metadata keys that begin so are cuttle's own, and belong to one image, not to its content.
pub const OWN_METADATA_PREFIX: &str = "cuttle.";
/// How the keys of the notes go on, before the ids of image and snapshot.
const NOTE: &str = "snapshot.";
const ASKING: &str = "objects";
const MAP: &str = "map:";

/// What a backup is known again by on a cluster.
#[derive(Debug, Clone, Copy)]
pub struct BackedUp<'a> {
    /// Its snapshot id, in hexadecimal digits.
    pub snapshot_id: &'a str,
    /// Of what was read.
    pub identity: &'a Identity,
    /// The snapshot that was read.
    pub point: Option<&'a SnapshotPoint>,
}

/// A snapshot that holds a backup.
#[derive(Debug, Clone)]
pub struct Held {
    pool: Pool,
    /// As its image is called now.
    image: String,
    image_id: String,
    snapshot: Snapshot,
}

impl Held {
    /// Looks for it: the very image that was backed up, and those images of which it may be that a backup was restored to them.
    pub fn find(cluster: &Cluster, of: BackedUp<'_>, places: &[RbdSpec]) -> Result<Option<Self>> {
        // What was put where the user wants it comes first.
        for spec in places {
            let Some(image) = absent_is_none(open_named(cluster, spec))? else { continue };
            for (_, point) in noted(&image)?.iter().filter(|(id, _)| id == of.snapshot_id) {
                if let Some(held) = Self::of(&image, point)? {
                    return Ok(Some(held));
                }
            }
        }
        let Identity::Rbd { cluster_fsid, pool, namespace, image: name, image_id: id } = of.identity else {
            return Ok(None);
        };
        let Some(point) = of.point.filter(|point| point.rbd_snap_id != 0 && cluster_fsid == cluster.fsid())
        else {
            return Ok(None);
        };
        let open = || Image::open(&cluster.pool(pool, namespace)?, OpenBy::Id { name, id }, Access::ReadOnly);
        let Some(image) = absent_is_none(open())? else { return Ok(None) };
        Self::of(&image, point)
    }

    /// The snapshot of that id, where the image still has it under a name and it reads as it did.
    fn of(image: &Image, point: &SnapshotPoint) -> Result<Option<Self>> {
        let (pool, image_id, name) = (image.pool().clone(), image.id()?, name_now(image)?);
        let Some(snapshot) = image.snapshots().list()?.into_iter().find(|s| s.id == point.rbd_snap_id) else {
            return Ok(None);
        };
        // One that lies in the trash has no name to be cloned by.
        let named = absent_is_none(Image::open(&pool, OpenBy::Name(&name), Access::ReadOnly))?;
        if named.map(|named| named.id()).transpose()?.is_none_or(|id| id != image_id) {
            return Ok(None);
        }
        let by_id = OpenBy::Id { name: &name, id: &image_id };
        let opened = Arc::new(Image::open(&pool, by_id, Access::Snapshot(snapshot.id))?);
        let same = reads_as_recorded(&End::at(opened, snapshot.clone()), &point.objects)?;
        Ok(same.then_some(Self { pool, image: name, image_id, snapshot }))
    }

    /// How librbd is told of it.
    pub fn clone_of(&self) -> CloneOf<'_> {
        CloneOf { pool: &self.pool, image: &self.image, snapshot: &self.snapshot.name }
    }

    /// Whether it is what a clone hangs on.
    pub fn is(&self, parent: &ImageParent) -> bool {
        (parent.pool.as_str(), parent.namespace.as_str()) == (self.pool.name(), self.pool.namespace())
            && (parent.image_id.as_str(), parent.snapshot_id) == (self.image_id.as_str(), self.snapshot.id)
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.pool.path(), self.image, self.snapshot.name)
    }
}

/// Notes that a snapshot, just made of what was restored, holds a backup.
pub(crate) fn note(image: &Image, snapshot: &Snapshot, snapshot_id: &str) -> Result<()> {
    let id = image.id()?;
    let opened =
        Image::open(image.pool(), OpenBy::Id { name: image.name(), id: &id }, Access::Snapshot(snapshot.id))?;
    let objects = match objects_of(&End::at(Arc::new(opened), snapshot.clone()))? {
        ObjectsBy::Map { digest } => format!("{MAP}{}", hex(&digest)),
        ObjectsBy::Asking | ObjectsBy::Unknown => ASKING.to_owned(),
    };
    image.metadata().set(&key(&id, snapshot.id), &format!("{snapshot_id} {objects}"))
}

/// Whether a metadata key is such a note: it stays true whatever is written to the image.
pub(crate) fn is_note(key: &str) -> bool {
    key.strip_prefix(OWN_METADATA_PREFIX).is_some_and(|key| key.starts_with(NOTE))
}

/// The snapshots of an image that are noted to hold backups, and that it still has; with the ids of these, in hexadecimal digits.
pub(crate) fn noted(image: &Image) -> Result<Vec<(String, SnapshotPoint)>> {
    let (notes, id) = (image.metadata().list()?, image.id()?);
    let point = |snapshot: Snapshot| {
        let wanted = key(&id, snapshot.id);
        let (_, value) = notes.iter().find(|(key, _)| *key == wanted)?;
        let (held, objects) = value.split_once(' ')?;
        let objects = read_objects(objects)?;
        let point =
            SnapshotPoint { rbd_snap_id: snapshot.id, objects, ..SnapshotPoint::named(snapshot.name) };
        Some((held.to_owned(), point))
    };
    Ok(image.snapshots().list()?.into_iter().filter_map(point).collect())
}

fn key(image_id: &str, rbd_snap_id: u64) -> String {
    format!("{OWN_METADATA_PREFIX}{NOTE}{image_id}.{rbd_snap_id}")
}

fn read_objects(text: &str) -> Option<ObjectsBy> {
    if text == ASKING {
        return Some(ObjectsBy::Asking);
    }
    let mut digest = [0; 32];
    hex_into(text.strip_prefix(MAP)?, &mut digest).ok()?;
    Some(ObjectsBy::Map { digest })
}

fn open_named(cluster: &Cluster, spec: &RbdSpec) -> Result<Image> {
    Image::open(&cluster.pool(&spec.pool, &spec.namespace)?, OpenBy::Name(&spec.image), Access::ReadOnly)
}

fn absent_is_none(opened: Result<Image>) -> Result<Option<Image>> {
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}
