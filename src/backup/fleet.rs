//! What the backups of many volumes in one process share, so that each costs what it alone makes necessary.
//!
//! The generation and what may not be referenced: see [`Kept`]. What is known of content: see [`Learned`]. What was listed to look for
//! what builds on is there: see [`Listings`]. None of it is shared between projects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::backup::learned::Learned;
use crate::backup::listings::Listings;
use crate::repo::kept::Kept;
use crate::units::Sequence;

/// What backups of one project in one process share. It knows of nothing at first, and must not be used with another project.
#[derive(Debug, Default)]
pub struct Fleet {
    pub(super) kept: Kept,
    pub(super) learned: Learned,
    pub(super) listings: Listings,
    /// The sequence of the first backup that looked; 0 for none.
    night: AtomicU32,
}

impl Fleet {
    /// Which thirtieth of everything is looked for: that of the first backup that asks. Names that are close together are shown by one
    /// listing, so all volumes look at the same part. Each run begins with another part than the one before, as its first volume has one
    /// backup more.
    pub(super) fn night(&self, sequence: Sequence) -> Sequence {
        match self.night.compare_exchange(0, sequence.0, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => sequence,
            Err(first) => Sequence(first),
        }
    }
}

/// The fleet that a backup is of: many, or itself.
pub(super) struct Among {
    pub fleet: Arc<Fleet>,
    /// Others share it.
    pub is_shared: bool,
}

impl Among {
    pub(super) fn of(fleet: Option<&Arc<Fleet>>) -> Self {
        Self { fleet: fleet.map(Arc::clone).unwrap_or_default(), is_shared: fleet.is_some() }
    }
}
