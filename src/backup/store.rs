//! Stores what is new, and sets each chunk's ref once it is durable.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::backup::bundle::{Bundler, Filled, Waiting};
use crate::backup::context::Context;
use crate::backup::encode::{Encoded, Encoder, Made, NewChunk};
use crate::backup::manifest::Draft;
use crate::backup::why::Distrust;
use crate::budget::{Share, shrink};
use crate::error::{Error, Result};
use crate::format::page::{ObjectRef, PageRef};
use crate::format::record::BackupStats;
use crate::plan::delta::Chain;
use crate::plan::level::Gauge;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::content::Uploaded;
use crate::units::{ChunkId, ChunkIndex};

/// A chunk on its way into the manifest.
pub(super) struct Item {
    pub index: ChunkIndex,
    pub len_bytes: u32,
    pub encoded: Encoded,
    /// Keeps the chunk's memory accounted for until it is durable.
    pub share: Option<Share>,
    /// Re-read only to see that it is unchanged.
    pub sample: bool,
}

/// An upload that ended: a chunk, or all of a bundle.
pub(super) struct Durable {
    chunks: Vec<DurableChunk>,
    /// Of the bundle's table.
    table_bytes: u32,
}

struct DurableChunk {
    index: ChunkIndex,
    id: ChunkId,
    uploaded: Uploaded,
    chain: Option<Chain>,
    len_bytes: u32,
    _share: Option<Share>,
}

pub(super) struct Storer<D> {
    pub draft: D,
    pub encoder: Arc<Encoder>,
    progress: Arc<dyn Progress>,
    /// Under way. Whoever takes one hands it to [`stored`](Self::stored).
    pub uploads: FuturesUnordered<BoxFuture<'static, Result<Durable>>>,
    /// What waits for bundles to be full.
    bundler: Bundler,
    waiting: HashMap<ChunkId, Vec<ChunkIndex>>,
    pub stats: BackupStats,
    memory_bytes: u64,
    gauge: Gauge,
    /// The least and the greatest level of what is new.
    levels: Option<[i32; 2]>,
    /// Why what the source says of changes is not to be relied on.
    pub distrust: Option<Distrust>,
    /// Chunks that the manifest goes on naming although they are lost: nobody here has their content.
    pub kept_lost: u64,
}

/// All that a backup has to commit, but for the manifest's pages.
pub(super) struct Done<D> {
    pub draft: D,
    pub stats: BackupStats,
    pub levels: Option<[i32; 2]>,
    pub kept_lost: u64,
}

impl<D: Draft> Storer<D> {
    pub(super) fn new(cx: &Context<'_>, encoder: Arc<Encoder>, draft: D) -> Self {
        Self {
            draft,
            encoder,
            progress: Arc::clone(&cx.progress),
            uploads: FuturesUnordered::new(),
            bundler: Bundler::new(cx.budget.total_bytes(), cx.project.chunk_size_bytes()),
            waiting: HashMap::new(),
            stats: BackupStats::default(),
            memory_bytes: cx.budget.total_bytes(),
            gauge: Gauge::new(cx.options.level),
            levels: None,
            distrust: None,
            kept_lost: 0,
        }
    }

    /// Takes a chunk; what is new begins to be uploaded.
    pub(super) async fn accept(&mut self, item: Item) -> Result<()> {
        let Item { index, len_bytes, encoded, share, sample } = item;
        if sample && !matches!(encoded, Encoded::Same) {
            self.distrust.get_or_insert(Distrust::Missed(index));
        }
        match encoded {
            Encoded::Same => self.known(len_bytes),
            Encoded::StillZero { chunks, bytes } => self.zeros(chunks, bytes),
            Encoded::Zero => {
                self.zeros(1, u64::from(len_bytes));
                self.draft.set(index, PageRef::Zero).await?;
            }
            Encoded::Known(chunk) => {
                self.known(len_bytes);
                self.draft.set(index, chunk).await?;
            }
            Encoded::Found(chunk) => {
                self.known(len_bytes);
                self.settle(index, chunk).await?;
            }
            Encoded::Pending(id) => {
                self.known(len_bytes);
                self.wait_for(id, index).await?;
            }
            Encoded::New(new) => self.upload(index, len_bytes, *new, share),
            Encoded::BaseDiffers => {
                self.distrust.get_or_insert(Distrust::Base(index));
            }
        }
        Ok(())
    }

    /// Begins to upload a chunk, or collects it for a bundle.
    fn upload(&mut self, index: ChunkIndex, len_bytes: u32, new: NewChunk, share: Option<Share>) {
        let NewChunk { id, made, chain } = new;
        self.waiting.entry(id).or_default();
        self.set_level(len_bytes, made.len_bytes());
        match made {
            Made::Object(sealed) => {
                let put = self.draft.put(sealed, self.encoder.known.is_listed(&id));
                self.uploads.push(Box::pin(async move {
                    let uploaded = put.await?;
                    let chunk = DurableChunk { index, id, uploaded, chain, len_bytes, _share: share };
                    Ok(Durable { chunks: vec![chunk], table_bytes: 0 })
                }));
            }
            Made::Piece(piece) => {
                let share = share.map(|share| shrink(share, u64::from(piece.len_bytes())));
                if let Some(filled) = self.bundler.push(piece, Waiting { index, id, chain, len_bytes, share })
                {
                    self.upload_bundle(filled);
                }
            }
        }
    }

