//! RBD images as volumes: a snapshot holds the content still, and its diff to an earlier one finds what changed.

use std::sync::Arc;

use super::rbd_taken::{Before, Taken};
use super::{Changes, FreezeRequest, Frozen, ReadAt, Volume};
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::advice;
use crate::rbd::diff::judge::{Verdict, Why};
use crate::rbd::diff::{Comparison, End};
use crate::rbd::{Access, Cluster, Image, OpenBy, Pool, RbdSpec, Snapshot, features};
use crate::volume::{Identity, ImageLayout, Made, SnapshotPoint};

/// Image metadata keys that begin so are cuttle's own, and belong to one image, not to its content.
pub const OWN_METADATA_PREFIX: &str = "cuttle.";
/// Image metadata key of an unfinished restore; its value is what is being restored.
pub const MARK: &str = "cuttle.restore";
/// Image metadata key of an unfinished restore that made the image, and so owes it the recorded metadata too.
pub(crate) const MARK_MADE: &str = "cuttle.restore_made";

/// An image's head or snapshot, to be read anywhere by many threads.
pub struct RbdReader {
    image: Arc<Image>,
    size_bytes: u64,
}

impl RbdReader {
    pub fn new(image: Arc<Image>) -> Result<Self> {
        let size_bytes = image.size_bytes()?;
        Ok(Self { image, size_bytes })
    }

    /// Opens the named snapshot of an image; where none is named, the one that a backup was read from.
    pub fn of_snapshot(cluster: &Cluster, spec: &RbdSpec, point: Option<&SnapshotPoint>) -> Result<Self> {
        let (name, id) = match (&spec.snapshot, point) {
            (Some(named), _) => (named, None),
            (None, Some(point)) => (&point.name, Some(point.rbd_snap_id).filter(|id| *id != 0)),
            (None, None) => {
                return Err(Error::invalid(format!(
                    "{spec}: the backup does not say of which snapshot it is"
                ))
                .help(format!("name it: {spec}@SNAP")));
            }
        };
        let pool = cluster.pool(&spec.pool, &spec.namespace)?;
        let present = Image::open(&pool, OpenBy::Name(&spec.image), Access::ReadOnly)?.snapshots()?;
        let found = present.iter().find(|s| s.name == *name && id.is_none_or(|id| s.id == id));
        let snapshot = found.ok_or_else(|| {
            let id = id.map(|id| format!(" (id {id})")).unwrap_or_default();
            Error::not_found(format!("no snapshot {name}{id} of image {}", spec.path()))
                .help("of its own snapshots cuttle keeps the newest only: compare the newest backup")
        })?;
        let image = Image::open(&pool, OpenBy::Name(&spec.image), Access::Snapshot(snapshot.id))?;
        Self::new(Arc::new(image))
    }

    /// Opens an image as it is now, or the snapshot that is named.
    pub fn of_image(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        if spec.snapshot.is_some() {
            return Self::of_snapshot(cluster, spec, None);
        }
        let pool = cluster.pool(&spec.pool, &spec.namespace)?;
        Self::new(Arc::new(Image::open(&pool, OpenBy::Name(&spec.image), Access::ReadOnly)?))
    }

    /// Opens the very image that a backup was read from: its snapshot, or the image as it is now.
    pub fn of_origin(cluster: &Cluster, identity: &Identity, point: Option<&SnapshotPoint>) -> Result<Self> {
        let Identity::Rbd { cluster_fsid, pool, namespace, image, image_id } = identity else {
            return Err(Error::invalid(format!("{identity}: expected an RBD image")));
        };
        if cluster.fsid() != cluster_fsid {
            return Err(Error::not_found(format!("{identity}: this cluster is {}", cluster.fsid())));
        }
        let pool = cluster.pool(pool, namespace)?;
        let open = |access| Image::open(&pool, OpenBy::Id { name: image, id: image_id }, access);
        let head = open(Access::ReadOnly)?;
        let Some(SnapshotPoint { name, rbd_snap_id: id, .. }) = point else {
            return Self::new(Arc::new(head));
        };
        let snapshots = head.snapshots()?;
        let found = snapshots.iter().find(|s| s.name == *name && (*id == 0 || s.id == *id));
        let found = found.ok_or_else(|| Error::not_found(format!("no snapshot {name} of {identity}")))?;
        Self::new(Arc::new(open(Access::Snapshot(found.id))?))
    }
}

