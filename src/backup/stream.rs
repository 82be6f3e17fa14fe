//! Backs up a stream: cut it into chunks as it arrives, patch what it covers in part onto what the volume held, encode.
//!
//! The stream is read once, by a thread of its own. A chunk that comes back after it was passed on is taken up again only
//! when everything before is in the manifest (a barrier), so its content is always the newest.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::backup::assemble::{Assembler, Item, Uploads};
use crate::backup::encode::{Before, Encoder};
use crate::backup::pipeline::{Budget, spawn_thread};
use crate::cancel::{Cancel, interrupted};
use crate::cpu;
use crate::error::{Error, Result};
use crate::format::gc::Condemned;
use crate::format::names::ContentName;
use crate::format::page::PageRef;
use crate::progress::{Outcome, Progress, Step};
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::source::{Content, Extent, StreamEvent, StreamSource};
use crate::units::{ChunkIndex, Generation, Geometry};

/// Chunks passed on that are remembered (about 20 MiB); after so many a barrier lets them be forgotten.
const PASSED_ON_MAX: usize = 1 << 20;
/// Budget of a chunk that needs its base: itself and the base.
const PATCH_PERMITS: u32 = 2;

/// What the stream's thread passes on.
enum Piece {
    /// A chunk with the ranges that the stream gave; the rest is as it was.
    Chunk {
        index: ChunkIndex,
        plain: Vec<u8>,
        given: Vec<Range<usize>>,
        permit: OwnedSemaphorePermit,
    },
    /// Whole chunks of zeros.
    Zeros {
        first: ChunkIndex,
        end: u64,
    },
    /// Everything before must be in the manifest; then the volume gets this size, and the answer is sent.
    Barrier {
        size_bytes: Option<u64>,
        passed: oneshot::Sender<()>,
    },
    /// The proper end, with the final size and the last snapshot's name.
    End {
        size_bytes: u64,
    },
    Failed(Error),
}

/// What the pipeline needs besides the stream.
pub struct StreamPlan {
    pub project: Project,
    /// Where an equal chunk may be found by its place: the parent's manifest, also where the stream is a full one.
    pub before: Arc<Manifest>,
    pub generation: Generation,
    pub condemned: Arc<Condemned>,
    pub encoder: Arc<Encoder>,
    pub budget: Arc<Budget>,
    pub progress: Arc<dyn Progress>,
    pub chunk_size_bytes: u32,
}

/// Reads a stream to its end. Returns the volume's final size.
pub async fn run(
    plan: &StreamPlan,
    source: Box<dyn StreamSource>,
    assembler: &mut Assembler,
    cancel: &mut Cancel,
) -> Result<u64> {
    let (pieces_tx, mut pieces) = mpsc::channel(16);
    let cutter = Cutter {
        source,
        budget: Arc::clone(&plan.budget),
        runtime: tokio::runtime::Handle::current(),
        pieces: pieces_tx,
        chunk_size_bytes: plan.chunk_size_bytes,
        open: None,
        passed_on: HashSet::new(),
        size_known: false,
    };
    spawn_thread("stream".to_owned(), move || cutter.run())?;
    let mut consumer =
        Consumer { plan, assembler, uploads: FuturesUnordered::new(), patches: FuturesUnordered::new() };
    let result = consumer.run(&mut pieces, cancel).await;
    if result.is_err() {
        plan.budget.stop();
    }
    result
}

/// The stream's thread.
struct Cutter {
    source: Box<dyn StreamSource>,
    budget: Arc<Budget>,
    runtime: tokio::runtime::Handle,
    pieces: mpsc::Sender<Piece>,
    chunk_size_bytes: u32,
    open: Option<OpenChunk>,
    passed_on: HashSet<u64>,
    /// Raw bytes tell their size only at their end.
    size_known: bool,
}

struct OpenChunk {
    index: ChunkIndex,
    plain: Vec<u8>,
    given: Vec<Range<usize>>,
    permit: OwnedSemaphorePermit,
}

impl Cutter {
    fn run(mut self) {
        let end = self.read_all();
        let last = match end {
            Ok(()) => Piece::End { size_bytes: self.source.final_size_bytes() },
            Err(error) => Piece::Failed(error),
        };
        // The consumer is gone only when the backup failed already.
        let _ = self.pieces.blocking_send(last);
    }

