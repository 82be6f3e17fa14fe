//! A file's bytes and holes, out of a snapshot.

use bytes::Bytes;

use crate::error::Result;
use crate::reading::snapshot::SnapshotReader;
use crate::units::Content;

/// What `lseek(2)` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seek {
    Data,
    Hole,
}

impl Seek {
    /// `SEEK_DATA` and `SEEK_HOLE` of Linux; the kernel knows the others itself.
    pub(super) fn from_whence(whence: i32) -> Option<Self> {
        match whence {
            3 => Some(Self::Data),
            4 => Some(Self::Hole),
            _ => None,
        }
    }
}

/// As much of a range as lies within the file.
pub(super) async fn read(file: &SnapshotReader, offset_bytes: u64, len_bytes: u32) -> Result<Bytes> {
    let rest = file.size_bytes().saturating_sub(offset_bytes);
    match rest.min(u64::from(len_bytes)) {
        0 => Ok(Bytes::new()),
        len => file.read(offset_bytes, len as usize).await,
    }
}

/// Where data or a hole begins, at or after an offset. The end of a file is a hole. `None` beyond it, and where only a hole is
/// left and data is wanted.
pub(super) async fn seek(file: &SnapshotReader, offset_bytes: u64, seek: Seek) -> Result<Option<u64>> {
    let size = file.size_bytes();
    if offset_bytes >= size {
        return Ok(None);
    }
    let wanted = match seek {
        Seek::Data => Content::Data,
        Seek::Hole => Content::Zero,
    };
    let extents = file.extents(offset_bytes, size - offset_bytes, 1).await?;
    let found = match extents.first() {
        Some(first) if first.content == wanted => offset_bytes,
        Some(first) => first.offset_bytes.saturating_add(first.length_bytes),
        None => size,
    };
    Ok((found < size || seek == Seek::Hole).then_some(found))
}
