//! The thread that reads a stream and cuts it into chunks.

use std::collections::HashSet;
use std::ops::Range;

use tokio::sync::{mpsc, oneshot};

use crate::budget::{Budget, Share};
use crate::cancel::interrupted;
use crate::error::{Error, Result};
use crate::source::{Content, Extent, StreamEvent, StreamSource};
use crate::units::ChunkIndex;

/// Chunks passed on that are remembered (about 20 MiB); after so many a barrier lets them be forgotten.
const PASSED_ON_MAX: usize = 1 << 20;
/// Memory of a chunk that needs its base: itself and the base.
const PATCH_CHUNKS: u64 = 2;

/// What the stream's thread passes on.
pub(super) enum Piece {
    /// A chunk with the ranges that the stream gave; the rest is as it was.
    Chunk {
        index: ChunkIndex,
        plain: Vec<u8>,
        given: Vec<Range<usize>>,
        share: Share,
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

/// The stream's thread.
pub(super) struct Cutter {
    source: Box<dyn StreamSource>,
    budget: Budget,
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
    share: Share,
}

impl Cutter {
    pub(super) fn new(
        source: Box<dyn StreamSource>,
        budget: Budget,
        pieces: mpsc::Sender<Piece>,
        chunk_size_bytes: u32,
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let passed_on = HashSet::new();
        Self { source, budget, runtime, pieces, chunk_size_bytes, open: None, passed_on, size_known: false }
    }

    pub(super) fn run(mut self) {
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
        let share = self.runtime.block_on(self.budget.take(PATCH_CHUNKS * self.chunk_size()))?;
        let mut plain = self.budget.buffer();
        plain.resize(self.chunk_size_bytes as usize, 0);
        self.open = Some(OpenChunk { index, plain, given: Vec::new(), share });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(OpenChunk { index, plain, given, share }) = self.open.take() else { return Ok(()) };
        // Raw bytes only ever ascend: nothing comes back.
        if self.size_known {
            self.passed_on.insert(index.0);
        }
        self.send(Piece::Chunk { index, plain, given, share })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_ranges_become_one() {
        let mut given = vec![];
        for range in [0..2, 2..5, 7..8] {
            give(&mut given, range);
        }
        assert_eq!(given, [0..5, 7..8]);
    }
}