impl ReadAt for RbdReader {
    fn reads_inflight(&self) -> usize {
        8
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset_bytes.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            return Err(Error::invalid(format!(
                "{}: reading {} bytes at {offset_bytes}: expected to end within {} bytes",
                self.image.label(),
                buf.len(),
                self.size_bytes
            )));
        }
        self.image.read_at(offset_bytes, buf)
    }
}

/// An image, found, before anything of it was read.
#[derive(Debug)]
pub struct RbdVolume {
    target: Target,
    /// The snapshot that the user named.
    named: Option<String>,
}

/// The image itself, whatever it is called meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pool: Pool,
    name: String,
    id: String,
}

impl Target {
    /// Finds an image. `*` must have been expanded ([`RbdSpec::expand`]).
    pub(super) fn find(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        if spec.is_all() {
            return Err(Error::internal(format!("{spec} was not expanded")));
        }
        let pool = cluster.pool(&spec.pool, &spec.namespace)?;
        let id = Image::open(&pool, OpenBy::Name(&spec.image), Access::ReadOnly)?.id()?;
        Ok(Self { pool, name: spec.image.clone(), id })
    }

    pub(super) fn open(&self, access: Access) -> Result<Image> {
        Image::open(&self.pool, OpenBy::Id { name: &self.name, id: &self.id }, access)
    }

    /// `pool/[namespace/]image`
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.pool.path(), self.name)
    }

    pub(super) fn identity(&self) -> Identity {
        Identity::Rbd {
            cluster_fsid: self.pool.cluster().fsid().to_owned(),
            pool: self.pool.name().to_owned(),
            namespace: self.pool.namespace().to_owned(),
            image: self.name.clone(),
            image_id: self.id.clone(),
        }
    }
}

impl RbdVolume {
    /// Finds an image. `*` must have been expanded ([`RbdSpec::expand`]).
    pub fn open(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        Ok(Self { target: Target::find(cluster, spec)?, named: spec.snapshot.clone() })
    }

    /// The snapshot to read: the named one, or a new one.
    fn take_snapshot(&self, request: &FreezeRequest) -> Result<Taken> {
        let Some(named) = &self.named else {
            if !request.own_name.starts_with(&request.own_prefix) || request.own_prefix.is_empty() {
                let (name, prefix) = (&request.own_name, &request.own_prefix);
                return Err(Error::internal(format!(
                    "snapshot name {name:?}: expected to begin with {prefix:?}"
                )));
            }
            // Closed again at once, so that the exclusive lock is not held while guests want to write.
            let image = self.target.open(Access::ReadWrite)?;
            let before = Before::look(&self.target, &image, &request.own_prefix)?;
            let snapshot = image.create_snapshot(&request.own_name)?;
            return Ok(before.made(&image, snapshot));
        };
        let snapshots = self.target.open(Access::ReadOnly)?.snapshots()?;
        snapshots.into_iter().find(|s| s.name == *named).map(Taken::found).ok_or_else(|| {
            Error::not_found(format!("no snapshot {named:?} of image {}", self.target.path()))
                .help(format!("see `{}`", advice::list_snapshots(&self.target.path())))
        })
    }

