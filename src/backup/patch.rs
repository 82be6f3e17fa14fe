//! Takes a stream's chunks as they come, patches what they cover in part onto what the volume held, and encodes.
//!
//! The stream is read once, by a thread of its own. A chunk that comes back after it was passed on is taken up again only
//! when everything before is in the manifest (a barrier), so its content is always the newest.

use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use crate::backup::cut::{Cutter, Piece};
use crate::backup::delta::{Below, joined};
use crate::backup::encode::{Before, Found};
use crate::backup::manifest::Draft;
use crate::backup::store::{Item, Storer};
use crate::budget::{Budget, Share, shrink};
use crate::cancel::{Cancel, interrupted};
use crate::cpu;
use crate::error::{Error, ErrorKind, Result};
use crate::format::page::{ObjectRef, PageRef};
use crate::plan::delta::Chain;
use crate::repo::Project;
use crate::repo::forbidden::Forbidden;
use crate::repo::manifest::Manifest;
use crate::source::StreamSource;
use crate::units::{ChunkIndex, Geometry};

/// What it takes besides the stream.
pub(super) struct Patching {
    pub project: Project,
    /// Where an equal chunk may be found by its place: the parent's manifest, also where the stream is a full one.
    pub before: Arc<Manifest>,
    pub forbidden: Arc<Forbidden>,
    /// How deep deltas may be, where there are to be any.
    pub delta_depth_max: Option<u8>,
    pub budget: Budget,
}

/// Reads a stream to its end, and stores it. Returns the volume's final size.
pub(super) async fn run<D: Draft>(
    patching: &Patching,
    source: Box<dyn StreamSource>,
    storer: &mut Storer<D>,
    cancel: &mut Cancel,
) -> Result<u64> {
    let (pieces_tx, mut pieces) = mpsc::channel(16);
    let cutter = Cutter::new(source, patching.budget.clone(), pieces_tx, patching.project.chunk_size_bytes());
    cpu::thread("stream", move || cutter.run())?;
    let mut consumer = Consumer { patching, storer, patches: FuturesUnordered::new() };
    consumer.run(&mut pieces, cancel).await
}

/// The async side.
struct Consumer<'a, D> {
    patching: &'a Patching,
    storer: &'a mut Storer<D>,
    patches: FuturesUnordered<BoxFuture<'static, Result<Item>>>,
}

