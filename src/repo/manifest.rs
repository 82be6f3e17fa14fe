//! Manifests: reading a snapshot's tree of pages, and building the next one from it (repo-format.md §7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};

use crate::codec;
use crate::cpu;
use crate::error::Result;
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{Page, PageRef, REFS_PER_PAGE, count_of_page, pages_of_level, root_level};
use crate::format::record::Snapshot;
use crate::keys::random_array;
use crate::repo::forbidden::Forbidden;
use crate::repo::{METADATA_LEVEL, Project, Writer};
use crate::units::{ChunkIndex, Generation, Geometry};

/// Pages of one manifest kept in memory while reading (about 80 KiB each).
const PAGES_KEPT_MAX: usize = 64;
/// Changed leaves kept in memory while building, before the first are written.
const LEAVES_DIRTY_MAX: usize = 256;
/// Pages written at once.
const PAGES_INFLIGHT_MAX: usize = 16;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// A page that was read, by level and number.
type Kept = ((u8, u64), Arc<Page>);

/// A snapshot's chunks, read page by page as they are asked for.
pub struct Manifest {
    project: Project,
    geometry: Geometry,
    root: Arc<Page>,
    kept: Mutex<VecDeque<Kept>>,
    kept_max: usize,
}

impl Manifest {
    /// That of a committed backup; nothing is read yet but the root, which the snapshot holds.
    pub fn of(project: &Project, snapshot: &Snapshot) -> Result<Self> {
        Ok(Self::new(project, snapshot.geometry()?, snapshot.root_page()?))
    }

    /// A volume of zeros.
    pub fn zero(project: &Project, geometry: Geometry) -> Self {
        let chunks = geometry.chunk_count();
        let level = root_level(chunks);
        Self::new(project, geometry, Page::zero(level, count_of_page(chunks, level, 0)))
    }

    fn new(project: &Project, geometry: Geometry, root: Page) -> Self {
        let project = project.clone();
        let kept = Mutex::new(VecDeque::new());
        Self { project, geometry, root: Arc::new(root), kept, kept_max: PAGES_KEPT_MAX }
    }

    /// Keeps no more than so many pages in memory, where many manifests are read at once.
    pub(crate) fn keeping(self, pages_max: usize) -> Self {
        Self { kept_max: pages_max.clamp(1, PAGES_KEPT_MAX), ..self }
    }

    /// Of the snapshot's volume.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The project in which its pages are.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The page above all others; its level is 1 at least.
    pub fn root(&self) -> &Page {
        &self.root
    }

    /// Number of leaves: pages of level 0.
    pub fn leaf_count(&self) -> u64 {
        pages_of_level(self.geometry.chunk_count(), 0)
    }

    /// The refs of chunks 1,024 × `number` and following.
    pub async fn leaf(&self, number: u64) -> Result<Arc<Page>> {
        self.page(0, number).await
    }

    /// The ref to a leaf: all-zero leaves show without being read.
    pub async fn leaf_ref(&self, number: u64) -> Result<PageRef> {
        self.page_ref(0, number).await
    }

    /// As [`Manifest::leaf_ref`], zero beyond the end.
    pub async fn leaf_ref_or_zero(&self, number: u64) -> Result<PageRef> {
        if number < self.leaf_count() { self.leaf_ref(number).await } else { Ok(PageRef::Zero) }
    }

    /// How many leaves from this one on are zero, as the highest page shows that is zero and begins with it; 0 where the
    /// leaf holds something. Whole subtrees show as such without being read.
    pub(crate) async fn zero_leaves_at(&self, number: u64) -> Result<u64> {
        for level in (0..self.root.level).rev() {
            let leaves = FANOUT.pow(u32::from(level));
            if number.is_multiple_of(leaves) && self.page_ref(level, number / leaves).await?.is_zero() {
                return Ok(leaves);
            }
        }
        Ok(0)
    }

    /// The ref of one chunk; zero beyond the end.
    pub async fn chunk(&self, index: ChunkIndex) -> Result<PageRef> {
        if index.0 >= self.geometry.chunk_count() {
            return Ok(PageRef::Zero);
        }
        let leaf = self.leaf(index.0 / FANOUT).await?;
        Ok(leaf.refs.get((index.0 % FANOUT) as usize).cloned().unwrap_or_default())
    }

