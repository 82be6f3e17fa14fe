//! What lies between two snapshots, from manifest pages alone: pages of equal names are not read.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use crate::chunker::{self, Span};
use crate::error::Result;
use crate::format::REFS_PER_PAGE;
use crate::format::page::{LEVEL_MAX, Page, PageRef};
use crate::format::record::Snapshot;
use crate::plan::restore::{Action, Local, Plan, Share, Target, Totals, Window, plan};
use crate::reading::check_chunk_size;
use crate::reading::local::LocalReader;
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::units::{ChunkIndex, Geometry};

/// Leaves in a window, of which those that changed are read: 32 GiB of a volume at 4 MiB a chunk.
const WINDOW_LEAVES: u64 = 8;
/// As many where some of the first is read, all of it before anything is fetched.
const WINDOW_LEAVES_READ: u64 = 1;
/// Leaves read at once, of each of the two.
const LEAVES_INFLIGHT_MAX: usize = 8;
const FANOUT: u64 = REFS_PER_PAGE as u64;

/// Compares two manifests window by window, in ascending order.
///
/// What it plans turns the first snapshot into the second, once that was cut or grown to the second's size: beyond its
/// end the first reads as zeros. Chunks are compared by id, so the two must be of one project.
pub(crate) struct Changes {
    from: Manifest,
    to: Manifest,
    next_leaf: u64,
    written: Option<Written>,
}

/// Where the first is not what its manifest says.
struct Written {
    reader: LocalReader,
    spans: Vec<Span>,
}

impl Changes {
    /// `None` stands for a volume of no size: then all that is not zero is a change.
    pub(crate) fn between(project: &Project, from: Option<&Snapshot>, to: &Snapshot) -> Result<Self> {
        let manifest = |snapshot: &Snapshot| {
            check_chunk_size(project, snapshot)?;
            Manifest::of(project, snapshot)
        };
        let to = manifest(to)?;
        let empty = Geometry { size_bytes: 0, ..to.geometry() };
        let from = from.map_or_else(|| Ok(Manifest::zero(project, empty)), manifest)?;
        Ok(Self { from, to, next_leaf: 0, written: None })
    }

    /// What the first holds was written to since, in these spans: there it is read, or is zero. It has the second's size.
    pub(crate) fn written_since(self, reader: LocalReader, spans: Vec<Span>) -> Self {
        Self { written: Some(Written { reader, spans }), ..self }
    }

