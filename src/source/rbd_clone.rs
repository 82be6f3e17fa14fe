//! Clones as sources: what one hangs on, and which cannot be backed up by itself.

use std::sync::Arc;

use super::rbd_target::Target;
use super::{ClonedFrom, OriginPoint};
use crate::error::{Error, ErrorKind, Result};
use crate::rbd::diff::End;
use crate::rbd::{Access, Image, ImageParent, OpenBy, Snapshot, clone};
use crate::volume::Identity;

/// The snapshot that this image's snapshot still hangs on, where it is the one that was backed up. Why it cannot serve is told.
pub(super) fn find_origin(
    target: &Target,
    image: &Image,
    origin: &OriginPoint,
    remarks: &mut Vec<String>,
) -> Result<Option<End>> {
    let path = target.path();
    // Between the question who its parent is and the making of the snapshot it may have been flattened.
    if !cloned_from(target, image)?.is_some_and(|now| now.is_same(&origin.cloned_from)) {
        remarks.push(format!("{path}: all is read: it is no clone of what was backed up any more"));
        return Ok(None);
    }
    let opened = open_parent(target, &origin.cloned_from);
    match opened {
        Ok(end) => Ok(Some(end)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {
            remarks.push(format!("{path}: all is read: what it was cloned from cannot be opened: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What an image, or the snapshot that it is open at, was cloned from.
pub(super) fn cloned_from(target: &Target, image: &Image) -> Result<Option<ClonedFrom>> {
    let Some(parent) = clone::parent(image)? else { return Ok(None) };
    let ImageParent { pool, namespace, image, image_id, snapshot_id: rbd_snap_id, .. } = parent;
    let cluster_fsid = target.pool.cluster().fsid().to_owned();
    let image = Identity::Rbd { cluster_fsid, pool, namespace, image, image_id };
    Ok(Some(ClonedFrom { image, rbd_snap_id }))
}

/// The snapshot that a clone hangs on, by ids: it may lie in the trash, the image too.
pub(super) fn open_parent(clone: &Target, from: &ClonedFrom) -> Result<End> {
    let image = open_image(clone, from, Access::Snapshot(from.rbd_snap_id))?;
    let snapshot = Snapshot {
        id: from.rbd_snap_id,
        name: "what it was cloned from".to_owned(),
        size_bytes: image.size_bytes()?,
    };
    Ok(End::at(Arc::new(image), snapshot))
}

/// The image that a clone hangs on, as it is now.
pub(super) fn open_parent_head(clone: &Target, from: &ClonedFrom) -> Result<Image> {
    open_image(clone, from, Access::ReadOnly)
}

fn open_image(clone: &Target, from: &ClonedFrom, access: Access) -> Result<Image> {
    let Identity::Rbd { pool, namespace, image: name, image_id: id, .. } = &from.image else {
        return Err(Error::internal("a clone of what is no image"));
    };
    let pool = clone.pool.cluster().pool(pool, namespace)?;
    Image::open(&pool, OpenBy::Id { name, id }, access)
}

/// Refuses an image that its own key does not open alone.
///
/// Ceph 18 and newer let a clone have a LUKS key of its own. Its header then begins with `RBDL` instead of `LUKS`, and what it
/// shows of its parent is in the parent's key: a copy of its bytes is nothing that any key opens.
pub(super) fn refuse_luks_clone(image: &Image, snapshot: &Snapshot) -> Result<()> {
    const MAGIC: [u8; 6] = *b"RBDL\xba\xbe";
    let mut start = [0; MAGIC.len()];
    if snapshot.size_bytes < start.len() as u64 {
        return Ok(());
    }
    image.read_at(0, &mut start)?;
    if start != MAGIC {
        return Ok(());
    }
    let path = format!("{}/{}", image.pool().path(), image.name());
    Err(Error::unsupported(format!(
        "{path} is a clone with a LUKS key of its own: what is restored of it could be opened by no key"
    ))
    .help(format!(
        "flatten it with both keys, and it is an image like others: `rbd flatten --encryption-passphrase-file CLONE_KEY \
         --encryption-passphrase-file PARENT_KEY {path}`. Or back up parent and clone with --luks-clones, and restore them as a \
         family: the parent first, a new clone of it (`rbd clone`), and over that the clone with --overwrite"
    )))
}
