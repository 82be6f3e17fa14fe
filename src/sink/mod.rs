//! Where volumes are restored to.

use crate::error::Result;

/// In which order a sink takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any offset at any time, from many threads.
    Any,
    /// Each write begins where the last ended.
    Ascending,
}

/// Takes a volume's bytes. Made for one volume of known size; everything in it is written, zeroed or kept.
pub trait Sink: Send + Sync {
    fn order(&self) -> Order;

    /// Writes all of `data` at an offset. Never beyond the size.
    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()>;

    /// Makes a range read as zeros, whatever it held; frees its space where that is possible.
    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()>;

    /// Makes everything durable and the target whole. A sink that is dropped without it is an interrupted restore.
    fn finish(&self) -> Result<()>;
}
