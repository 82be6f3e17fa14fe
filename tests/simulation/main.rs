//! The real code of backup, forget, prune and verify, in small worlds where everything goes wrong that can: processes
//! sleep for days and are killed, clocks are wrong, requests land late, twice or never, listings are short and old.
//!
//! A world follows from its seed alone, and each step of it is judged.

mod actors;
mod dice;
mod lies;
mod log;
mod objects;
mod oracle;
mod plants;
mod runs;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod volume;
mod world;