    /// Bytes read of the first so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.written.as_ref().map_or(0, |written| written.reader.read_bytes())
    }

    /// What is done with the next window, however long it is where nothing changed; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Plan>> {
        let (first, count) = (self.next_leaf, self.to.leaf_count());
        if first >= count {
            return Ok(None);
        }
        let same = self.same_leaves(first).await?;
        if same > 0 {
            self.next_leaf = first.saturating_add(same).min(count);
            return Ok(Some(self.kept(first)));
        }
        let leaves = if self.written.is_some() { WINDOW_LEAVES_READ } else { WINDOW_LEAVES };
        self.next_leaf = first.saturating_add(leaves).min(count);
        let pairs: Vec<_> = stream::iter(first..self.next_leaf)
            .map(|number| self.pair(number))
            .buffered(LEAVES_INFLIGHT_MAX)
            .try_collect()
            .await?;
        let (leaves, found): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let window = Window::of_leaves(self.to.geometry(), first, leaves);
        plan(&window, Target::Content(&found.concat())).map(Some)
    }

    /// How many leaves from here on are the same in both, as far as that shows without reading them.
    async fn same_leaves(&self, first: u64) -> Result<u64> {
        let (mut at, end) = (first, self.to.leaf_count());
        while at < end {
            match self.same_step(at).await? {
                0 => break,
                step => at = at.saturating_add(step),
            }
        }
        Ok(at - first)
    }

    /// The leaves below the highest page that begins at this leaf and is the same in both; 0 where not even the leaf is.
    async fn same_step(&self, leaf: u64) -> Result<u64> {
        for level in (0..=LEVEL_MAX).rev() {
            let leaves = FANOUT.pow(u32::from(level));
            if leaf.is_multiple_of(leaves)
                && !self.is_written(leaf.saturating_mul(FANOUT), leaves.saturating_mul(FANOUT))
                && let Some(to) = page_ref(&self.to, level, leaf / leaves).await?
                && let Some(from) = page_ref(&self.from, level, leaf / leaves).await?
                && to.id() == from.id()
            {
                return Ok(leaves);
            }
        }
        Ok(0)
    }

    fn is_written(&self, first_chunk: u64, count: u64) -> bool {
        let chunks = first_chunk..first_chunk.saturating_add(count);
        self.written.as_ref().is_some_and(|written| chunker::meets(&written.spans, chunks))
    }

    /// A leaf, and what the first snapshot holds there. Where both are the same, both are zero here: to the plan that is
    /// as good, and nothing is read.
    async fn pair(&self, number: u64) -> Result<(Arc<Page>, Vec<Local>)> {
        if self.same_step(number).await? > 0 {
            let refs =
                self.to.geometry().chunk_count().saturating_sub(number.saturating_mul(FANOUT)).min(FANOUT);
            return Ok((Arc::new(Page::zero(0, refs as usize)), vec![Local::Zero; refs as usize]));
        }
        let to = self.to.leaf(number).await?;
        let from = match number < self.from.leaf_count() {
            true => self.from.leaf(number).await?,
            false => Arc::new(Page::zero(0, 0)),
        };
        let local = |at: usize| {
            let index = ChunkIndex(number.saturating_mul(FANOUT).saturating_add(at as u64));
            // The chunk that one of the two ends lies in is another one, even where a manifest says otherwise.
            let cut =
                self.from.geometry().chunk_len_bytes(index) != self.to.geometry().chunk_len_bytes(index);
            match from.refs.get(at).and_then(PageRef::id) {
                None => Local::Zero,
                Some(_) if cut => Local::NotZero,
                Some(id) => Local::Content(id),
            }
        };
        let found: Vec<Local> = (0..to.refs.len()).map(local).collect();
        let Some(Written { reader, spans }) = &self.written else { return Ok((to, found)) };
        let window = Window::of_leaves(self.to.geometry(), number, vec![Arc::clone(&to)]);
        let known = window.chunks().map(ChunkIndex).zip(found).map(|(index, found)| {
            match chunker::find(spans, index) {
                Some(span) if span.read => None,
                Some(_) => Some(Local::Zero),
                None => Some(found),
            }
        });
        let found = reader.look_where(&window, known.collect()).await?;
        Ok((to, found))
    }

    /// The plan for leaves that are the same, up to where the next window begins.
    fn kept(&self, first: u64) -> Plan {
        let chunks = first.saturating_mul(FANOUT)..self.next_leaf.saturating_mul(FANOUT);
        let window = Window::zero(self.to.geometry(), chunks);
        let (chunks, range_bytes) = (window.chunks(), window.range_bytes());
        let keep = Share { chunks: chunks.end - chunks.start, bytes: range_bytes.end - range_bytes.start };
        Plan { actions: vec![Action::Keep { range_bytes }], totals: Totals { keep, ..Totals::default() } }
    }
}

/// The ref to a page below the root; zero beyond the end. `None` where no ref says what is there: at the root and above.
async fn page_ref(manifest: &Manifest, level: u8, number: u64) -> Result<Option<PageRef>> {
    let leaves_below = FANOUT.pow(u32::from(level));
    if number.saturating_mul(leaves_below) >= manifest.leaf_count() {
        return Ok(Some(PageRef::Zero));
    }
    if level >= manifest.root().level {
        return Ok(None);
    }
    manifest.page_ref(level, number).await.map(Some)
}
