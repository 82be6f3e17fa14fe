//! Where volumes are restored to.

pub mod partial;
pub mod pipe;
pub mod raw_file;
pub mod rbd;

use std::sync::Arc;

use rustix::io::Errno;

use crate::error::{Error, Result, io_error};
use crate::source::ReadAt;

/// In which order a sink takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any offset at any time, from many threads.
    Any,
    /// Each write begins where the last ended.
    Ascending,
}

/// What a sink's target held when it was opened.
#[derive(Clone)]
pub enum Existing {
    /// It reads as zero everywhere: zeros need not be written.
    Blank,
    /// It held something, perhaps most of what is restored: the reader shows it, over the volume's size. It may be
    /// read while other ranges are written.
    Content(Arc<dyn ReadAt>),
    /// It holds what another snapshot says, and beyond that one's end zeros: a new clone of it, which the reader shows where it is there.
    Backup(Option<Arc<dyn ReadAt>>),
    /// It holds nothing yet: every byte must be written, zeros too.
    Nothing,
}

/// Takes a volume's bytes. Made for one volume of known size; everything in it is written, zeroed or kept.
pub trait Sink: Send + Sync {
    /// Asked before the first write; it stays.
    fn order(&self) -> Order;

    /// What is there already, so that only the difference need be fetched and written.
    fn existing(&self) -> Existing;

    /// Makes the target's own account of what it holds right, where it keeps one and a restore does not rely on it. Called once,
    /// before anything is written.
    fn distrust(&self) -> Result<()> {
        Ok(())
    }

    /// Writes that are worth having under way at once.
    fn writes_inflight(&self) -> usize {
        WRITES_INFLIGHT_DEFAULT
    }

    /// Writes all of `data` at an offset. Never beyond the size.
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()>;

    /// Makes a range read as zeros, whatever it held; frees its space where that is possible.
    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()>;

    /// Makes what was written durable, and opens the target to read that anew: not what the sink itself remembers of it.
    ///
    /// # Errors
    /// `Invalid` where a target cannot be read.
    fn read_back(&self) -> Result<Arc<dyn ReadAt>> {
        Err(Error::invalid("the target cannot be read back: what was written cannot be verified")
            .help("restore to an image, a file or a device, or without --verify"))
    }

    /// Makes everything durable and the target whole; called once, after the last write. A sink that is dropped
    /// without it is an interrupted restore.
    fn finish(&self) -> Result<()>;
}

/// Writes under way where nothing speaks against it.
const WRITES_INFLIGHT_DEFAULT: usize = 8;

/// Zeros to write where zeroing is not possible otherwise.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// Refuses a range that is not within the volume: a defect of the caller.
pub(crate) fn check_range(offset_bytes: u64, length_bytes: u64, size_bytes: u64) -> Result<()> {
    match offset_bytes.checked_add(length_bytes) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(Error::internal(format!(
            "a write of {length_bytes} bytes at offset {offset_bytes}: expected it within {size_bytes} bytes"
        ))),
    }
}

/// How a target is full, if that is what an error says.
fn full(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::NOSPC => Some("there is no space left"),
        Errno::DQUOT => Some("the quota is used up"),
        _ => None,
    }
}

/// An error of writing to a target; where it is full, that is what the message says.
pub(crate) fn write_error(doing: &str, e: std::io::Error) -> Error {
    match Errno::from_io_error(&e).and_then(full) {
        Some(what) => Error::unavailable(format!("{doing}: {what}"))
            .help("Free some space, or restore to another place.")
            .caused_by(e),
        None => io_error(doing, e),
    }
}
