//! RBD images as volumes: a snapshot holds the content still, and its diff to an earlier one finds what changed.

use std::sync::Arc;

use super::rbd_head::RbdHead;
pub use super::rbd_held::OWN_METADATA_PREFIX;
use super::rbd_snapshots::OwnSnapshots;
use super::rbd_taken::Taken;
use super::rbd_target::{Target, is_own};
use super::{Changes, Descent, FreezeRequest, Frozen, Present, ReadAt, Volume, rbd_clone};
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::advice;
use crate::rbd::diff::judge::{Verdict, Why};
use crate::rbd::diff::{Comparison, End};
use crate::rbd::{
    Access, Cluster, Image, MigrationSource, OpenBy, RbdSpec, Snapshot, Striping, clone, features, migration,
};
use crate::volume::{Identity, ImageLayout, Made, ObjectsBy, SnapshotPoint};

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
    /// Of an image that is open, at whatever it is open at. The size is taken now.
    pub fn new(image: Arc<Image>) -> Result<Self> {
        let size_bytes = image.size_bytes()?;
        Ok(Self { image, size_bytes })
    }

    /// Opens an image as it is now, or the snapshot that is named.
    pub fn of_image(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        let target = Target::find(cluster, spec)?;
        let head = target.open(Access::ReadOnly)?;
        let Some(named) = &spec.snapshot else { return Self::new(Arc::new(head)) };
        let snapshot = target.named(&head, named)?;
        Self::new(Arc::new(target.open(Access::Snapshot(snapshot.id))?))
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
        let snapshots = head.snapshots().list()?;
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

/// What is done to images, and what is not.
#[derive(Debug, Clone, Copy, Default)]
pub struct RbdOptions {
    /// Leave an image alone whose exclusive lock would have to be taken from a client that does not answer.
    pub keep_locks: bool,
    /// Back up clones with a LUKS key of their own, too.
    pub luks_clones: bool,
}

/// An image, found, before anything of it was read.
#[derive(Debug)]
pub struct RbdVolume {
    target: Target,
    /// The snapshot that the user named.
    named: Option<String>,
    options: RbdOptions,
}

impl RbdVolume {
    /// Finds an image. `*` must have been expanded ([`RbdSpec::expand`]).
    pub fn open(cluster: &Cluster, spec: &RbdSpec) -> Result<Self> {
        Self::open_with(cluster, spec, RbdOptions::default())
    }

    /// As [`open`](Self::open), with what is done to the image and what is not.
    pub fn open_with(cluster: &Cluster, spec: &RbdSpec, options: RbdOptions) -> Result<Self> {
        Ok(Self { target: Target::find(cluster, spec)?, named: spec.snapshot.clone(), options })
    }

    /// The snapshots that the image has now, oldest first; those in the trash are not among them.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.target.open(Access::ReadOnly)?.snapshots().list()
    }

    fn own(&self) -> OwnSnapshots {
        OwnSnapshots { target: self.target.clone(), keep_locks: self.options.keep_locks }
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
            return self.own().make(&request.own_name, &request.own_prefix);
        };
        self.target.named(&self.target.open(Access::ReadOnly)?, named).map(Taken::found)
    }

    fn freeze_at(&self, taken: Taken, request: &FreezeRequest) -> Result<RbdFrozen> {
        let (snapshot, path) = (taken.snapshot.clone(), self.target.path());
        let image = Arc::new(self.target.open(Access::Snapshot(snapshot.id))?);
        let (layout, mut remarks) = read_layout(&image)?;
        if !self.options.luks_clones {
            rbd_clone::refuse_luks_clone(&image, &snapshot)?;
        }
        // What is copied is no history, and may change place under whoever reads it.
        let migrating = migration::is_under_way(&image)?;
        let base = match &request.parent {
            _ if migrating => None,
            None => None,
            Some(parent) => match self.find_base(&image, &snapshot, parent)? {
                Ok(base) => Some(base),
                Err(why) => {
                    remarks.push(format!("{path}: all is read: {why}"));
                    None
                }
            },
        };
        let newer = End::at(Arc::clone(&image), snapshot.clone());
        let origin = match &request.origin {
            Some(origin) if !migrating => rbd_clone::find_origin(&self.target, &image, origin, &mut remarks)?,
            _ => None,
        };
        let comparison = match (&origin, &request.origin) {
            (Some(parent), Some(origin)) => Comparison::with_parent(&path, newer, parent, &origin.objects)?,
            _ => Comparison::new(&path, newer, base, &taken.history(request.parent.as_ref()))?,
        };
        remarks.extend(comparison.remark().map(|remark| format!("{path}: {remark}")));
        // Where nothing rests on it tonight, the next night will.
        if let (Some(why), false) = (taken.unreadable(), said_unreadable(&comparison)) {
            remarks.push(format!("{path}: the next backup will use the slow diff: {why}"));
        }
        Ok(RbdFrozen {
            own: self.own(),
            own_prefix: request.own_prefix.clone(),
            made_here: self.named.is_none(),
            reader: Arc::new(RbdReader::new(image)?),
            snapshot,
            layout,
            made: taken.made,
            objects: if migrating { ObjectsBy::Unknown } else { comparison.objects() },
            comparison,
            origin,
            remarks,
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
        let snapshots = image.snapshots().list()?;
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

    fn descent(&self) -> Result<Descent> {
        let head = self.target.open(Access::ReadOnly)?;
        let cloned_from = rbd_clone::cloned_from(&self.target, &head)?;
        let moved_from = match migration::source(&head)? {
            Some(MigrationSource::Image { pool, namespace, image, id: image_id }) => {
                let cluster_fsid = self.target.pool.cluster().fsid().to_owned();
                Some(Identity::Rbd { cluster_fsid, pool, namespace, image, image_id })
            }
            _ => None,
        };
        Ok(Descent { moved_from, cloned_from })
    }

    fn present(&self) -> Result<Option<Present>> {
        if self.named.is_some() {
            return Ok(None);
        }
        let head = RbdHead::of(self.target.clone())?;
        let (layout, _) = read_layout(head.image())?;
        let reader = Arc::new(RbdReader::new(Arc::clone(head.image()))?);
        Ok(Some(Present { head: Box::new(head), layout, reader }))
    }

    fn freeze(&self, request: &FreezeRequest) -> Result<Box<dyn Frozen>> {
        let taken = self.take_snapshot(request)?;
        let snapshot = taken.snapshot.clone();
        match self.freeze_at(taken, request) {
            Ok(frozen) => Ok(Box::new(frozen)),
            Err(error) => {
                if self.named.is_none()
                    && let Err(left) = self.own().remove(|s| *s == snapshot)
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
    own: OwnSnapshots,
    own_prefix: String,
    /// Whether `freeze` made the snapshot.
    made_here: bool,
    /// What was seen then.
    made: Option<Made>,
    objects: ObjectsBy,
    snapshot: Snapshot,
    reader: Arc<RbdReader>,
    layout: ImageLayout,
    comparison: Comparison,
    /// What it was cloned from, where it is compared with that.
    origin: Option<End>,
    remarks: Vec<String>,
}

impl Frozen for RbdFrozen {
    fn layout(&self) -> ImageLayout {
        self.layout.clone()
    }

    fn point(&self) -> Option<SnapshotPoint> {
        let own = self.made_here || is_own(&self.snapshot.name, &self.own_prefix);
        let (name, made, objects) = (self.snapshot.name.clone(), self.made.clone(), self.objects.clone());
        Some(SnapshotPoint { name, rbd_snap_id: self.snapshot.id, own, made, objects })
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        self.reader.clone()
    }

    fn changes(&self) -> Result<Changes> {
        let changed = self.comparison.changed()?;
        let all = self.comparison.base().or(self.origin_base()).is_none()
            || matches!(self.comparison.verdict(), Verdict::ReadAll(_));
        Ok(if all { Changes::All(changed) } else { Changes::Since(changed) })
    }

    fn base_reader(&self) -> Option<Arc<dyn ReadAt>> {
        let (image, snapshot) = self.comparison.base().or(self.origin_base())?;
        Some(Arc::new(RbdReader { image: Arc::clone(image), size_bytes: snapshot.size_bytes }))
    }

    fn check_command(&self) -> Option<String> {
        Some(advice::check_map(&self.own.target.path(), Some(&self.snapshot.name)))
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }

    fn check(&self) -> Result<()> {
        // A handle that is open to read does not learn of removals, so look with a new one.
        let present = self.own.target.open(Access::ReadOnly)?.snapshots().list()?;
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
                let (name, id, path) = (&read.name, read.id, self.own.target.path());
                let what = format!("snapshot {name} (id {id}) of {path} was removed while it was read");
                return Err(Error::conflict(what).help(help));
            }
        }
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        self.own.remove(|s| s.id < self.snapshot.id && is_own(&s.name, &self.own_prefix))
    }

    fn discard(&self) -> Result<()> {
        if self.made_here { self.own.remove(|s| *s == self.snapshot) } else { Ok(()) }
    }
}

impl RbdFrozen {
    fn origin_base(&self) -> Option<(&Arc<Image>, &Snapshot)> {
        let End { image, snapshot } = self.origin.as_ref()?;
        Some((image, snapshot.as_ref()?))
    }
}

/// Whether the operator was told already that nothing could be seen.
fn said_unreadable(comparison: &Comparison) -> bool {
    matches!(comparison.verdict().why(), Some(Why::Unreadable(_) | Why::NoFastDiff { .. }))
}

/// How the image is made, and what must be said about it.
fn read_layout(image: &Image) -> Result<(ImageLayout, Vec<String>)> {
    let (Striping { order, unit_bytes: unit, count }, features) = (image.striping()?, image.features()?);
    let plain = features & features::STRIPINGV2 == 0 || (count <= 1 && unit == 1 << order);
    let (own, metadata): (Vec<_>, Vec<_>) =
        image.metadata().list()?.into_iter().partition(|(key, _)| key.starts_with(OWN_METADATA_PREFIX));
    let mut remarks = Vec::new();
    if let Some((key, value)) = own.iter().find(|(key, _)| key == MARK || key == MARK_MADE) {
        remarks.push(format!("{}: an unfinished restore was written here ({key} = {value})", image.label()));
    }
    let layout = ImageLayout {
        order,
        features: features & !features::MIGRATING,
        stripe_unit_bytes: if plain { 0 } else { unit },
        stripe_count: if plain { 0 } else { count },
        metadata,
        parent: clone::parent(image)?.map(|parent| parent.to_string()),
    };
    Ok((layout, remarks))
}