    /// The ref to page `number` of `level`, below the root.
    pub(crate) async fn page_ref(&self, level: u8, number: u64) -> Result<PageRef> {
        let above = self.page(level + 1, number / FANOUT).await?;
        Ok(above.refs.get((number % FANOUT) as usize).cloned().unwrap_or_default())
    }

    /// Page `number` of `level`, up to the root.
    pub(crate) async fn page(&self, level: u8, number: u64) -> Result<Arc<Page>> {
        if level >= self.root.level {
            return Ok(Arc::clone(&self.root));
        }
        if let Some(found) = self.recall(level, number) {
            return Ok(found);
        }
        let count = count_of_page(self.geometry.chunk_count(), level, number);
        let page = match Box::pin(self.page_ref(level, number)).await?.object() {
            None => Page::zero(level, count),
            Some(object) => self.project.content().read_page(object, level, count).await?,
        };
        Ok(self.keep(level, number, page))
    }

    fn recall(&self, level: u8, number: u64) -> Option<Arc<Page>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(at, _)| *at == (level, number)).map(|(_, page)| Arc::clone(page))
    }

    fn keep(&self, level: u8, number: u64, page: Page) -> Arc<Page> {
        let page = Arc::new(page);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.kept_max {
            kept.pop_front();
        }
        kept.push_back(((level, number), Arc::clone(&page)));
        page
    }
}

/// Builds the next manifest from the parent's: only pages on a changed path are written.
pub struct ManifestBuilder {
    writer: Writer,
    base: Arc<Manifest>,
    geometry: Geometry,
    generation: Generation,
    forbidden: Arc<Forbidden>,
    /// Chunks of the base that still count: the smallest size the volume had since.
    valid_chunks: u64,
    dirty: BTreeMap<u64, Page>,
    written: BTreeMap<u64, PageRef>,
}

impl ManifestBuilder {
    /// `base` is the parent's manifest, or [`Manifest::zero`] for a volume's first backup or one read whole.
    pub fn new(
        writer: Writer,
        base: Arc<Manifest>,
        geometry: Geometry,
        generation: Generation,
        forbidden: Arc<Forbidden>,
    ) -> Self {
        let valid_chunks = base.geometry.chunk_count().min(geometry.chunk_count());
        let (dirty, written) = (BTreeMap::new(), BTreeMap::new());
        Self { writer, base, geometry, generation, forbidden, valid_chunks, dirty, written }
    }

    /// Of the volume as it is now.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The manifest that this one is built from.
    pub fn base(&self) -> &Arc<Manifest> {
        &self.base
    }

    /// The ref of a chunk as it is now.
    pub async fn get(&mut self, index: ChunkIndex) -> Result<PageRef> {
        let (number, at) = (index.0 / FANOUT, (index.0 % FANOUT) as usize);
        if let Some(page) = self.dirty.get(&number) {
            return Ok(page.refs.get(at).cloned().unwrap_or_default());
        }
        if self.written.contains_key(&number) {
            let page = self.load(number).await?;
            return Ok(page.refs.get(at).cloned().unwrap_or_default());
        }
        if index.0 >= self.valid_chunks { Ok(PageRef::Zero) } else { self.base.chunk(index).await }
    }

    /// Sets the ref of a chunk within the volume.
    pub async fn set(&mut self, index: ChunkIndex, chunk: PageRef) -> Result<()> {
        let number = index.0 / FANOUT;
        if let Some(slot) = self.touch(number).await?.refs.get_mut((index.0 % FANOUT) as usize) {
            *slot = chunk;
        }
        if self.dirty.len() > LEAVES_DIRTY_MAX {
            let others: Vec<u64> =
                self.dirty.keys().copied().filter(|n| *n != number).take(LEAVES_DIRTY_MAX / 2).collect();
            self.write_leaves(&others).await?;
        }
        Ok(())
    }

    /// The leaves that were changed and are not written yet, by their numbers.
    pub(crate) fn changed_leaves(&self) -> Vec<u64> {
        self.dirty.keys().copied().collect()
    }

