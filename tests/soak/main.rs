//! The real program on real stores, for as long as one likes: many processes at once, and processes killed at random.
//! A short form of each runs in every test run; `cargo xtask soak` does the long ones.

#[path = "../support/mod.rs"]
mod support;

mod expected;
mod images;
mod killed;
mod place;
mod runs;
mod settled;
mod together;
