//! Snapshots served to whoever reads them.

pub mod nbd;
