//! Where a backup comes together: uploads what is new, and sets each chunk's ref once it is durable.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::OwnedSemaphorePermit;

use crate::backup::encode::{Encoded, Encoder};
use crate::codec::Sealed;
use crate::error::{Error, Result};
use crate::format::page::{Page, PageRef};
use crate::format::record::BackupStats;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::Project;
use crate::repo::chunks::Uploaded;
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
    /// The first sampled chunk that was not what the parent has, although the source reported no change.
    pub missed: Option<ChunkIndex>,
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
            missed: None,
        }
    }

    pub fn builder(&mut self) -> Option<&mut ManifestBuilder> {
        self.builder.as_mut()
    }

    /// Takes a chunk; what is new goes into `uploads`.
    pub async fn accept(&mut self, item: Item, uploads: &Uploads) -> Result<()> {
        let Item { index, len_bytes, encoded, permit, sample } = item;
        if sample && !matches!(encoded, Encoded::Same) {
            self.missed.get_or_insert(index);
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
            Encoded::New(id, sealed) => self.upload(index, id, sealed, len_bytes, permit, uploads),
        }
        Ok(())
    }

    fn upload(
        &mut self,
        index: ChunkIndex,
        id: ChunkId,
        sealed: Sealed,
        len_bytes: u32,
        permit: Option<OwnedSemaphorePermit>,
        uploads: &Uploads,
    ) {
        if self.builder.is_none() {
            self.stats.new_chunks += 1;
            self.stats.new_bytes += u64::from(len_bytes);
            self.stats.stored_bytes += u64::from(sealed.len_bytes());
            self.step(len_bytes, Outcome::New);
            return;
        }
        self.waiting.entry(id).or_default();
        let project = self.project.clone();
        uploads.push(Box::pin(async move {
            let uploaded = project.put_content(sealed).await?;
            Ok(Stored { index, id, uploaded, len_bytes, _permit: permit })
        }));
    }

    /// An upload is durable: its chunk, and all that waited for the same content, get their ref.
    pub async fn stored(&mut self, stored: Stored) -> Result<()> {
        let Stored { index, id, uploaded, len_bytes, .. } = stored;
        let object = uploaded.object;
        self.encoder.stored(&object);
        if uploaded.new {
            self.stats.new_chunks += 1;
            self.stats.new_bytes += u64::from(len_bytes);
            self.stats.stored_bytes += u64::from(object.sealed_len_bytes);
            self.step(len_bytes, Outcome::New);
        } else {
            self.stats.known_chunks += 1;
            self.step(len_bytes, Outcome::Known);
        }
        self.set(index, PageRef::full(object)).await?;
        for waiter in self.waiting.remove(&id).unwrap_or_default() {
            self.set(waiter, PageRef::full(object)).await?;
        }
        Ok(())
    }

    /// The encoder saw the content before this chunk, so its upload is under way or on its way here; or it was stored
    /// between the encoder's look and now.
    async fn wait_for(&mut self, id: ChunkId, index: ChunkIndex) -> Result<()> {
        if self.builder.is_none() {
            return Ok(());
        }
        match self.encoder.stored_object(id) {
            Some(object) => self.set(index, PageRef::full(object)).await,
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