    fn read_all(&mut self) -> Result<()> {
        while let Some(event) = self.source.next_event()? {
            match event {
                StreamEvent::Diff { size_bytes, .. } => {
                    self.size_known = true;
                    self.barrier(Some(size_bytes))?;
                }
                StreamEvent::Extent(extent) => match extent.content {
                    Content::Data => self.data(extent)?,
                    Content::Zero => self.zeros(extent)?,
                },
            }
        }
        self.close()
    }

    fn chunk_size(&self) -> u64 {
        u64::from(self.chunk_size_bytes)
    }

    fn data(&mut self, extent: Extent) -> Result<()> {
        let mut at = extent.offset_bytes;
        let end = at.saturating_add(extent.length_bytes);
        while at < end {
            let index = ChunkIndex(at / self.chunk_size());
            let start = index.0 * self.chunk_size();
            let range = (at - start) as usize..(end.min(start + self.chunk_size()) - start) as usize;
            self.open_chunk(index)?;
            let Self { open: Some(open), source, .. } = self else { return Err(no_chunk()) };
            fill(source.as_mut(), &mut open.plain[range.clone()])?;
            at = start + range.end as u64;
            give(&mut open.given, range);
        }
        Ok(())
    }

    fn zeros(&mut self, extent: Extent) -> Result<()> {
        let mut at = extent.offset_bytes;
        let end = at.saturating_add(extent.length_bytes);
        while at < end {
            let index = ChunkIndex(at / self.chunk_size());
            let start = index.0 * self.chunk_size();
            let whole_end = end / self.chunk_size();
            if at == start && whole_end > index.0 {
                self.close()?;
                if (index.0..whole_end).any(|i| self.passed_on.contains(&i)) {
                    self.barrier(None)?;
                }
                self.send(Piece::Zeros { first: index, end: whole_end })?;
                // A later extent may only touch these again in another diff, behind a barrier.
                at = whole_end * self.chunk_size();
                continue;
            }
            let range = (at - start) as usize..(end.min(start + self.chunk_size()) - start) as usize;
            self.open_chunk(index)?;
            let Some(open) = &mut self.open else { return Err(no_chunk()) };
            open.plain[range.clone()].fill(0);
            at = start + range.end as u64;
            give(&mut open.given, range);
        }
        Ok(())
    }

    /// Makes `index` the chunk that is being filled.
    fn open_chunk(&mut self, index: ChunkIndex) -> Result<()> {
        if self.open.as_ref().is_some_and(|open| open.index == index) {
            return Ok(());
        }
        self.close()?;
        if self.passed_on.contains(&index.0) || self.passed_on.len() >= PASSED_ON_MAX {
            self.barrier(None)?;
        }
        let permit = self.budget.acquire(&self.runtime, PATCH_PERMITS)?;
        let plain = self.budget.buffer(self.chunk_size_bytes);
        self.open = Some(OpenChunk { index, plain, given: Vec::new(), permit });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(OpenChunk { index, plain, given, permit }) = self.open.take() else { return Ok(()) };
        // Raw bytes only ever ascend: nothing comes back.
        if self.size_known {
            self.passed_on.insert(index.0);
        }
        self.send(Piece::Chunk { index, plain, given, permit })
    }

    fn barrier(&mut self, size_bytes: Option<u64>) -> Result<()> {
        self.close()?;
        let (passed, wait) = oneshot::channel();
        self.send(Piece::Barrier { size_bytes, passed })?;
        wait.blocking_recv().map_err(|_| interrupted())?;
        self.passed_on.clear();
        Ok(())
    }

    fn send(&self, piece: Piece) -> Result<()> {
        self.pieces.blocking_send(piece).map_err(|_| interrupted())
    }
}

fn no_chunk() -> Error {
    Error::internal("no chunk is open")
}

/// Reads exactly as much as the extent owes.
fn fill(source: &mut dyn StreamSource, mut out: &mut [u8]) -> Result<()> {
    while !out.is_empty() {
        match source.read_data(out)? {
            0 => return Err(Error::internal("an extent ended before its length")),
            n => out = &mut out[n..],
        }
    }
    Ok(())
}

