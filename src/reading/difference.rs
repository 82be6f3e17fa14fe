//! What lies between two snapshots, from manifest pages alone: pages of equal names are not read.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

use crate::chunker::{self, Span};
use crate::error::Result;
use crate::format::REFS_PER_PAGE;
use crate::format::page::{Page, PageRef};
use crate::format::record::Snapshot;
use crate::plan::restore::{Local, Plan, Target, Window, plan};
use crate::reading::check_chunk_size;
use crate::reading::local::LocalReader;
use crate::repo::Project;
use crate::repo::walk::{Node, Tree, Walk, Walker};
use crate::repo::windows::{Part, Windows};
use crate::units::ChunkIndex;

const FANOUT: u64 = REFS_PER_PAGE as u64;

/// Compares two manifests window by window, in ascending order.
///
/// What it plans turns the first snapshot into the second, once that was cut or grown to the second's size: beyond its
/// end the first reads as zeros. Chunks are compared by id, so the two must be of one project.
pub(crate) struct Difference {
    windows: Windows<Between>,
    /// Reads the first where it was written to.
    reader: Option<LocalReader>,
}

struct Between {
    project: Project,
    /// Where the first is not what its manifest says.
    written: Vec<Span>,
}

impl Walker for Between {
    type Flaw = Infallible;

    fn skips(&self, leaves: Range<u64>) -> bool {
        let chunks = leaves.start.saturating_mul(FANOUT)..leaves.end.saturating_mul(FANOUT);
        !chunker::meets(&self.written, chunks)
    }

    async fn read(&self, node: &Node) -> Result<std::result::Result<Page, Infallible>> {
        self.project.content().read_page(&node.object, node.level, node.count).await.map(Ok)
    }
}

impl Difference {
    /// `None` stands for a volume of no size: then all that is not zero is a change.
    pub(crate) fn between(project: &Project, from: Option<&Snapshot>, to: &Snapshot) -> Result<Self> {
        let tree = |snapshot: &Snapshot| {
            check_chunk_size(project, snapshot)?;
            Tree::of(snapshot)
        };
        let (to, walker) = (tree(to)?, Between { project: project.clone(), written: Vec::new() });
        let walk = match from {
            Some(from) => Walk::between(walker, tree(from)?, to),
            None => Walk::over(walker, to),
        };
        Ok(Self { windows: Windows::new(walk), reader: None })
    }

    /// What the first holds was written to since, in these spans: there it is read, or is zero. It has the second's size.
    pub(crate) fn written_since(self, reader: LocalReader, spans: Vec<Span>) -> Self {
        let mut windows = self.windows.short();
        windows.walk.walker.written = spans;
        Self { windows, reader: Some(reader) }
    }

    /// Bytes read of the first so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.reader.as_ref().map_or(0, LocalReader::read_bytes)
    }

    /// What is done with the next window, however long it is where nothing changed; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Plan>> {
        let Some(Part { window, from }) = self.windows.next().await? else { return Ok(None) };
        // What is the same is kept, as zeros of a blank target are.
        let Some(from) = from else { return plan(&window, Target::Blank).map(Some) };
        let mut found = self.found(&window, &from);
        if let Some(reader) = &self.reader {
            let written = &self.windows.walk.walker.written;
            let known =
                window.chunks().map(ChunkIndex).zip(found).map(|(index, found)| {
                    match chunker::find(written, index) {
                        Some(span) if span.read => None,
                        Some(_) => Some(Local::Zero),
                        None => Some(found),
                    }
                });
            found = reader.look_where(&window, known.collect()).await?;
        }
        plan(&window, Target::Content(&found)).map(Some)
    }

    /// What the first holds over a window, by its pages.
    fn found(&self, window: &Window, pages: &[Arc<Page>]) -> Vec<Local> {
        let (from, to) = self.windows.walk.geometries();
        let chunks = window.chunks();
        let local = |index: u64| {
            let at = (index - chunks.start) as usize;
            let page = pages.get(at / REFS_PER_PAGE);
            let held = page.and_then(|page| page.refs.get(at % REFS_PER_PAGE)).and_then(PageRef::id);
            let index = ChunkIndex(index);
            match held {
                None => Local::Zero,
                // The chunk that one of the two ends lies in is another one, even where a manifest says otherwise.
                Some(_) if from.chunk_len_bytes(index) != to.chunk_len_bytes(index) => Local::NotZero,
                Some(id) => Local::Content(id),
            }
        };
        chunks.clone().map(local).collect()
    }
}
