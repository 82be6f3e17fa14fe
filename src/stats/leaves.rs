//! Which pages the snapshots of a volume need, from what stands above the leaves: no leaf is read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::error::{Error, Result};
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, REFS_PER_PAGE, count_of_page};
use crate::repo::manifest::Manifest;
use crate::stats::tally::Owner;
use crate::units::ChunkIndex;

/// Distinct pages that are remembered over all volumes (about 250 MiB): leaves for 8 PiB at 4 MiB a chunk.
const PAGES_MAX: usize = 1 << 21;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// A leaf that is the same wherever it stands. At the end of a volume it may stand for fewer bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeafKey {
    pub(super) name: ContentName,
    /// What the volume's last chunk lacks to a whole one, where this leaf holds it.
    pub(super) short_bytes: u32,
}

/// A distinct leaf of a volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    pub(super) sealed_len_bytes: u32,
    pub(super) count: u16,
    /// In how many places it stands, over all snapshots.
    pub(super) times: u64,
    pub(super) owner: Owner,
}

/// The distinct pages of a volume's snapshots.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pub(super) leaves: HashMap<LeafKey, Leaf>,
    /// Those between root and leaves, with their sealed lengths.
    pub(super) upper: HashMap<ContentName, (u32, Owner)>,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.leaves.len() + self.upper.len()
    }

    /// Adds the pages of a snapshot. Pages above the leaves, which volumes beyond 1,024² chunks have, are read.
    pub(super) async fn add(&mut self, manifest: &Manifest, snapshot: u32) -> Result<()> {
        let owner = Owner::One(snapshot);
        let root_level = manifest.root().level;
        let mut number = 0;
        // The page of each level that the last leaf lay below.
        let mut above: Vec<Option<u64>> = vec![None; usize::from(root_level)];
        while number < manifest.leaf_count() {
            let zeros = manifest.zero_leaves_at(number).await?;
            if zeros > 0 {
                number += zeros;
                continue;
            }
            for (level, last) in (0..root_level).zip(&mut above).skip(1) {
                let page = number / FANOUT.pow(u32::from(level));
                if last.replace(page) != Some(page)
                    && let Some(object) = manifest.page_ref(level, page).await?.object()
                {
                    self.add_upper(object, owner);
                }
            }
            if let Some(object) = manifest.leaf_ref(number).await?.object() {
                self.add_leaf(manifest, number, object, owner)?;
            }
            number += 1;
        }
        Ok(())
    }

    fn add_upper(&mut self, object: &ObjectRef, owner: Owner) {
        let known = self.upper.entry(object.name).or_insert((object.sealed_len_bytes, owner));
        known.1 = known.1.and(owner);
    }

    fn add_leaf(&mut self, manifest: &Manifest, number: u64, object: &ObjectRef, owner: Owner) -> Result<()> {
        let geometry = manifest.geometry();
        let count = count_of_page(geometry.chunk_count(), 0, number);
        let last = ChunkIndex((number * FANOUT + count as u64).saturating_sub(1));
        let short_bytes = geometry.chunk_size_bytes.saturating_sub(geometry.chunk_len_bytes(last));
        match self.leaves.entry(LeafKey { name: object.name, short_bytes }) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.times += 1;
                known.owner = known.owner.and(owner);
            }
            Entry::Vacant(slot) => {
                // A page has 1,024 refs at most.
                let count = u16::try_from(count).map_err(|_| Error::internal("a page of too many refs"))?;
                slot.insert(Leaf { sealed_len_bytes: object.sealed_len_bytes, count, times: 1, owner });
            }
        }
        Ok(())
    }
}

/// More would not fit into memory.
pub(super) fn check_count(pages: usize) -> Result<()> {
    match pages <= PAGES_MAX {
        true => Ok(()),
        false => Err(Error::unsupported(format!("the snapshots have more than {PAGES_MAX} distinct pages"))
            .help("name some of the volumes, without --snapshots")),
    }
}