    fn freeze_at(&self, taken: Taken, request: &FreezeRequest) -> Result<RbdFrozen> {
        let (snapshot, path) = (taken.snapshot.clone(), self.target.path());
        let image = Arc::new(self.target.open(Access::Snapshot(snapshot.id))?);
        let (layout, mut notes) = read_layout(&image)?;
        let base = match &request.parent {
            None => None,
            Some(parent) => match self.find_base(&image, &snapshot, parent)? {
                Ok(base) => Some(base),
                Err(why) => {
                    notes.push(format!("{path}: all is read: {why}"));
                    None
                }
            },
        };
        let base_made = request.parent.as_ref().and_then(|parent| parent.made.clone());
        let newer = End::at(Arc::clone(&image), snapshot.clone());
        let comparison = Comparison::new(&path, newer, base, &taken.history(base_made))?;
        notes.extend(comparison.note().map(|note| format!("{path}: {note}")));
        // Where nothing rests on it tonight, the next night will.
        if let (Some(why), false) = (taken.unreadable(), said_unreadable(&comparison)) {
            notes.push(format!("{path}: the next backup will use the slow diff: {why}"));
        }
        Ok(RbdFrozen {
            target: self.target.clone(),
            own_prefix: request.own_prefix.clone(),
            made_here: self.named.is_none(),
            reader: Arc::new(RbdReader::new(image)?),
            snapshot,
            layout,
            made: taken.made,
            comparison,
            notes,
        })
    }

    /// The parent's snapshot on this image, or why it cannot serve.
    fn find_base(
        &self,
        image: &Image,
        snapshot: &Snapshot,
        parent: &SnapshotPoint,
    ) -> Result<Result<End, String>> {
        let SnapshotPoint { name, rbd_snap_id: id, .. } = parent;
        if *id == 0 {
            return Ok(Err(format!(
                "the last backup came from a stream, which does not say which snapshot {name:?} was"
            )));
        }
        let snapshots = image.snapshots()?;
        let found = snapshots.iter().find(|s| s.id == *id && s.name == *name);
        let Some(found) = found else {
            let other = snapshots.iter().find(|s| s.name == *name);
            return Ok(Err(match other {
                Some(other) => format!(
                    "snapshot {name} is another one now: expected id {id} as in the last backup, found id {}",
                    other.id
                ),
                None => format!("snapshot {name} (id {id}) of the last backup is gone"),
            }));
        };
        if found.id > snapshot.id {
            let taken = &snapshot.name;
            return Ok(Err(format!(
                "snapshot {name} of the last backup is newer than {taken}, which is read now"
            )));
        }
        match self.target.open(Access::Snapshot(found.id)) {
            Ok(base) => Ok(Ok(End::at(Arc::new(base), found.clone()))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Err(format!("snapshot {name} (id {id}) of the last backup was removed just now")))
            }
            Err(error) => Err(error),
        }
    }
}

impl Volume for RbdVolume {
    fn identity(&self) -> Result<Identity> {
        Ok(self.target.identity())
    }

    fn freeze(&self, request: &FreezeRequest) -> Result<Box<dyn Frozen>> {
        let taken = self.take_snapshot(request)?;
        let snapshot = taken.snapshot.clone();
        match self.freeze_at(taken, request) {
            Ok(frozen) => Ok(Box::new(frozen)),
            Err(error) => {
                if self.named.is_none()
                    && let Err(left) = remove_snapshot(&self.target, &snapshot)
                {
                    tracing::warn!("{left}");
                }
                Err(error)
            }
        }
    }
}

/// An image's snapshot, open.
struct RbdFrozen {
    target: Target,
    own_prefix: String,
    /// Whether `freeze` made the snapshot.
    made_here: bool,
    /// What was seen then.
    made: Option<Made>,
    snapshot: Snapshot,
    reader: Arc<RbdReader>,
    layout: ImageLayout,
    comparison: Comparison,
    notes: Vec<String>,
}

impl Frozen for RbdFrozen {
    fn layout(&self) -> ImageLayout {
        self.layout.clone()
    }

    fn point(&self) -> Option<SnapshotPoint> {
        let own = self.made_here || is_own(&self.snapshot.name, &self.own_prefix);
        let (name, made) = (self.snapshot.name.clone(), self.made.clone());
        Some(SnapshotPoint { name, rbd_snap_id: self.snapshot.id, own, made })
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        self.reader.clone()
    }

    fn changes(&self) -> Result<Changes> {
        let changed = self.comparison.changed()?;
        let all =
            self.comparison.base().is_none() || matches!(self.comparison.verdict(), Verdict::ReadAll(_));
        Ok(if all { Changes::All(changed) } else { Changes::Since(changed) })
    }