    /// What is compressed from now on is compressed as hard as is worth it.
    fn set_level(&mut self, len_bytes: u32, sealed_len_bytes: u32) {
        // About the level that it was made with: others may be under way.
        let level = self.encoder.level();
        let [least, greatest] = self.levels.unwrap_or([level; 2]);
        self.levels = Some([least.min(level), greatest.max(level)]);
        // Each takes the memory of a chunk until it is durable, a bundle twice that.
        let waiting_bytes = self.uploads.len() as u64 * u64::from(self.encoder.project.chunk_size_bytes());
        self.gauge.stored(len_bytes.into(), sealed_len_bytes.into(), waiting_bytes, self.memory_bytes);
        self.encoder.set_level(self.gauge.level());
    }

    /// Begins to upload what waits for bundles to be full. Whoever waits for all uploads calls it first.
    pub(super) fn flush(&mut self) {
        for filled in self.bundler.take() {
            self.upload_bundle(filled);
        }
    }

    fn upload_bundle(&mut self, filled: Filled) {
        let (pieces, waiting) = filled.into_parts();
        let put = self.draft.put_bundle(pieces);
        self.uploads.push(Box::pin(async move {
            let objects = put.await?;
            let table_bytes = table_len_bytes(&objects);
            let chunks = waiting.into_iter().zip(objects).map(|(waiting, object)| {
                let Waiting { index, id, chain, len_bytes, share } = waiting;
                let uploaded = Uploaded { object, new: true };
                DurableChunk { index, id, uploaded, chain, len_bytes, _share: share }
            });
            Ok(Durable { chunks: chunks.collect(), table_bytes })
        }));
    }

    /// A bundle of pieces that were stored before is durable.
    pub(super) fn carried(&mut self, pieces: &[ObjectRef]) {
        let bytes = pieces.iter().map(|piece| u64::from(piece.sealed_len_bytes)).sum::<u64>();
        self.stats.stored_bytes += u64::from(table_len_bytes(pieces)) + bytes;
    }

    /// An upload is durable: its chunks, and all that waited for the same content, get their refs.
    pub(super) async fn stored(&mut self, durable: Durable) -> Result<()> {
        self.stats.stored_bytes += u64::from(durable.table_bytes);
        for chunk in durable.chunks {
            self.stored_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn stored_chunk(&mut self, durable: DurableChunk) -> Result<()> {
        let DurableChunk { index, id, uploaded, chain, len_bytes, .. } = durable;
        let chunk = NewChunk::chunk_ref(id, chain.as_ref(), uploaded.object);
        match uploaded.new {
            true => self.new_chunk(len_bytes, uploaded.object.sealed_len_bytes, chain.is_some()),
            false => self.known(len_bytes),
        }
        self.settle(index, chunk).await
    }

    /// A chunk is durable: it and all that waited for the same content get its ref.
    async fn settle(&mut self, index: ChunkIndex, chunk: PageRef) -> Result<()> {
        self.encoder.known.stored(&chunk);
        let waiting = chunk.id().and_then(|id| self.waiting.remove(&id));
        for waiter in waiting.unwrap_or_default() {
            self.draft.set(waiter, chunk.clone()).await?;
        }
        self.draft.set(index, chunk).await
    }

    /// The encoder saw the content before this chunk, so its upload is under way or on its way here; or it was stored
    /// between the encoder's look and now.
    async fn wait_for(&mut self, id: ChunkId, index: ChunkIndex) -> Result<()> {
        match self.encoder.known.stored_ref(id) {
            Some(chunk) => self.draft.set(index, chunk).await,
            None => {
                self.waiting.entry(id).or_default().push(index);
                Ok(())
            }
        }
    }

    fn new_chunk(&mut self, len_bytes: u32, sealed_len_bytes: u32, is_delta: bool) {
        let stored_bytes = u64::from(sealed_len_bytes);
        self.stats.new_chunks += 1;
        self.stats.new_bytes += u64::from(len_bytes);
        self.stats.stored_bytes += stored_bytes;
        if is_delta {
            self.stats.delta_chunks += 1;
            self.stats.delta_bytes += stored_bytes;
        }
        self.step(1, u64::from(len_bytes), Outcome::New);
    }

    fn known(&mut self, len_bytes: u32) {
        self.stats.known_chunks += 1;
        self.step(1, u64::from(len_bytes), Outcome::Known);
    }

    /// Chunks that are zero, whatever they were.
    pub(super) fn zeros(&mut self, chunks: u64, bytes: u64) {
        self.stats.zero_chunks += chunks;
        self.step(chunks, bytes, Outcome::Zero);
    }

    fn step(&self, chunks: u64, bytes: u64, outcome: Outcome) {
        self.progress.step(Step { bytes, chunks, outcome });
    }

    /// Nothing is under way any more.
    pub(super) fn finish(self) -> Result<Done<D>> {
        let (waiting, uploads) = (self.waiting.len(), self.uploads.len() + self.bundler.len());
        if waiting + uploads > 0 {
            return Err(Error::internal(format!(
                "{waiting} chunks wait for uploads that never came, and {uploads} uploads for their end"
            )));
        }
        Ok(Done { draft: self.draft, stats: self.stats, levels: self.levels, kept_lost: self.kept_lost })
    }
}

/// Of the table of a bundle with these pieces.
fn table_len_bytes(pieces: &[ObjectRef]) -> u32 {
    pieces.first().and_then(|first| first.name.offset_bytes).unwrap_or_default()
}
