//! Pure decisions: what an operation will do, as a value that can be printed, before anything of it is done.

pub mod ahead;
pub(crate) mod bundles;
pub mod delta;
pub mod family;
pub mod lease;
pub mod level;
pub mod marks;
pub(crate) mod neighbours;
pub(crate) mod pieces;
pub mod placement;
pub mod presence;
pub mod restore;
pub mod retention;
pub(crate) mod roster;
pub mod selection;
pub mod shard;
pub mod times;