    fn base_reader(&self) -> Option<Arc<dyn ReadAt>> {
        let (image, snapshot) = self.comparison.base()?;
        Some(Arc::new(RbdReader { image: Arc::clone(image), size_bytes: snapshot.size_bytes }))
    }

    fn check_command(&self) -> Option<String> {
        Some(advice::check_map(&self.target.path(), Some(&self.snapshot.name)))
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }

    fn check(&self) -> Result<()> {
        // A handle that is open to read does not learn of removals, so look with a new one.
        let present = self.target.open(Access::ReadOnly)?.snapshots()?;
        let base = self.comparison.base().map(|(_, base)| base);
        for read in [Some(&self.snapshot), base].into_iter().flatten() {
            if !present.iter().any(|s| s.id == read.id) {
                let help = match is_own(&read.name, &self.own_prefix) {
                    true => {
                        "most likely another backup of this volume has ended meanwhile and tidied up: its snapshot \
                         stands, nothing of this run counts; let only one run at a time"
                    }
                    false => {
                        "nothing of this run counts; back up again, and keep the snapshot until it has ended"
                    }
                };
                let (name, id, path) = (&read.name, read.id, self.target.path());
                let what = format!("snapshot {name} (id {id}) of {path} was removed while it was read");
                return Err(Error::conflict(what).help(help));
            }
        }
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        let image = self.target.open(Access::ReadWrite)?;
        let older = |s: &Snapshot| s.id < self.snapshot.id && is_own(&s.name, &self.own_prefix);
        let mut failed = Vec::new();
        for snapshot in image.snapshots()?.iter().filter(|s| older(s)) {
            if let Err(error) = image.remove_snapshot(&snapshot.name) {
                failed.push(error.to_string());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Error::conflict(format!("older snapshots of cuttle stay: {}", failed.join("; ")))
            .help("a snapshot that is protected or has clones stays until they are gone; the next backup tries again"))
    }

    fn discard(&self) -> Result<()> {
        if self.made_here { remove_snapshot(&self.target, &self.snapshot) } else { Ok(()) }
    }
}

/// Whether the operator was told already that nothing could be seen.
fn said_unreadable(comparison: &Comparison) -> bool {
    matches!(comparison.verdict().why(), Some(Why::Unreadable(_) | Why::NoFastDiff { .. }))
}

pub(super) fn is_own(name: &str, own_prefix: &str) -> bool {
    !own_prefix.is_empty() && name.starts_with(own_prefix)
}

/// Removes a snapshot if it is still that very one.
fn remove_snapshot(target: &Target, snapshot: &Snapshot) -> Result<()> {
    let image = match target.open(Access::ReadWrite) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        image => image?,
    };
    if image.snapshots()?.iter().any(|s| s.id == snapshot.id && s.name == snapshot.name) {
        image.remove_snapshot(&snapshot.name)?;
    }
    Ok(())
}

/// How the image is made, and what must be said about it.
fn read_layout(image: &Image) -> Result<(ImageLayout, Vec<String>)> {
    let (order, features) = (image.order()?, image.features()?);
    let (unit, count) = (image.stripe_unit_bytes()?, image.stripe_count()?);
    let plain = features & features::STRIPINGV2 == 0 || (count <= 1 && unit == 1 << order);
    let (own, metadata): (Vec<_>, Vec<_>) =
        image.metadata()?.into_iter().partition(|(key, _)| key.starts_with(OWN_METADATA_PREFIX));
    let mut notes = Vec::new();
    if let Some((key, value)) = own.iter().find(|(key, _)| key == MARK || key == MARK_MADE) {
        notes.push(format!("{}: an unfinished restore was written here ({key} = {value})", image.label()));
    }
    let layout = ImageLayout {
        order,
        features,
        stripe_unit_bytes: if plain { 0 } else { unit },
        stripe_count: if plain { 0 } else { count },
        metadata,
        parent: image.parent()?.map(|parent| parent.to_string()),
    };
    Ok((layout, notes))
}
