//! cuttle: content-addressed, deduplicating backups of Ceph RBD volumes in object storage.
//!
//! The library never touches the terminal, `$HOME` or the environment.

#![deny(unsafe_code)]

pub mod backup;
pub mod cancel;
pub mod chunker;
pub mod clock;
pub mod codec;
pub mod cpu;
pub mod diff;
pub mod error;
pub mod export;
pub mod forget;
pub mod format;
pub mod import;
pub mod keys;
pub mod mount;
pub mod plan;
pub mod progress;
pub mod prune;
mod qcow2;
pub mod random;
pub mod rbd;
pub mod reading;
pub mod repo;
pub mod restore;
pub mod serve;
pub mod sink;
pub mod source;
pub mod stats;
pub mod store;
#[cfg(test)]
mod testing;
pub mod units;
pub mod verify;
pub mod volume;

pub use error::{Error, ErrorKind, Result};
