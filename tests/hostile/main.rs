//! Input that means harm: it ends in an error, at once and in little memory. The allocator counts, so one test runs at a time.

use std::alloc::System;

use cap::Cap;

mod live_index;
mod manifests;
mod streams;
#[path = "../support/mod.rs"]
mod support;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
