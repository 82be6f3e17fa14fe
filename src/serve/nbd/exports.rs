//! What an NBD server offers, seen from the server: names, and images that can be read.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::Result;
use crate::units::Extent;

/// The images that a server knows by name. As long as it runs, a name means the same image: clients read through several
/// connections at once.
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
    /// What a client asks for.
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
    /// What is read through it.
    pub image: Arc<dyn Image>,
}

/// Bytes that never change, read by many at once.
#[async_trait]
pub trait Image: Send + Sync {
    /// The whole image; reads and extents end within it.
    fn size_bytes(&self) -> u64;

    /// Exactly this range, which lies within the image.
    async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes>;

    /// What is zero and what is data in this range, which lies within the image and is not empty: ascending and without a
    /// gap from its beginning, in at most `extents_max` parts, which may end before the range does. Neighbours differ.
    async fn extents(&self, offset_bytes: u64, len_bytes: u64, extents_max: usize) -> Result<Vec<Extent>>;
}
