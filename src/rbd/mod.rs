//! Ceph's librados and librbd, loaded when they are first needed: one binary runs with and without Ceph installed.
//!
//! This module holds the crate's only `unsafe`. What it relies on, besides the documented C interface:
//!
//! - The libraries are never unloaded, so a function pointer once resolved stays good.
//! - An [`Image`] holds its [`Pool`], and a `Pool` its [`Cluster`], so nothing is closed while something in it is open.
//! - A handle is set up (namespace, snapshot) before it is shared and never changed after; all other calls of librados
//!   and librbd may be made from many threads at once.
//! - A handle is closed some time after it was opened, for the sake of a thread of librbd's (`closing.rs`).
//! - No panic of ours crosses a C frame.

#![allow(unsafe_code)]

pub mod advice;
mod api;
mod bits;
pub mod class;
pub mod clone;
mod closing;
mod cluster;
mod config;
mod create;
pub mod diff;
mod errno;
mod image;
mod io;
mod keyring;
pub mod lock;
mod metadata;
pub mod migration;
mod name;
mod pool;
mod snapshot;
mod spec;
mod watchers;

pub use bits::{features, flags};
pub use class::SnapContext;
pub use clone::ImageParent;
pub use cluster::Cluster;
pub use config::CephConfig;
pub use create::{CloneOf, CreateOptions};
pub use image::{Access, Image, OpenBy, Striping, name_now};
pub use lock::LockOwner;
pub use metadata::Metadata;
pub use migration::MigrationSource;
pub use pool::{ImageEntry, Pool};
pub use snapshot::{Snapshot, Snapshots};
pub use spec::{RbdSpec, SCHEME};
pub use watchers::{Watcher, watchers};

use crate::error::Result;

/// Ends the process at once, without the destructors of Ceph's libraries: what was given up may still be at work in them, on
/// threads that nobody can call back, and they do not expect to be taken apart meanwhile. What was printed must be flushed.
pub fn leave(code: i32) -> ! {
    unsafe extern "C" {
        fn _exit(code: std::ffi::c_int) -> !;
    }
    // SAFETY: a function of every C library, which may be called at any time and does not return.
    unsafe { _exit(code) }
}

/// Fails, saying which package to install, where librados or librbd is absent.
pub fn available() -> Result<()> {
    api::get().map(|_| ())
}
