//! Ceph's librados and librbd, loaded when they are first needed: one binary runs with and without Ceph installed.
//!
//! This module holds the crate's only `unsafe`. What it relies on, besides the documented C interface:
//!
//! - The libraries are never unloaded, so a function pointer once resolved stays good.
//! - An [`Image`] holds its [`Pool`], and a `Pool` its [`Cluster`], so nothing is closed while something in it is open.
//! - A handle is set up (namespace, snapshot) before it is shared and never changed after; all other calls of librados
//!   and librbd may be made from many threads at once.
//! - No panic of ours crosses a C frame.

#![allow(unsafe_code)]

pub mod advice;
mod api;
pub mod class;
mod cluster;
mod config;
mod create;
pub mod diff;
mod errno;
mod image;
mod io;
mod pool;
mod snapshot;
mod spec;

pub use class::SnapContext;
pub use cluster::Cluster;
pub use config::CephConfig;
pub use create::CreateOptions;
pub use image::{Access, Image, ImageParent, OpenBy, Watcher, features, flags};
pub use pool::{ImageEntry, Pool};
pub use snapshot::Snapshot;
pub use spec::{RbdSpec, SCHEME};

use crate::error::Result;

/// Fails, saying which package to install, where librados or librbd is absent.
pub fn available() -> Result<()> {
    api::get().map(|_| ())
}
