//! The NBD server: with real clients, by hand, and with clients that mean harm.

#[path = "../support/mod.rs"]
mod support;

mod programs;
mod shelf;
