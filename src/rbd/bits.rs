//! What an image can, and what is wrong with its object map, as bits.

/// Feature bits of an image (Ceph's `rbd/features.h`).
pub mod features {
    /// It may be a clone, with a parent.
    pub const LAYERING: u64 = 1 << 0;
    /// Its stripes go over several objects, in units of their own.
    pub const STRIPINGV2: u64 = 1 << 1;
    /// One client at a time writes.
    pub const EXCLUSIVE_LOCK: u64 = 1 << 2;
    /// A map says of each object whether it is there; it needs [`EXCLUSIVE_LOCK`].
    pub const OBJECT_MAP: u64 = 1 << 3;
    /// The map says, too, what changed since the snapshot before; it needs [`OBJECT_MAP`].
    pub const FAST_DIFF: u64 = 1 << 4;
    /// Flattening copies what the snapshots need of the parent, too.
    pub const DEEP_FLATTEN: u64 = 1 << 5;
    /// Writes go to a journal first, for mirroring.
    pub const JOURNALING: u64 = 1 << 6;
    /// Its data lies in another pool than its header.
    pub const DATA_POOL: u64 = 1 << 7;
    /// A live migration is under way: the image is the copy.
    pub const MIGRATING: u64 = 1 << 9;
    /// Those that an image can be created with. The others say what is being done to one.
    pub const CREATABLE: u64 =
        LAYERING | STRIPINGV2 | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN | JOURNALING;
}

/// Flags of an image's head or snapshot.
pub mod flags {
    /// The object map may be wrong: librbd asks for the objects themselves.
    pub const OBJECT_MAP_INVALID: u64 = 1 << 0;
    /// What the object map says of changes may be wrong.
    pub const FAST_DIFF_INVALID: u64 = 1 << 1;
}
