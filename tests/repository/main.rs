//! The library on stores in memory and on disk: what backups, restores, forgets, prunes, verifies and repairs make of a repository,
//! with faults, races, lies and hostile input.

mod age;
mod backup;
mod bundles;
mod copies;
mod delta;
mod export;
mod families;
mod fleet;
mod forget;
mod hurt_store;
mod isolation;
mod level;
mod liar;
mod live_index;
mod lost;
mod many_names;
mod prune;
mod raw_source;
mod reading;
mod repair;
mod restore;
mod roles;
mod sinks;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod verify;
