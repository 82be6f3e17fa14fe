//! What the parent holds, fetched from the repository: deltas of a volume whose source has no snapshot of it, a file or a block
//! device.
//!
//! A fetch must be cheaper than what it saves. From a local store it is; from others it goes on while chunks come fast enough, and a
//! download that is limited is not spent on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::backup::DeltaMode;
use crate::error::{ErrorKind, Result};
use crate::repo::Project;
use crate::repo::manifest::Manifest;
use crate::units::ChunkIndex;

/// Fetches after which their rate counts.
const FIRST: u64 = 16;
/// Slower than so much for each fetch, a delta costs more time than the upload that it spares.
const RATE_MIN_BYTES_PER_SECOND: u64 = 8 << 20;

/// Whether what the parent holds may be fetched at all.
pub(super) fn is_wanted(project: &Project, mode: DeltaMode) -> bool {
    let store = project.repository().store();
    // A key that only seals has no base to stand on.
    if !project.opens_chunks() {
        return false;
    }
    match mode {
        DeltaMode::Always => true,
        DeltaMode::Auto => store.is_local() || !store.is_download_limited(),
        DeltaMode::Never => false,
    }
}

/// The content of the parent's chunks.
pub(super) struct Fetched {
    project: Project,
    before: Arc<Manifest>,
    pace: Option<Pace>,
}

impl Fetched {
    pub(super) fn new(project: &Project, before: &Arc<Manifest>, mode: DeltaMode) -> Self {
        let watched = mode == DeltaMode::Auto && !project.repository().store().is_local();
        let pace = watched.then(Pace::default);
        Self { project: project.clone(), before: Arc::clone(before), pace }
    }

    /// Whether fetches turned out too slow.
    pub(super) fn is_slow(&self) -> bool {
        self.pace.as_ref().is_some_and(Pace::is_slow)
    }

    /// A chunk of the parent, opened and held against its id. `None` where it is lost or damaged, or has another length: then the new one is
    /// not to stand on it.
    pub(super) async fn chunk(&self, index: ChunkIndex, len_bytes: u32) -> Result<Option<Vec<u8>>> {
        let started = Instant::now();
        let chunk = self.before.chunk(index).await?;
        match self.project.content().fetch_chunk(&chunk, len_bytes).await {
            Ok(plain) => {
                let fetched = chunk.objects().map(|object| u64::from(object.sealed_len_bytes)).sum();
                self.pace.iter().for_each(|pace| pace.took(fetched, started.elapsed()));
                Ok(Some(plain))
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(%error, "no delta is made on a chunk that cannot be read; run `cuttle verify`");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// How fast fetches are, each by itself.
#[derive(Debug, Default)]
struct Pace {
    fetches: AtomicU64,
    bytes: AtomicU64,
    micros: AtomicU64,
}

impl Pace {
    fn took(&self, bytes: u64, time: Duration) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.fetches.fetch_add(1, Ordering::Relaxed);
    }

    fn is_slow(&self) -> bool {
        let (bytes, micros) = (self.bytes.load(Ordering::Relaxed), self.micros.load(Ordering::Relaxed));
        let allowed = u128::from(bytes) * 1_000_000 / u128::from(RATE_MIN_BYTES_PER_SECOND);
        self.fetches.load(Ordering::Relaxed) >= FIRST && u128::from(micros) > allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_fetches_end_it_and_fast_ones_go_on() {
        let pace = Pace::default();
        for _ in 0..FIRST - 1 {
            pace.took(1, Duration::from_secs(1));
            assert!(!pace.is_slow(), "a few tell nothing");
        }
        pace.took(1, Duration::from_secs(1));
        assert!(pace.is_slow());
        let fast = Pace::default();
        (0..100).for_each(|_| fast.took(4 << 20, Duration::from_millis(100)));
        assert!(!fast.is_slow());
    }
}
