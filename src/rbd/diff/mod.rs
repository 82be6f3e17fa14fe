//! What an image or a snapshot holds, and what changed since an earlier snapshot.
//!
//! [`Comparison`] is the only way to ask: [`judge`] decides how librbd may be asked and how far its answer goes.

mod compare;
mod end;
mod extents;
mod iterate;
pub mod judge;
mod maps;
mod ranges;

pub use compare::Comparison;
pub use end::End;
pub use iterate::DiffRange;
pub use maps::{objects_of, reads_as_recorded};
