//! What bounds an operation's memory: bytes in flight, and buffers that are used again.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};
use crate::plan::restore::Fetch;
use crate::repo::content::{ChunkBuffers, chunk_object_len_bytes_max};

/// Buffers kept while nobody needs them, however small chunks are.
const BUFFERS_IDLE_MAX: u64 = 64;

/// Bytes that may be in memory at once: taken before a buffer is filled, given back when its content is where it
/// belongs.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    semaphore: Arc<Semaphore>,
    total_bytes: u32,
}

/// Bytes taken from a [`Budget`], until it is dropped.
pub(crate) type Share = OwnedSemaphorePermit;

impl Budget {
    /// At most 4 GiB.
    pub(crate) fn new(inflight_bytes: u64) -> Self {
        let total_bytes = u32::try_from(inflight_bytes.max(1)).unwrap_or(u32::MAX);
        Self { semaphore: Arc::new(Semaphore::new(total_bytes as usize)), total_bytes }
    }

    /// Waits until so many bytes are free. What needs more than the whole budget waits for all of it, and runs alone.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Share> {
        let taken = Arc::clone(&self.semaphore).acquire_many_owned(self.clamp(bytes)).await;
        taken.map_err(|_| Error::internal("the memory budget is closed"))
    }

    /// As [`take`](Self::take), or `None` where it would have to wait.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Share> {
        Arc::clone(&self.semaphore).try_acquire_many_owned(self.clamp(bytes)).ok()
    }

    fn clamp(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total_bytes)
    }
}

/// Most bytes in memory while a chunk is fetched and decoded: all its objects, the plaintext, and that of a base.
pub(crate) fn fetch_bytes(fetch: &Fetch, chunk_size_bytes: u32) -> u64 {
    let max = chunk_object_len_bytes_max(chunk_size_bytes);
    let sealed: u64 = fetch.chunk.objects().map(|o| u64::from(o.sealed_len_bytes).min(max)).sum();
    let plain = match fetch.chunk.objects().count() {
        0 | 1 => u64::from(fetch.len_bytes),
        _ => 2 * u64::from(chunk_size_bytes),
    };
    sealed + plain
}

/// Buffers that are used again, so that a chunk costs no fresh memory: faulting 4 MiB in takes about as long as
/// hashing them. The one given back last is taken first, as the CPU's cache may still hold it.
#[derive(Debug)]
pub(crate) struct Buffers {
    idle: Mutex<Vec<ChunkBuffers>>,
    idle_max: usize,
}

impl Buffers {
    /// Keeps as many as a budget has room for plaintexts and their objects, when these do not compress.
    pub(crate) fn new(inflight_bytes: u64, chunk_size_bytes: u32) -> Self {
        let fit = inflight_bytes / (2 * u64::from(chunk_size_bytes));
        Self { idle: Mutex::default(), idle_max: fit.clamp(1, BUFFERS_IDLE_MAX) as usize }
    }

    pub(crate) fn take(&self) -> ChunkBuffers {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, buffers: ChunkBuffers) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.idle_max {
            idle.push(buffers);
        }
    }
}
