//! The `cuttle` command as a user runs it, on local repositories and a fake bucket.

mod bench;
mod docs;
mod every_command;
mod export;
mod forget;
mod help;
mod honest;
mod hurt_process;
mod isolation;
mod log;
mod memory;
mod no_links;
mod outcomes;
mod prune;
mod recall;
mod roles;
mod round_trips;
mod rubbish;
mod secrets;
mod shards;
mod signals;
mod stats;
mod stopping;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod tags;
mod verify;
mod whoami;
