//! Which pages the snapshots of a volume need, from what stands above the leaves: no leaf is read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;

use crate::error::{Error, Result};
use crate::format::names::ContentName;
use crate::format::page::{Page, REFS_PER_PAGE};
use crate::repo::Project;
use crate::repo::walk::{Node, Tree, Walk, Walker};
use crate::stats::tally::Owner;
use crate::units::{ChunkIndex, Geometry};

/// Distinct pages that are remembered over all volumes (about 250 MiB): leaves for 8 PiB at 4 MiB a chunk.
const PAGES_MAX: usize = 1 << 21;

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
    pub(super) async fn add(&mut self, project: &Project, tree: Tree, snapshot: u32) -> Result<()> {
        let (geometry, owner) = (tree.geometry(), Owner::One(snapshot));
        let mut walk = Walk::over(Adding { pages: self, project, geometry, owner }, tree);
        while walk.next().await?.is_some() {}
        Ok(())
    }
}

/// Adds what it comes to.
struct Adding<'a> {
    pages: &'a mut Pages,
    project: &'a Project,
    geometry: Geometry,
    owner: Owner,
}

impl Walker for Adding<'_> {
    type Flaw = Infallible;

    fn enters(&mut self, node: &Node) -> bool {
        match node.level {
            0 => self.add_leaf(node),
            _ => self.add_upper(node),
        }
        node.level > 0
    }

    async fn read(&self, node: &Node) -> Result<std::result::Result<Page, Infallible>> {
        self.project.content().read_page(&node.object, node.level, node.count).await.map(Ok)
    }
}

impl Adding<'_> {
    fn add_upper(&mut self, node: &Node) {
        let new = (node.object.sealed_len_bytes, self.owner);
        let known = self.pages.upper.entry(node.object.name).or_insert(new);
        known.1 = known.1.and(self.owner);
    }

    fn add_leaf(&mut self, node: &Node) {
        let (object, geometry) = (&node.object, self.geometry);
        let last = ChunkIndex((node.number * REFS_PER_PAGE as u64 + node.count as u64).saturating_sub(1));
        let short_bytes = geometry.chunk_size_bytes.saturating_sub(geometry.chunk_len_bytes(last));
        match self.pages.leaves.entry(LeafKey { name: object.name, short_bytes }) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.times += 1;
                known.owner = known.owner.and(self.owner);
            }
            Entry::Vacant(slot) => {
                // A page has 1,024 refs at most.
                let (count, owner) = (node.count as u16, self.owner);
                slot.insert(Leaf { sealed_len_bytes: object.sealed_len_bytes, count, times: 1, owner });
            }
        }
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
