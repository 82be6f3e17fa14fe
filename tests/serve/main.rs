//! Serving snapshots, by HTTP and NBD, to real and to hostile clients.

mod http;
mod memory;
mod nbd;
mod page;
mod qcow2;
#[path = "../support/mod.rs"]
mod support;
