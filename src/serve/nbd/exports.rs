//! What an NBD server offers, seen from the server: names, and images that can be read.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::units::Extent;

/// The images that a server knows by name.
#[async_trait]
pub trait Exports: Send + Sync {
    /// All of them, in the order they are to be shown.
    async fn list(&self) -> Result<Vec<Listed>>;

    /// The export of this name; the empty name is the default one. An error of kind `NotFound` where there is none.
    async fn open(&self, name: &str) -> Result<Opened>;
}

/// An export as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// For people.
    pub description: String,
}

/// An export that a client has chosen.
#[derive(Clone)]
pub struct Opened {
    /// The name that it keeps for ever: that of the snapshot, where `latest` was asked for.
    pub name: String,
    /// For people.
    pub description: String,
    /// Whether the name that was asked for means the same image each time. A client reads one that is not fixed
    /// through one connection only: two could see two snapshots.
    pub is_fixed: bool,
    pub image: Arc<dyn Image>,
}

/// Bytes that never change, read by many at once.
#[async_trait]
pub trait Image: Send + Sync {
    fn size_bytes(&self) -> u64;

    /// Exactly this range, which lies within the image.
    async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes>;

    /// What is zero and what is data in this range, which lies within the image: ascending, without a gap, and neither
    /// more nor less. Costs manifest pages, no chunks.
    async fn extents(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<Extent>>;
}
