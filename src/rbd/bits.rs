//! What an image can, and what is wrong with its object map, as bits.

/// Feature bits of an image (Ceph's `rbd/features.h`).
pub mod features {
    pub const LAYERING: u64 = 1 << 0;
    pub const STRIPINGV2: u64 = 1 << 1;
    pub const EXCLUSIVE_LOCK: u64 = 1 << 2;
    pub const OBJECT_MAP: u64 = 1 << 3;
    pub const FAST_DIFF: u64 = 1 << 4;
    pub const DEEP_FLATTEN: u64 = 1 << 5;
    pub const JOURNALING: u64 = 1 << 6;
    pub const DATA_POOL: u64 = 1 << 7;
    /// A live migration is under way: the image is the copy.
    pub const MIGRATING: u64 = 1 << 9;
    /// Those that an image can be created with. The others say what is being done to one.
    pub const CREATABLE: u64 =
        LAYERING | STRIPINGV2 | EXCLUSIVE_LOCK | OBJECT_MAP | FAST_DIFF | DEEP_FLATTEN | JOURNALING;
}

/// Flags of an image's head or snapshot.
pub mod flags {
    pub const OBJECT_MAP_INVALID: u64 = 1 << 0;
    pub const FAST_DIFF_INVALID: u64 = 1 << 1;
}
