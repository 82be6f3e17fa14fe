//! What is known of a volume besides its bytes: who it is, how its image is laid out, which snapshot was read.
//!
//! These records are persisted in every snapshot (repo-format.md, "Snapshot record").

use serde::{Deserialize, Serialize};

/// Who a volume is, so that a mixed-up image is refused with both sides named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// An RBD image of a cluster. `image_id` survives a rename; a re-created image has another one.
    Rbd {
        /// The cluster's id.
        cluster_fsid: String,
        /// Escaped as in a volume's name (repo-format.md §3).
        pool: String,
        /// Escaped likewise; empty where the image is in none.
        namespace: String,
        /// The image's name, escaped likewise.
        image: String,
        /// The id that RBD gave the image when it was made.
        image_id: String,
    },
    /// A file or block device, by the absolute path it was read from.
    File {
        /// Absolute; one that is not UTF-8 is refused.
        path: String,
    },
    /// A stream on standard input: it carries no identity of its own.
    Stream,
}

impl Identity {
    /// Whether both are of one volume; an image may be called otherwise meanwhile.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Rbd { cluster_fsid: fsid, image_id: id, .. },
                Self::Rbd { cluster_fsid, image_id, .. },
            ) => fsid == cluster_fsid && id == image_id,
            (one, other) => one == other,
        }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rbd { cluster_fsid, pool, namespace, image, image_id } => {
                let space = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
                write!(f, "rbd:{pool}/{space}{image} (image id {image_id}, cluster {cluster_fsid})")
            }
            Self::File { path } => write!(f, "file {path}"),
            Self::Stream => f.write_str("a stream"),
        }
    }
}

/// The snapshot that a backup was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPoint {
    /// The snapshot's name; for a stream the `t` record's.
    pub name: String,
    /// RBD's snapshot id within its pool; 0 where unknown (streams).
    pub rbd_snap_id: u64,
    /// Whether cuttle made it, and so may remove it once a newer base is committed.
    pub own: bool,
    /// What there was when cuttle made it; `None` where somebody else did, or where it could not be seen.
    pub made: Option<Made>,
    /// By what it was decided which of its objects are there.
    pub objects: ObjectsBy,
}

impl SnapshotPoint {
    /// One of which no more than the name is known.
    pub fn named(name: String) -> Self {
        Self { name, rbd_snap_id: 0, own: false, made: None, objects: ObjectsBy::Unknown }
    }
}

/// By what librbd decided which objects of a snapshot are there, when a backup read it. What a valid object map lacks reads as
/// zero, and in a clone as the parent, whatever the object holds; and a map may be wrong and marked valid: that of the image
/// after a rollback to a snapshot whose own map is invalid is empty (seen on 16.2), until somebody rebuilds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectsBy {
    /// Not known: a stream's, or of an image under live migration.
    #[default]
    Unknown,
    /// The objects themselves: there was no valid map.
    Asking,
    /// A map; the digest is of which objects it had.
    Map {
        /// BLAKE3 of the number of objects and of the map, without what tells clean from dirty (§6.6).
        digest: [u8; 32],
    },
}

/// What snapshots an image had when cuttle made one. Nothing shows it later, and without it what Ceph says of changes since
/// that snapshot is not believed unless each object was asked about (`rbd/diff/judge.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Ids of the other snapshots right before or right after, of every kind: also those of groups, of mirroring and in the
    /// trash. Ascending; of more than [`OTHERS_MAX`] the first.
    pub others: Vec<u64>,
    /// Of these cuttle's own, which this one replaces; the newest where there are several.
    pub replaces: Option<u64>,
    /// Whether that one's object map said of any object "as in the snapshot before", right before; `None` where it was not
    /// looked at or is not valid.
    pub replaced_has_clean: Option<bool>,
}

/// Most ids in [`Made::others`]: more than one is as bad as many.
pub const OTHERS_MAX: usize = 16;

/// What is needed to make the image again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayout {
    /// RBD object size as a power of two (`order`): 12 to 25. 0 where unknown.
    pub order: u8,
    /// RBD feature bits.
    pub features: u64,
    /// 0 where unknown or equal to the object size.
    pub stripe_unit_bytes: u64,
    /// 0 or 1 where not striped.
    pub stripe_count: u64,
    /// Image metadata pairs, sorted by key.
    pub metadata: Vec<(String, String)>,
    /// The parent of a clone, `pool/[namespace/]image@snap`. Its content is always included in the backup.
    pub parent: Option<String>,
}
