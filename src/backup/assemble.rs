//! Where a backup comes together: uploads what is new, and sets each chunk's ref once it is durable.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;

use crate::backup::encode::{Encoded, Encoder, NewChunk};
use crate::error::{Error, Result};
use crate::format::page::{Page, PageRef};
use crate::format::record::BackupStats;
use crate::plan::delta::Chain;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::Project;
use crate::repo::content::Uploaded;
use crate::repo::manifest::ManifestBuilder;
use crate::units::{ChunkId, ChunkIndex};

/// A chunk on its way into the manifest.
pub struct Item {
    pub index: ChunkIndex,
    pub len_bytes: u32,
    pub encoded: Encoded,
    /// Keeps the chunk's memory accounted for until it is durable.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Re-read only to see that it is unchanged.
    pub sample: bool,
}

/// An upload that ended.
pub struct Stored {
    index: ChunkIndex,
    id: ChunkId,
    uploaded: Uploaded,
    chain: Option<Chain>,
    len_bytes: u32,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Uploads under way.
pub type Uploads = FuturesUnordered<BoxFuture<'static, Result<Stored>>>;

pub struct Assembler {
    project: Project,
    encoder: Arc<Encoder>,
    progress: Arc<dyn Progress>,
    /// `None` in a dry run, which only counts.
    builder: Option<ManifestBuilder>,
    waiting: HashMap<ChunkId, Vec<ChunkIndex>>,
    pub stats: BackupStats,
    /// Why what the source says of changes is not to be relied on.
    pub distrust: Option<Distrust>,
    /// Chunks that the manifest goes on naming although they are lost: nobody here has their content.
    pub kept_lost: u64,
}

/// A chunk that gives the source away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// It differs from the parent's, although no change was reported.
    Missed(ChunkIndex),
    /// In the parent's snapshot, as the source has it, it is not what the parent's backup has.
    Base(ChunkIndex),
}

impl Assembler {
    pub fn new(
        project: &Project,
        encoder: Arc<Encoder>,
        builder: Option<ManifestBuilder>,
        progress: Arc<dyn Progress>,
    ) -> Self {
        Self {
            project: project.clone(),
            encoder,
            progress,
            builder,
            waiting: HashMap::new(),
            stats: BackupStats::default(),
            distrust: None,
            kept_lost: 0,
        }
    }

    pub fn builder(&mut self) -> Option<&mut ManifestBuilder> {
        self.builder.as_mut()
    }

    /// Takes a chunk; what is new goes into `uploads`.
    pub async fn accept(&mut self, item: Item, uploads: &Uploads) -> Result<()> {
        let Item { index, len_bytes, encoded, permit, sample } = item;
        if sample && !matches!(encoded, Encoded::Same) {
            self.distrust.get_or_insert(Distrust::Missed(index));
        }
        match encoded {
            Encoded::Same => {
                self.stats.known_chunks += 1;
                self.step(len_bytes, Outcome::Known);
            }
            Encoded::StillZero { chunks, bytes } => {
                self.stats.zero_chunks += chunks;
                self.progress.step(Step { bytes, chunks, outcome: Outcome::Zero });
            }
            Encoded::Zero => {
                self.stats.zero_chunks += 1;
                self.step(len_bytes, Outcome::Zero);
                self.set(index, PageRef::Zero).await?;
            }
            Encoded::Known(chunk) => {
                self.stats.known_chunks += 1;
                self.step(len_bytes, Outcome::Known);
                self.set(index, chunk).await?;
            }
            Encoded::Pending(id) => {
                self.stats.known_chunks += 1;
                self.step(len_bytes, Outcome::Known);
                self.wait_for(id, index).await?;
            }
            Encoded::New(chunk) => self.upload(index, chunk, len_bytes, permit, uploads),
            Encoded::BaseDiffers => {
                self.distrust.get_or_insert(Distrust::Base(index));
            }
        }
        Ok(())
    }

    fn upload(
        &mut self,
        index: ChunkIndex,
        chunk: NewChunk,
        len_bytes: u32,
        permit: Option<OwnedSemaphorePermit>,
        uploads: &Uploads,
    ) {
        let NewChunk { id, sealed, chain } = chunk;
        if self.builder.is_none() {
            self.count_new(len_bytes, sealed.len_bytes(), chain.is_some());
            return;
        }
        self.waiting.entry(id).or_default();
        let (project, is_listed) = (self.project.clone(), chain.is_none() && self.encoder.is_listed(&id));
        uploads.push(Box::pin(async move {
            let uploaded = project.content().put(sealed, is_listed).await?;
            Ok(Stored { index, id, uploaded, chain, len_bytes, _permit: permit })
        }));
    }

    /// An upload is durable: its chunk, and all that waited for the same content, get their ref.
    pub async fn stored(&mut self, stored: Stored) -> Result<()> {
        let Stored { index, id, uploaded, chain, len_bytes, .. } = stored;
        let chunk = NewChunk::chunk_ref(chain.as_ref(), uploaded.object);
        self.encoder.stored(&chunk);
        if uploaded.new {
            self.count_new(len_bytes, uploaded.object.sealed_len_bytes, chain.is_some());
        } else {
            self.stats.known_chunks += 1;
            self.step(len_bytes, Outcome::Known);
        }
        for waiter in self.waiting.remove(&id).unwrap_or_default() {
            self.set(waiter, chunk.clone()).await?;
        }
        self.set(index, chunk).await
    }

    fn count_new(&mut self, len_bytes: u32, sealed_len_bytes: u32, is_delta: bool) {
        let stored_bytes = u64::from(sealed_len_bytes);
        self.stats.new_chunks += 1;
        self.stats.new_bytes += u64::from(len_bytes);
        self.stats.stored_bytes += stored_bytes;
        if is_delta {
            self.stats.delta_chunks += 1;
            self.stats.delta_bytes += stored_bytes;
        }
        self.step(len_bytes, Outcome::New);
    }

    /// The encoder saw the content before this chunk, so its upload is under way or on its way here; or it was stored
    /// between the encoder's look and now.
    async fn wait_for(&mut self, id: ChunkId, index: ChunkIndex) -> Result<()> {
        if self.builder.is_none() {
            return Ok(());
        }
        match self.encoder.stored_ref(id) {
            Some(chunk) => self.set(index, chunk).await,
            None => {
                self.waiting.entry(id).or_default().push(index);
                Ok(())
            }
        }
    }

    pub async fn set(&mut self, index: ChunkIndex, chunk: PageRef) -> Result<()> {
        match &mut self.builder {
            Some(builder) => builder.set(index, chunk).await,
            None => Ok(()),
        }
    }

    /// Nothing is under way any more: writes the pages and returns the root.
    pub async fn finish(self) -> Result<(Option<Page>, BackupStats)> {
        if !self.waiting.is_empty() {
            return Err(Error::internal(format!(
                "{} chunks wait for uploads that never came",
                self.waiting.len()
            )));
        }
        match self.builder {
            Some(builder) => Ok((Some(builder.finish().await?), self.stats)),
            None => Ok((None, self.stats)),
        }
    }

    pub fn step(&self, len_bytes: u32, outcome: Outcome) {
        self.progress.step(Step { bytes: u64::from(len_bytes), chunks: 1, outcome });
    }
}
