//! Clones: what an image was made from, and how much of that it still shows.

use std::ptr;

use super::api::{LinkedImageSpec, SnapSpec};
use super::errno::{self, ENOENT};
use super::image::Image;
use super::name;
use crate::error::Result;

/// What a clone was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageParent {
    /// Escaped, as the two that follow.
    pub pool: String,
    /// Empty for the default namespace.
    pub namespace: String,
    /// Empty where Ceph tells none; it may lie in the trash.
    pub image: String,
    /// As Ceph has it: it stays where the parent is renamed.
    pub image_id: String,
    /// The parent's snapshot, as Ceph has it.
    pub snapshot: String,
    /// Its id. Never given twice in a pool, so it stays where the snapshot is renamed or in the trash.
    pub snapshot_id: u64,
}

impl std::fmt::Display for ImageParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let space = if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) };
        write!(f, "{}/{space}{}@{}", self.pool, self.image, self.snapshot)
    }
}

/// What a clone was made from.
pub fn parent(image: &Image) -> Result<Option<ImageParent>> {
    let null = ptr::null_mut();
    let mut linked = LinkedImageSpec {
        pool_id: -1,
        pool_name: null,
        pool_namespace: null,
        image_id: null,
        image_name: null,
        trash: false,
    };
    let mut snap = SnapSpec { id: 0, namespace_type: 0, name: null };
    // SAFETY: both structs are filled on success and untouched otherwise.
    let code = unsafe { (image.api.rbd_get_parent)(image.handle, &mut linked, &mut snap) };
    if code == -ENOENT {
        return Ok(None);
    }
    image.check(code, || "reading its parent".to_owned())?;
    // SAFETY: the strings are the library's, or null; they are freed once, after they were copied.
    let parent = unsafe {
        let parent = ImageParent {
            pool: name::taken(linked.pool_name),
            namespace: name::taken(linked.pool_namespace),
            image: name::taken(linked.image_name),
            image_id: errno::text(linked.image_id),
            snapshot: errno::text(snap.name),
            snapshot_id: snap.id,
        };
        (image.api.rbd_linked_image_spec_cleanup)(&mut linked);
        (image.api.rbd_snap_spec_cleanup)(&mut snap);
        parent
    };
    Ok(Some(parent))
}

/// How far a clone's parent shows through, from offset 0; 0 without a parent.
pub fn overlap_bytes(image: &Image) -> Result<u64> {
    image.number(image.api.rbd_get_overlap, "its overlap with the parent")
}
