//! What a backup builds on: the parent, its manifest, and what of it may not be referenced.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::Result;
use crate::repo::forbidden::Forbidden;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::units::{Generation, Geometry, SnapshotId};

/// What a pass works against.
pub(super) struct Ground {
    pub before: Arc<Manifest>,
    pub parent: Option<SnapshotEntry>,
    pub forbidden: Arc<Forbidden>,
    pub generation: Generation,
    /// Seeds the choice of samples.
    pub seed: SnapshotId,
    /// Whether the generation may well hold chunks of this volume that no snapshot shows.
    pub learn: bool,
    /// The parent's manifest cannot be read: nothing is compared with it.
    pub is_torn: bool,
    pub dry_run: bool,
}

impl Ground {
    /// The snapshot that the volume is compared with.
    pub fn compared_with(&self) -> Option<&SnapshotEntry> {
        self.parent.as_ref().filter(|_| !self.is_torn)
    }

    /// Chunks that an incremental reads although nothing was reported: those whose length changed with the volume's size, those
    /// that a prune round may delete, and those that are lost.
    pub async fn must_read(&self, geometry: Geometry) -> Result<BTreeSet<u64>> {
        let before = self.before.geometry();
        let mut out = BTreeSet::new();
        if before.size_bytes != geometry.size_bytes {
            let cut = geometry.index_of(before.size_bytes.min(geometry.size_bytes));
            if before.chunk_len_bytes(cut) != geometry.chunk_len_bytes(cut) {
                out.insert(cut.0);
            }
        }
        if !self.forbidden.is_empty() {
            for number in 0..self.before.leaf_count() {
                if self.before.leaf_ref(number).await?.is_zero() {
                    continue;
                }
                let leaf = self.before.leaf(number).await?;
                let hurt = leaf.refs.iter().enumerate().filter(|(_, r)| self.forbidden.chunk(r));
                out.extend(hurt.map(|(at, _)| number * 1024 + at as u64));
            }
        }
        Ok(out)
    }
}
