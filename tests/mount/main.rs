//! `cuttle mount`: snapshots as files, with a real kernel and real file systems in them.

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod current;
mod disks;
mod file_systems;
mod files;
mod others;
