//! What restore and verify read alike, within a memory budget: a manifest in windows, and what a volume holds.

pub(crate) mod budget;
pub(crate) mod local;
pub(crate) mod windows;