    /// Changes the volume's size: chunks beyond the end are gone, new ones are zero. The chunk that the smaller of the two
    /// ends lies in must be set anew by the caller where it is cut.
    pub async fn resize(&mut self, geometry: Geometry) -> Result<()> {
        let chunks = geometry.chunk_count();
        self.geometry = geometry;
        self.valid_chunks = self.valid_chunks.min(chunks);
        let leaves = pages_of_level(chunks, 0);
        self.dirty.split_off(&leaves);
        self.written.split_off(&leaves);
        for (number, page) in &mut self.dirty {
            page.refs.resize(count_of_page(chunks, 0, *number), PageRef::Zero);
        }
        // The page at the end changes its count, so it has to be written again.
        if let Some(last) = leaves.checked_sub(1)
            && self.written.contains_key(&last)
        {
            let mut page = self.load(last).await?;
            page.refs.resize(count_of_page(chunks, 0, last), PageRef::Zero);
            self.written.remove(&last);
            self.dirty.insert(last, page);
        }
        Ok(())
    }

    /// A leaf to be changed.
    async fn touch(&mut self, number: u64) -> Result<&mut Page> {
        if !self.dirty.contains_key(&number) {
            let page = self.load(number).await?;
            self.written.remove(&number);
            self.dirty.insert(number, page);
        }
        Ok(self.dirty.entry(number).or_insert_with(|| Page::zero(0, 0)))
    }

    /// A leaf that is not in memory as it is now.
    async fn load(&self, number: u64) -> Result<Page> {
        let count = count_of_page(self.geometry.chunk_count(), 0, number);
        if let Some(written) = self.written.get(&number) {
            return match written.object() {
                None => Ok(Page::zero(0, count)),
                Some(object) => self.base.project.content().read_page(object, 0, count).await,
            };
        }
        self.base_page(0, number).await
    }

    /// A page of the base, cut or grown to what the volume's size now asks for. Above the base's root: zeros.
    async fn base_page(&self, level: u8, number: u64) -> Result<Page> {
        let count = count_of_page(self.geometry.chunk_count(), level, number);
        let valid = match level {
            0 => self.valid_chunks,
            _ => pages_of_level(self.valid_chunks, level - 1),
        };
        let valid_here = valid.saturating_sub(number.saturating_mul(FANOUT)).min(count as u64) as usize;
        let root_level = self.base.root.level;
        if valid_here == 0 || level > root_level || (level == root_level && number > 0) {
            return Ok(Page::zero(level, count));
        }
        let mut page = (*self.base.page(level, number).await?).clone();
        page.refs.truncate(valid_here);
        page.refs.resize(count, PageRef::Zero);
        Ok(page)
    }

    /// Writes all changed pages and returns the root, which goes into the `.end` record.
    pub async fn finish(mut self) -> Result<Page> {
        let chunks = self.geometry.chunk_count();
        let (old_chunks, new_root) = (self.base.geometry.chunk_count(), root_level(chunks));
        let resized = chunks != old_chunks || self.valid_chunks != old_chunks;
        for number in self.stale_leaves(resized).await? {
            if !self.written.contains_key(&number) {
                self.touch(number).await?;
            }
        }
        let dirty: Vec<u64> = self.dirty.keys().copied().collect();
        self.write_leaves(&dirty).await?;
        let mut edits = std::mem::take(&mut self.written);
        for level in 1..=new_root {
            let mut nodes: BTreeSet<u64> = edits.keys().map(|n| n / FANOUT).collect();
            nodes.extend(self.stale_nodes(level, resized).await?);
            if level == new_root {
                nodes.insert(0);
            }
            let mut pages = Vec::with_capacity(nodes.len());
            for node in nodes {
                let mut page = self.base_page(level, node).await?;
                let first = node * FANOUT;
                for (number, page_ref) in edits.range(first..first + FANOUT) {
                    if let Some(slot) = page.refs.get_mut((number - first) as usize) {
                        *slot = page_ref.clone();
                    }
                }
                pages.push((node, page));
            }
            if level == new_root {
                let root = pages.into_iter().next().map(|(_, page)| page);
                return Ok(root.unwrap_or_else(|| Page::zero(level, 0)));
            }
            edits = self.write_pages(level, pages).await?;
        }
        Ok(Page::zero(new_root, 0))
    }

