//! What the operations read alike, within a memory budget: a manifest in windows, what a volume holds, and which chunks of a
//! volume are re-read out of distrust.

pub(crate) mod budget;
pub(crate) mod local;
pub(crate) mod sample;
pub(crate) mod windows;
