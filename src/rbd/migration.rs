//! Whether an image is being moved by live migration, and from where.
//!
//! While it is, its feature bit MIGRATING is set, and librbd copies what is touched from the source. Two things must not be
//! done to it then. Removing a snapshot makes whoever writes fail in the middle of a copy (seen on 16.2: the guest's librbd ends
//! in an assertion). And an image that is imported from elsewhere cannot be asked for a diff: librbd divides by the size of
//! the source's objects, which it takes for zero.

use super::api::MigrationStatus;
use super::bits::features;
use super::clone;
use super::errno::{self, ENOENT};
use super::image::{Access, Image, OpenBy};
use super::name;
use crate::error::{Error, Result};

/// Most images between a clone and what it was cloned from in the end.
const ANCESTORS_MAX: usize = 64;

/// Where an image under migration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MigrationSource {
    /// Another image of the cluster.
    Image {
        /// Escaped, as the two that follow.
        pool: String,
        /// Empty for the default namespace.
        namespace: String,
        /// It lies in the trash meanwhile, and is found by its id.
        image: String,
        /// Its id.
        id: String,
    },
    /// Not an image of this cluster: a file, an HTTP server, another cluster; or it cannot be told.
    Import,
}

/// Where the image is being moved from; `None` unless it is. As of when the handle was opened, where that is read-only.
pub fn source(image: &Image) -> Result<Option<MigrationSource>> {
    if image.features()? & features::MIGRATING == 0 {
        return Ok(None);
    }
    let null = std::ptr::null_mut();
    let mut status = MigrationStatus {
        source_pool_id: -1,
        source_pool_namespace: null,
        source_image_name: null,
        source_image_id: null,
        dest_pool_id: -1,
        dest_pool_namespace: null,
        dest_image_name: null,
        dest_image_id: null,
        state: -1,
        state_description: null,
    };
    let c_name = name::c_name(image.name())?;
    // SAFETY: an open ioctx; the name lives during the call; at most the given size is written, on success.
    let code = unsafe {
        (image.api.rbd_migration_status)(
            image.pool().inner.ioctx,
            c_name.as_ptr(),
            &mut status,
            size_of::<MigrationStatus>(),
        )
    };
    if code == -ENOENT {
        // The one that was moved away is in the trash, and has no name any more.
        return Ok(Some(MigrationSource::Import));
    }
    image.check(code, || "asking for its migration".to_owned())?;
    let pool_id = status.source_pool_id;
    // SAFETY: filled on success with strings of the library's, which are freed once, after they were copied.
    let (namespace, name, id) = unsafe {
        let found = (
            name::taken(status.source_pool_namespace),
            name::taken(status.source_image_name),
            errno::text(status.source_image_id),
        );
        (image.api.rbd_migration_status_cleanup)(&mut status);
        found
    };
    if pool_id < 0 || id.is_empty() {
        return Ok(Some(MigrationSource::Import));
    }
    let pool = image.pool().cluster().pool_name(pool_id)?;
    Ok(Some(MigrationSource::Image { pool, namespace, image: name, id }))
}

/// Whether a live migration is under way, of this image or of one that it was cloned from, however far up: librbd looks
/// there too when it is asked what a clone holds.
pub fn is_under_way(image: &Image) -> Result<bool> {
    if image.features()? & features::MIGRATING != 0 {
        return Ok(true);
    }
    let mut above = clone::parent(image)?;
    for _ in 0..ANCESTORS_MAX {
        let Some(parent) = above else { return Ok(false) };
        let pool = image.pool().cluster().pool(&parent.pool, &parent.namespace)?;
        // By id: it may lie in the trash.
        let ancestor =
            Image::open(&pool, OpenBy::Id { name: &parent.image, id: &parent.image_id }, Access::ReadOnly)?;
        if ancestor.features()? & features::MIGRATING != 0 {
            return Ok(true);
        }
        above = clone::parent(&ancestor)?;
    }
    Err(Error::unsupported(format!("{}: a clone of clones, more than {ANCESTORS_MAX} deep", image.label()))
        .help("flatten it, or one of those that it was cloned from, with `rbd flatten`"))
}