    /// Leaves that must be written although no chunk in them was set.
    async fn stale_leaves(&self, resized: bool) -> Result<BTreeSet<u64>> {
        let leaves = pages_of_level(self.geometry.chunk_count(), 0);
        let mut stale = BTreeSet::new();
        if resized {
            let ends = [self.valid_chunks, self.base.geometry.chunk_count(), self.geometry.chunk_count()];
            stale.extend(ends.iter().flat_map(|&end| [end / FANOUT, end.saturating_sub(1) / FANOUT]));
        }
        if !self.forbidden.is_empty() {
            for number in 0..self.base.leaf_count() {
                if self.forbidden.page(&self.base.leaf_ref(number).await?) {
                    stale.insert(number);
                }
            }
        }
        stale.retain(|n| *n < leaves);
        Ok(stale)
    }

    /// Pages above the leaves that must be written although nothing below them changed.
    async fn stale_nodes(&self, level: u8, resized: bool) -> Result<BTreeSet<u64>> {
        let chunks = self.geometry.chunk_count();
        let (nodes, old_nodes) =
            (pages_of_level(chunks, level), pages_of_level(self.base.geometry.chunk_count(), level));
        let mut stale = BTreeSet::new();
        if resized {
            let ends = [nodes, old_nodes, pages_of_level(self.valid_chunks, level)];
            stale.extend(ends.iter().map(|end| end.saturating_sub(1)));
        }
        if level == self.base.root.level {
            // The old root was part of a record; below a taller tree it becomes a page.
            stale.insert(0);
        }
        if !self.forbidden.is_empty() && level < self.base.root.level {
            for number in 0..old_nodes {
                if self.forbidden.page(&self.base.page_ref(level, number).await?) {
                    stale.insert(number);
                }
            }
        }
        stale.retain(|n| *n < nodes);
        Ok(stale)
    }

    async fn write_leaves(&mut self, numbers: &[u64]) -> Result<()> {
        let leaves = numbers.iter().filter_map(|n| Some((*n, self.dirty.remove(n)?))).collect();
        let written = self.write_pages(0, leaves).await?;
        self.written.extend(written);
        Ok(())
    }

    async fn write_pages(&self, level: u8, pages: Vec<(u64, Page)>) -> Result<BTreeMap<u64, PageRef>> {
        stream::iter(pages)
            .map(|(number, page)| async move {
                let old = match level < self.base.root.level && number < self.old_pages(level) {
                    true => self.base.page_ref(level, number).await?,
                    false => PageRef::Zero,
                };
                Ok((number, self.write_page(page, old).await?))
            })
            .buffer_unordered(PAGES_INFLIGHT_MAX)
            .try_collect()
            .await
    }

    fn old_pages(&self, level: u8) -> u64 {
        pages_of_level(self.base.geometry.chunk_count(), level)
    }

    async fn write_page(&self, page: Page, old: PageRef) -> Result<PageRef> {
        if page.is_zero() {
            return Ok(PageRef::Zero);
        }
        let project = self.base.project.clone();
        let (generation, keep) = (self.generation, old.id().filter(|_| !self.forbidden.page(&old)));
        let forbidden = Arc::clone(&self.forbidden);
        let sealed = cpu::run(move || {
            let plain = page.encode();
            let id = project.identify_page(&plain);
            if keep == Some(id) {
                return Ok(None);
            }
            let mut name = ContentName::plain(generation, id);
            // What stood there is lost: whatever stands there now is not built upon.
            if forbidden.name(ContentKind::Page, name) {
                name.variant = u32::from_le_bytes(random_array()?).max(1);
            }
            let name = project.content().page_name(name);
            codec::seal(project.place(&name), &plain, METADATA_LEVEL).map(Some)
        })
        .await?;
        match sealed {
            None => Ok(old),
            Some(sealed) => Ok(PageRef::full(self.writer.content().put(sealed, false).await?.object)),
        }
    }
}