impl<D: Draft> Consumer<'_, D> {
    async fn run(&mut self, pieces: &mut mpsc::Receiver<Piece>, cancel: &mut Cancel) -> Result<u64> {
        loop {
            // What is further on its way goes first, and makes room for the next.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(interrupted()),
                Some(durable) = self.storer.uploads.next(), if !self.storer.uploads.is_empty() => {
                    self.storer.stored(durable?).await?;
                }
                Some(item) = self.patches.next(), if !self.patches.is_empty() => {
                    self.storer.accept(item?).await?;
                }
                piece = pieces.recv() => match piece {
                    Some(Piece::Chunk { index, plain, given, share }) => {
                        self.chunk(index, plain, given, share).await?;
                    }
                    Some(Piece::Zeros { first, end }) => self.zeros(first, end).await?,
                    Some(Piece::Barrier { size_bytes, passed }) => {
                        self.drain(cancel).await?;
                        if let Some(size_bytes) = size_bytes {
                            self.resize(size_bytes).await?;
                        }
                        let _ = passed.send(());
                    }
                    Some(Piece::End { size_bytes }) => {
                        self.drain(cancel).await?;
                        self.resize(size_bytes).await?;
                        self.rescue().await?;
                        return Ok(size_bytes);
                    }
                    Some(Piece::Failed(error)) => return Err(error),
                    None => return Err(Error::internal("the stream's thread ended without a word")),
                },
            }
        }
    }

    async fn drain(&mut self, cancel: &mut Cancel) -> Result<()> {
        loop {
            // All that is under way fills one bundle.
            if self.patches.is_empty() {
                self.storer.flush();
            }
            if self.patches.is_empty() && self.storer.uploads.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(interrupted()),
                Some(durable) = self.storer.uploads.next(), if !self.storer.uploads.is_empty() => {
                    self.storer.stored(durable?).await?;
                }
                Some(item) = self.patches.next(), if !self.patches.is_empty() => {
                    self.storer.accept(item?).await?;
                }
            }
        }
    }

    /// The volume's bytes that lie in a chunk; raw bytes make the volume grow as they come.
    async fn chunk_len(&mut self, index: ChunkIndex, given_end: usize) -> Result<u32> {
        let geometry = self.storer.draft.geometry();
        let known = geometry.chunk_len_bytes(index);
        if known as usize >= given_end {
            return Ok(known);
        }
        self.resize(geometry.offset_bytes(index) + given_end as u64).await?;
        Ok(given_end as u32)
    }

    async fn chunk(
        &mut self,
        index: ChunkIndex,
        mut plain: Vec<u8>,
        mut given: Vec<Range<usize>>,
        share: Share,
    ) -> Result<()> {
        given.sort_unstable_by_key(|r| r.start);
        let given_bytes: usize = given.iter().map(Range::len).sum();
        self.storer.stats.read_bytes += given_bytes as u64;
        let len_bytes = self.chunk_len(index, given.last().map_or(0, |r| r.end)).await?;
        plain.truncate(len_bytes as usize);
        let before = self.before(index, len_bytes).await?;
        // What the chunk held so far fills the gaps.
        let under = match given_bytes < len_bytes as usize {
            true => Some(self.storer.draft.get(index).await?),
            false => None,
        };
        let chain = under.as_ref().and_then(|under| self.chain(under));
        let (project, encoder, budget) =
            (self.patching.project.clone(), Arc::clone(&self.storer.encoder), self.patching.budget.clone());
        self.patches.push(Box::pin(async move {
            let objects: Vec<ObjectRef> = under.iter().flat_map(PageRef::objects).copied().collect();
            let bodies = project.content().get_chunk_objects(&objects).await?;
            let chunk_bytes = u64::from(project.chunk_size_bytes());
            let encoded = cpu::run(move || {
                let mut below = None;
                if let Some(under) = under {
                    // Checked against its id.
                    let under = project.content().open_chunk_or_zero(&under, &bodies, len_bytes)?;
                    fill_gaps(&mut plain, &given, &under);
                    if let Some(chain) = chain {
                        let taken_in = joined(&project, &chain, &bodies, plain.len())?;
                        below = taken_in.map(|taken_in| Below { chain, plain: under, taken_in });
                    }
                }
                let encoded = match encoder.look(&plain, before.as_ref()) {
                    Found::Settled(encoded) => Ok(encoded),
                    Found::New(id) => encoder.encode_new(id, &plain, below.as_ref()),
                };
                budget.give_back(plain);
                encoded
            })
            .await?;
            Ok(Item { index, len_bytes, encoded, share: Some(shrink(share, chunk_bytes)), sample: false })
        }));
        Ok(())
    }

    /// The parent's chunk in that place, where it may be referenced.
    async fn before(&mut self, index: ChunkIndex, len_bytes: u32) -> Result<Option<Before>> {
        let before = &self.patching.before;
        let chunk = before.chunk(index).await?;
        if self.patching.forbidden.chunk(&chunk) || before.geometry().chunk_len_bytes(index) != len_bytes {
            return Ok(None);
        }
        let stands = self.storer.draft.get(index).await? == chunk;
        Ok(Some(Before { chunk, stands }))
    }

    /// What a delta on that chunk would stand on: nothing that prune may delete, nothing that is lost.
    fn chain(&self, under: &PageRef) -> Option<Chain> {
        let depth_max = self.patching.delta_depth_max?;
        if self.patching.forbidden.chunk(under) { None } else { Chain::below(under, depth_max) }
    }

    /// Writes anew what the volume still has of chunks that prune may delete, and of those that were found lost. What is
    /// lost for good stays as it is, and is counted: the stream does not have it.
    async fn rescue(&mut self) -> Result<()> {
        if self.patching.forbidden.is_empty() {
            return Ok(());
        }
        let geometry = self.storer.draft.geometry();
        for index in (0..geometry.chunk_count()).map(ChunkIndex) {
            let chunk = self.storer.draft.get(index).await?;
            if !self.patching.forbidden.chunk(&chunk) {
                continue;
            }
            match self.write_anew(index, &chunk, geometry.chunk_len_bytes(index)).await {
                Err(e)
                    if e.kind() == ErrorKind::Corrupt && !self.patching.forbidden.condemns_chunk(&chunk) =>
                {
                    tracing::warn!(error = %e, "a chunk that the stream does not have is lost");
                    self.storer.kept_lost += 1;
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn write_anew(&mut self, index: ChunkIndex, chunk: &PageRef, len_bytes: u32) -> Result<()> {
        // The same content may be stored elsewhere.
        let other = chunk.id().and_then(|id| self.storer.encoder.known.stored_ref(id));
        if let Some(other) = other {
            return self.storer.draft.set(index, other).await;
        }
        let plain = self.patching.project.content().fetch_chunk(chunk, len_bytes).await?;
        self.encode_now(index, plain).await
    }

    /// Encodes and stores one chunk before anything else happens.
    async fn encode_now(&mut self, index: ChunkIndex, plain: Vec<u8>) -> Result<()> {
        let (encoder, len_bytes) = (Arc::clone(&self.storer.encoder), plain.len() as u32);
        let encoded = cpu::run(move || encoder.encode(&plain, None)).await?;
        self.storer.accept(Item { index, len_bytes, encoded, share: None, sample: false }).await?;
        self.storer.flush();
        while let Some(durable) = self.storer.uploads.next().await {
            self.storer.stored(durable?).await?;
        }
        Ok(())
    }

    async fn zeros(&mut self, first: ChunkIndex, end: u64) -> Result<()> {
        for index in (first.0..end).map(ChunkIndex) {
            if !self.storer.draft.get(index).await?.is_zero() {
                self.storer.draft.set(index, PageRef::Zero).await?;
            }
        }
        let chunks = end - first.0;
        self.storer.zeros(chunks, chunks * u64::from(self.patching.project.chunk_size_bytes()));
        Ok(())
    }

    /// Cuts or grows the volume. The chunk that the smaller end lies in gets another length, so it is made anew.
    async fn resize(&mut self, size_bytes: u64) -> Result<()> {
        let draft = &mut self.storer.draft;
        let (old, new) =
            (draft.geometry(), Geometry::new(size_bytes, self.patching.project.chunk_size_bytes())?);
        if old == new {
            return Ok(());
        }
        let cut = old.index_of(old.size_bytes.min(new.size_bytes));
        let (old_len, new_len) = (old.chunk_len_bytes(cut), new.chunk_len_bytes(cut));
        let stood = draft.get(cut).await?;
        draft.resize(new).await?;
        if old_len == new_len || old_len == 0 || new_len == 0 || stood.is_zero() {
            return Ok(());
        }
        let mut plain = self.patching.project.content().fetch_chunk(&stood, old_len).await?;
        plain.resize(new_len as usize, 0);
        self.encode_now(cut, plain).await
    }
}

/// Takes what the stream did not give from what the chunk held.
fn fill_gaps(plain: &mut [u8], given: &[Range<usize>], under: &[u8]) {
    let mut at = 0;
    for range in given {
        plain[at..range.start].copy_from_slice(&under[at..range.start]);
        at = range.end;
    }
    plain[at..].copy_from_slice(&under[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_filled_from_below() {
        let mut plain = *b"ab______gh";
        fill_gaps(&mut plain, &[0..2, 8..9], b"0123456789");
        assert_eq!(&plain, b"ab234567g9");
        let mut whole = *b"abc";
        fill_gaps(&mut whole, std::slice::from_ref(&(0..3)), b"012");
        assert_eq!(&whole, b"abc");
    }
}
