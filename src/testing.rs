//! The part of the test kit that unit tests use, too.
//!
//! The kit is in `tests/support/` and knows only what the library shows to everybody, so that every test binary can have it. Here
//! its files are modules of the library under test, in which `cuttle` is this crate itself (see `lib.rs`).
// Nobody uses all of it, and what is public for the other binaries is seen by nobody here.
#![allow(dead_code, unreachable_pub)]

#[path = "../tests/support/bench.rs"]
mod bench;
#[path = "../tests/support/by_hand.rs"]
mod by_hand;
#[path = "../tests/support/memory_sink.rs"]
mod memory_sink;
#[path = "../tests/support/numbers.rs"]
mod numbers;
#[path = "../tests/support/repo.rs"]
mod repo;
#[path = "../tests/support/warnings.rs"]
mod warnings;

pub(crate) use bench::Bench;
pub(crate) use memory_sink::{Calls, MemoryReader, MemorySink};
pub(crate) use numbers::Numbers;
pub(crate) use repo::CHUNK;
pub(crate) use warnings::Warnings;