/// Notes a range; ranges that follow one another become one.
fn give(given: &mut Vec<Range<usize>>, range: Range<usize>) {
    match given.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => given.push(range),
    }
}

/// The async side.
struct Consumer<'a> {
    plan: &'a StreamPlan,
    assembler: &'a mut Assembler,
    uploads: Uploads,
    patches: FuturesUnordered<BoxFuture<'static, Result<Item>>>,
}

impl Consumer<'_> {
    async fn run(&mut self, pieces: &mut mpsc::Receiver<Piece>, cancel: &mut Cancel) -> Result<u64> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(interrupted()),
                piece = pieces.recv() => match piece {
                    Some(Piece::Chunk { index, plain, given, permit }) => {
                        self.chunk(index, plain, given, permit).await?;
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
                Some(item) = self.patches.next(), if !self.patches.is_empty() => {
                    self.assembler.accept(item?, &self.uploads).await?;
                }
                Some(stored) = self.uploads.next(), if !self.uploads.is_empty() => {
                    self.assembler.stored(stored?).await?;
                }
            }
        }
    }

    async fn drain(&mut self, cancel: &mut Cancel) -> Result<()> {
        while !self.patches.is_empty() || !self.uploads.is_empty() {
            tokio::select! {
                () = cancel.cancelled() => return Err(interrupted()),
                Some(item) = self.patches.next(), if !self.patches.is_empty() => {
                    self.assembler.accept(item?, &self.uploads).await?;
                }
                Some(stored) = self.uploads.next(), if !self.uploads.is_empty() => {
                    self.assembler.stored(stored?).await?;
                }
            }
        }
        Ok(())
    }

    fn geometry(&mut self) -> Option<Geometry> {
        self.assembler.builder().map(|b| b.geometry())
    }

    /// The volume's bytes that lie in a chunk; raw bytes make the volume grow as they come.
    async fn chunk_len(&mut self, index: ChunkIndex, given_end: usize) -> Result<u32> {
        let Some(geometry) = self.geometry() else { return Ok(given_end as u32) };
        let known = geometry.chunk_len_bytes(index);
        if known as usize >= given_end {
            return Ok(known);
        }
        let size_bytes = index.0 * u64::from(self.plan.chunk_size_bytes) + given_end as u64;
        self.resize(size_bytes).await?;
        Ok(given_end as u32)
    }

    async fn chunk(
        &mut self,
        index: ChunkIndex,
        mut plain: Vec<u8>,
        mut given: Vec<Range<usize>>,
        permit: OwnedSemaphorePermit,
    ) -> Result<()> {
        given.sort_unstable_by_key(|r| r.start);
        let given_bytes: usize = given.iter().map(Range::len).sum();
        self.assembler.stats.read_bytes += given_bytes as u64;
        let len_bytes = self.chunk_len(index, given.last().map_or(0, |r| r.end)).await?;
        plain.truncate(len_bytes as usize);
        let before = self.before(index, len_bytes).await?;
        // What the chunk held so far fills the gaps.
        let under = match (given_bytes < len_bytes as usize, self.assembler.builder()) {
            (true, Some(builder)) => Some(builder.get(index).await?),
            (true, None) => Some(self.plan.before.chunk(index).await?),
            (false, _) => None,
        };
        let (project, encoder, budget) =
            (self.plan.project.clone(), Arc::clone(&self.plan.encoder), Arc::clone(&self.plan.budget));
        self.patches.push(Box::pin(async move {
            let under = match under {
                Some(under) => Some(project.fetch_chunk(&under, len_bytes).await?),
                None => None,
            };
            let encoded = cpu::run(move || {
                if let Some(under) = under {
                    fill_gaps(&mut plain, &given, &under);
                }
                let encoded = encoder.encode(&plain, before.as_ref());
                budget.give_back(plain);
                encoded
            })
            .await?;
            Ok(Item { index, len_bytes, encoded, permit: Some(permit), sample: false })
        }));
        Ok(())
    }

    /// The parent's chunk in that place, where it may be referenced.
    async fn before(&mut self, index: ChunkIndex, len_bytes: u32) -> Result<Option<Before>> {
        let before = &self.plan.before;
        let chunk = before.chunk(index).await?;
        let condemned = chunk.objects().any(|o| self.plan.condemned.contains(&o.name.id));
        if condemned || before.geometry().chunk_len_bytes(index) != len_bytes {
            return Ok(None);
        }
        let stands = match self.assembler.builder() {
            Some(builder) => builder.get(index).await? == chunk,
            None => true,
        };
        Ok(Some(Before { chunk, stands }))
    }

    /// Writes anew what the volume still has of condemned chunks: prune may delete them.
    async fn rescue(&mut self) -> Result<()> {
        let Some(geometry) = self.geometry().filter(|_| !self.plan.condemned.is_empty()) else {
            return Ok(());
        };
        for index in (0..geometry.chunk_count()).map(ChunkIndex) {
            let Some(builder) = self.assembler.builder() else { return Ok(()) };
            let chunk = builder.get(index).await?;
            // What this session wrote is of its own generation, which no round under way condemns.
            let old = |g: Generation| g < self.plan.generation;
            let hurt = |name: &ContentName| old(name.generation) && self.plan.condemned.contains(&name.id);
            if chunk.objects().any(|o| hurt(&o.name)) {
                self.write_anew(index, &chunk, geometry.chunk_len_bytes(index)).await?;
            }
        }
        Ok(())
    }

    async fn write_anew(&mut self, index: ChunkIndex, chunk: &PageRef, len_bytes: u32) -> Result<()> {
        let plain = self.plan.project.fetch_chunk(chunk, len_bytes).await?;
        self.encode_now(index, plain).await
    }

    /// Encodes and stores one chunk before anything else happens.
    async fn encode_now(&mut self, index: ChunkIndex, plain: Vec<u8>) -> Result<()> {
        let (encoder, len_bytes) = (Arc::clone(&self.plan.encoder), plain.len() as u32);
        let encoded = cpu::run(move || encoder.encode(&plain, None)).await?;
        let item = Item { index, len_bytes, encoded, permit: None, sample: false };
        self.assembler.accept(item, &self.uploads).await?;
        while let Some(stored) = self.uploads.next().await {
            self.assembler.stored(stored?).await?;
        }
        Ok(())
    }

    async fn zeros(&mut self, first: ChunkIndex, end: u64) -> Result<()> {
        for index in (first.0..end).map(ChunkIndex) {
            let stands = match self.assembler.builder() {
                Some(builder) => builder.get(index).await?,
                None => PageRef::Zero,
            };
            if !stands.is_zero() {
                self.assembler.set(index, PageRef::Zero).await?;
            }
            self.assembler.stats.zero_chunks += 1;
        }
        let bytes = (end - first.0) * u64::from(self.plan.chunk_size_bytes);
        self.plan.progress.step(Step { bytes, chunks: end - first.0, outcome: Outcome::Zero });
        Ok(())
    }

    /// Cuts or grows the volume. The chunk that the smaller end lies in gets another length, so it is made anew.
    async fn resize(&mut self, size_bytes: u64) -> Result<()> {
        let Some(builder) = self.assembler.builder() else { return Ok(()) };
        let (old, new) = (builder.geometry(), Geometry::new(size_bytes, self.plan.chunk_size_bytes)?);
        if old == new {
            return Ok(());
        }
        let cut = old.index_of(old.size_bytes.min(new.size_bytes));
        let (old_len, new_len) = (old.chunk_len_bytes(cut), new.chunk_len_bytes(cut));
        let stood = builder.get(cut).await?;
        builder.resize(new).await?;
        if old_len == new_len || old_len == 0 || new_len == 0 || stood.is_zero() {
            return Ok(());
        }
        let mut plain = self.plan.project.fetch_chunk(&stood, old_len).await?;
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

    #[test]
    fn neighbouring_ranges_become_one() {
        let mut given = vec![];
        for range in [0..2, 2..5, 7..8] {
            give(&mut given, range);
        }
        assert_eq!(given, [0..5, 7..8]);
    }
}
