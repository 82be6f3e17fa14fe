//! What a target, or any other reader, holds of a volume: read and hashed, chunk by chunk.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryFutureExt, TryStreamExt, stream};

use crate::budget::Budget;
use crate::codec::is_zero;
use crate::cpu;
use crate::error::{Context, Error, Result};
use crate::plan::restore::{Local, Window};
use crate::repo::Project;
use crate::source::ReadAt;
use crate::units::ChunkIndex;

/// Reads in flight.
const READS_INFLIGHT_MAX: usize = 8;
/// Bytes read at once where chunks are small.
const READ_BYTES: u64 = 4 << 20;

/// Who reads and within which bounds.
pub(crate) struct LocalReader {
    pub(crate) project: Project,
    pub(crate) reader: Arc<dyn ReadAt>,
    pub(crate) budget: Budget,
    /// Bytes read so far.
    read_bytes: AtomicU64,
}

impl LocalReader {
    pub(crate) fn new(project: Project, reader: Arc<dyn ReadAt>, budget: Budget) -> Self {
        Self { project, reader, budget, read_bytes: AtomicU64::new(0) }
    }

    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Looks at all chunks of a window. Only what is not zero where data is wanted is hashed.
    ///
    /// What lies beyond the reader's end counts as zero: there a target grows.
    pub(crate) async fn look(&self, window: &Window) -> Result<Vec<Local>> {
        self.look_where(window, vec![None; window.chunks().count()]).await
    }

    /// As [`LocalReader::look`], but only where it is not known already.
    pub(crate) async fn look_where(&self, window: &Window, known: Vec<Option<Local>>) -> Result<Vec<Local>> {
        let chunk_size = u64::from(window.geometry().chunk_size_bytes);
        let batch_max = (READ_BYTES / chunk_size).max(1) as usize;
        let first = window.chunks().start;
        let mut batches = stream::iter(unknown(&known, batch_max))
            .map(|at| {
                let chunks = first + at.start as u64..first + at.end as u64;
                self.look_at(window, chunks).map_ok(move |batch| (at.start, batch))
            })
            .buffered(READS_INFLIGHT_MAX);
        let mut looked = HashMap::new();
        while let Some((at, batch)) = batches.try_next().await? {
            looked.extend((at..).zip(batch));
        }
        let found = known.iter().enumerate().map(|(at, known)| known.or_else(|| looked.get(&at).copied()));
        found.collect::<Option<_>>().ok_or_else(|| Error::internal("a chunk was not looked at"))
    }

    async fn look_at(&self, window: &Window, chunks: Range<u64>) -> Result<Vec<Local>> {
        let geometry = window.geometry();
        // What is hashed, and how long it is.
        let pieces: Vec<(bool, usize)> = chunks
            .clone()
            .map(ChunkIndex)
            .map(|i| (!window.get(i).is_zero(), geometry.chunk_len_bytes(i) as usize))
            .collect();
        let len: usize = pieces.iter().map(|(_, len)| len).sum();
        let offset_bytes = geometry.offset_bytes(ChunkIndex(chunks.start));
        let _share = self.budget.take(len as u64).await?;
        let there = self.reader.size_bytes().saturating_sub(offset_bytes).min(len as u64) as usize;
        self.read_bytes.fetch_add(there as u64, Ordering::Relaxed);
        let (reader, mut plain) = (Arc::clone(&self.reader), self.budget.buffer());
        let plain = cpu::block(move || {
            plain.resize(len, 0);
            let (held, beyond) = plain.split_at_mut(there);
            beyond.fill(0);
            if !held.is_empty() {
                reader.read_at(offset_bytes, held).context("look at what the target holds")?;
            }
            Ok(plain)
        })
        .await?;
        let project = self.project.clone();
        let (found, plain) = cpu::run(move || {
            let mut rest = &plain[..];
            let mut found = Vec::with_capacity(pieces.len());
            for (hashed, len) in pieces {
                let (chunk, behind) = rest.split_at(len);
                rest = behind;
                found.push(match () {
                    () if is_zero(chunk) => Local::Zero,
                    () if hashed => Local::Content(project.identify(chunk)),
                    () => Local::NotZero,
                });
            }
            Ok((found, plain))
        })
        .await?;
        self.budget.give_back(plain);
        Ok(found)
    }
}

/// Where nothing is known: consecutive places, at most so many at once.
fn unknown(known: &[Option<Local>], batch_max: usize) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    for (at, _) in known.iter().enumerate().filter(|(_, known)| known.is_none()) {
        match out.last_mut() {
            Some(last) if last.end == at && last.len() < batch_max => last.end = at + 1,
            _ => out.push(at..at + 1),
        }
    }
    out
}
