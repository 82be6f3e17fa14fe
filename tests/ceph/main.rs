//! The library and the program on real Ceph clusters.

mod delta;
mod diff;
mod families;
mod family_restore;
mod hosts;
mod image;
mod instant;
mod nightly;
mod object_maps;
mod quota;
mod restore_all;
mod rewind;
mod seam;
mod sink;
#[path = "../support/mod.rs"]
mod support;
