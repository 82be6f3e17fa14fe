//! An image by its id, whatever it is called meanwhile.

use crate::error::{Error, Result};
use crate::rbd::{Access, Cluster, Image, OpenBy, Pool, RbdSpec, Snapshot, advice};
use crate::volume::Identity;

/// The image itself.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) pool: Pool,
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

    /// The snapshot of that name.
    pub(super) fn named(&self, image: &Image, name: &str) -> Result<Snapshot> {
        image.snapshots().list()?.into_iter().find(|s| s.name == name).ok_or_else(|| {
            Error::not_found(format!("no snapshot {name:?} of image {}", self.path()))
                .help(format!("see `{}`", advice::list_snapshots(&self.path())))
        })
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

/// Whether a snapshot is cuttle's own, by its name.
pub(super) fn is_own(name: &str, own_prefix: &str) -> bool {
    !own_prefix.is_empty() && name.starts_with(own_prefix)
}
