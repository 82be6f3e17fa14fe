//! What a target holds, as far as that is known without reading it.

use std::collections::BTreeSet;

use crate::chunker::{self, Span, Unlisted};
use crate::error::Result;
use crate::format::REFS_PER_PAGE;
use crate::plan::restore::{Local, Window};
use crate::reading::local::LocalReader;
use crate::reading::sample;
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::restore::rewind::Rewind;
use crate::source::{Content, Extent};
use crate::units::{ChunkIndex, Geometry, SnapshotId};

/// What a manifest says, but for some spans.
pub(crate) struct Known {
    manifest: Manifest,
    spans: Vec<Span>,
}

impl Known {
    /// All that a target of this geometry did not change since a backup is what that backup says.
    pub(crate) fn rewind(project: &Project, rewind: &Rewind, geometry: Geometry) -> Result<Self> {
        let mut changes = rewind.since.changes.clone();
        // Where the target ends too early it has nothing yet; it is read as what it will be when it has grown.
        if rewind.since.size_bytes < geometry.size_bytes {
            let (offset_bytes, length_bytes) =
                (rewind.since.size_bytes, geometry.size_bytes - rewind.since.size_bytes);
            changes.push(Extent { offset_bytes, length_bytes, content: Content::Zero });
        }
        let spans = chunker::spans(&changes, geometry, Unlisted::Unchanged, &BTreeSet::new());
        Ok(Self { manifest: Manifest::of(project, &rewind.base)?, spans })
    }

    /// A target that holds all of a manifest, but perhaps where it was written to.
    pub(crate) fn written(manifest: Manifest, written: &[Extent]) -> Self {
        let spans = chunker::spans(written, manifest.geometry(), Unlisted::Unchanged, &BTreeSet::new());
        let read = |span: Span| Span { read: true, ..span };
        Self { manifest, spans: spans.into_iter().map(read).collect() }
    }

    /// Reads some chunks that did not change, to see whether that is true: the first that did.
    pub(crate) async fn contradicted(
        &self,
        reader: &LocalReader,
        geometry: Geometry,
        cursor: u64,
        seed: SnapshotId,
    ) -> Result<Option<ChunkIndex>> {
        let base = self.manifest.geometry();
        for index in sample::choose(&self.manifest, &self.spans, cursor, seed).await?.chunks {
            if base.chunk_len_bytes(index) != geometry.chunk_len_bytes(index) {
                continue;
            }
            let (leaf, at) = (index.0 / REFS_PER_PAGE as u64, (index.0 % REFS_PER_PAGE as u64) as usize);
            let window = Window::of_leaves(base, leaf, vec![self.manifest.leaf(leaf).await?]);
            let mut known = vec![Some(Local::Zero); window.chunks().count()];
            if let Some(place) = known.get_mut(at) {
                *place = None;
            }
            let found = reader.look_where(&window, known).await?;
            if found.get(at) != Some(&self.at(index).await?) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// What the manifest says of a chunk.
    async fn at(&self, index: ChunkIndex) -> Result<Local> {
        Ok(self.manifest.chunk(index).await?.id().map_or(Local::Zero, Local::Content))
    }

    /// What the target holds of a window. Only what is not known is read.
    pub(crate) async fn look(&self, reader: &LocalReader, window: &Window) -> Result<Vec<Local>> {
        let mut known = Vec::with_capacity(window.chunks().count());
        for index in window.chunks().map(ChunkIndex) {
            known.push(match chunker::find(&self.spans, index) {
                Some(span) if span.read => None,
                Some(_) => Some(Local::Zero),
                None => Some(self.at(index).await?),
            });
        }
        reader.look_where(window, known).await
    }
}
