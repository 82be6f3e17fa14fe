//! Reads and writes the streams of `rbd export-diff` and `rbd export`, over [`std::io`] alone.
//!
//! Sources: Ceph's `doc/dev/rbd-diff.rst`, `doc/dev/rbd-export.rst`, `src/tools/rbd/action/Export.cc` and `Import.cc`.
//! All integers are little-endian; a string is a u32 length and that many bytes. No stream has a checksum.
//!
//! # Diff, version 1 and 2
//!
//! A banner (`"rbd diff v1\n"` or `"rbd diff v2\n"`), records, and the end tag. A record is a tag byte, in version 2
//! a u64 with the length of the body, and the body:
//!
//! | tag | body | meaning | limit |
//! |---|---|---|---|
//! | `f` | string | the snapshot that the diff is relative to | [`NAME_LEN_MAX`], once |
//! | `t` | string | the snapshot that it leads to | [`NAME_LEN_MAX`], once |
//! | `p` | u8 | version 2 only: whether that snapshot is protected | 0 or 1, once; Ceph before 17 says that it is 8 bytes long |
//! | `s` | u64 | size of the image after the diff, bytes | [`Limits::size_bytes_max`], exactly once |
//! | `w` | u64 offset, u64 length, data | bytes of the image | within the size, not empty, overlapping nothing |
//! | `z` | u64 offset, u64 length | reads as zero | as `w` |
//! | `e` | nothing, and no length in version 2 | the end | |
//!
//! `f`, `t`, `p` and `s` come before the first `w` or `z`. Extents may come in any order. To apply a diff: cut the
//! image off at the new size or grow it with zeros, then apply the extents.
//!
//! # Image, version 2
//!
//! The banner `"rbd image v2\n"`; records of tag, u64 length and body: `O`, `T`, `U`, `C` (u64 each: order, features,
//! stripe unit, stripe count), up to [`METADATA_PAIRS_MAX`] `M` (two strings: key and value); the end tag `E`. Then the banner
//! `"rbd image diffs v2\n"`, a u64 count, and that many version 2 diffs, each relative to the one before: one for each
//! snapshot, oldest first, and one for the image itself, without a `t`.
//!
//! Everything else is refused, with the offset in the stream, an unknown tag too: it may hold content.

mod banner;
mod covered;
mod header;
mod input;
pub mod inspect;
mod name;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use crate::units::{Extent, VOLUME_SIZE_BYTES_MAX};

pub use self::banner::{SNIFF_BYTES, StreamKind};
pub use self::covered::COVERED_RANGES_MAX;
pub use self::reader::DiffReader;
pub use self::writer::{DiffWriter, write_image_header};

/// Longest snapshot name or metadata key, in bytes: what Ceph's importer takes.
pub const NAME_LEN_MAX: u32 = 4096;
/// Longest value of an image metadata pair, in bytes.
pub const METADATA_VALUE_LEN_MAX: u32 = 64 << 10;
/// Most metadata pairs of an image.
pub const METADATA_PAIRS_MAX: usize = 4096;
/// Most that all pairs of an image may hold together, in bytes.
pub const METADATA_BYTES_MAX: usize = 1 << 20;

/// The two versions of a diff's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiffVersion {
    /// Records without lengths; it cannot say that a snapshot is protected.
    V1,
    /// Records with lengths; it can say that a snapshot is protected.
    V2,
}

/// What a diff says of itself before its first extent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffHeader {
    /// The snapshot that it is relative to; `None` for a full diff, which is relative to nothing but zeros.
    pub from: Option<String>,
    /// The snapshot that it leads to; `None` for the image itself.
    pub to: Option<String>,
    /// Whether that snapshot is protected; version 2 only.
    pub protected: Option<bool>,
    /// Size of the image after the diff.
    pub size_bytes: u64,
}

/// What a stream holds, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiffEvent {
    /// A diff begins. One-diff streams have one, at the start.
    Begin(DiffHeader),
    /// Bytes to read with [`DiffReader::read_data`], or a range that reads as zero.
    Extent(Extent),
}

/// What a reader accepts at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest size of the image.
    pub size_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size_bytes_max: VOLUME_SIZE_BYTES_MAX }
    }
}
