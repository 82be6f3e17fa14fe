//! Snapshots for programs that cannot read a repository: read-only, at any offset, over the network.
//!
//! [`Shelf`] is what is served; each protocol has a folder of its own. What is served is what there was when the server
//! began: an image never changes under a reader, `latest` neither.

pub mod http;
pub mod nbd;
pub mod qcow2;
mod shelf;

pub use shelf::{Shelf, Which};
