//! What every backup's pipeline shares: the memory budget, the buffers, and the way from reading to the assembler.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::backup::assemble::{Assembler, Item, Uploads};
use crate::backup::encode::{Encoded, Encoder};
use crate::cancel::{Cancel, interrupted};
use crate::error::{Error, Result};
use crate::units::ChunkIndex;

/// Chunks in flight, at most, however small they are.
const CHUNKS_INFLIGHT_MAX: u64 = 256;

/// Bounds memory: one permit for each chunk between the start of its reading and its upload's end, and one more until it is
/// encoded where its base is wanted as well.
pub struct Budget {
    permits: Arc<Semaphore>,
    buffers: Mutex<Vec<Vec<u8>>>,
    buffers_max: usize,
    stopped: AtomicBool,
}

impl Budget {
    pub fn new(inflight_bytes: u64, chunk_size_bytes: u32) -> Arc<Self> {
        let chunks = (inflight_bytes / u64::from(chunk_size_bytes)).clamp(4, CHUNKS_INFLIGHT_MAX) as usize;
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(chunks)),
            buffers: Mutex::new(Vec::new()),
            buffers_max: chunks,
            stopped: AtomicBool::new(false),
        })
    }

    /// Waits for room for `chunks` chunks, from a thread that may block. Fails once the pipeline stopped.
    pub fn acquire(&self, runtime: &tokio::runtime::Handle, chunks: u32) -> Result<OwnedSemaphorePermit> {
        runtime.block_on(Arc::clone(&self.permits).acquire_many_owned(chunks)).map_err(|_| interrupted())
    }

    /// A buffer of that length; its content is whatever was in it.
    pub fn buffer(&self, len_bytes: u32) -> Vec<u8> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = buffers.pop().unwrap_or_default();
        drop(buffers);
        buffer.resize(len_bytes as usize, 0);
        buffer
    }

    pub fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < self.buffers_max {
            buffers.push(buffer);
        }
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Lets all readers end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.permits.close();
    }
}

/// Items from the CPU and reader threads. Unbounded, as the budget bounds what can be in it.
pub type Items = mpsc::UnboundedReceiver<Result<Item>>;
pub type ItemSender = mpsc::UnboundedSender<Result<Item>>;

/// A chunk that was read, and what it holds on to until it is encoded.
pub struct Held {
    pub index: ChunkIndex,
    pub plain: Vec<u8>,
    pub sample: bool,
    pub permit: OwnedSemaphorePermit,
    pub slot: OwnedSemaphorePermit,
}

/// What all threads between the source and the assembler share.
#[derive(Clone)]
pub struct Line {
    pub encoder: Arc<Encoder>,
    pub budget: Arc<Budget>,
    pub items: ItemSender,
}

impl Line {
    /// Passes on what a chunk turned out to be; its plaintext is not needed any more.
    pub fn pass_on(&self, held: Held, encoded: Result<Encoded>) {
        let Held { index, plain, sample, permit, slot } = held;
        let len_bytes = plain.len() as u32;
        self.budget.give_back(plain);
        drop(slot);
        let permit = Some(without_base(permit));
        // The assembler is gone only when the backup failed already.
        let _ = self.items.send(encoded.map(|encoded| Item { index, len_bytes, encoded, permit, sample }));
    }
}

/// What a chunk's permit comes to once its base is not needed any more.
pub fn without_base(mut permit: OwnedSemaphorePermit) -> OwnedSemaphorePermit {
    let base = permit.num_permits().saturating_sub(1);
    drop(permit.split(base));
    permit
}

/// Takes items until all senders are gone, and waits for the uploads.
pub async fn collect(assembler: &mut Assembler, items: &mut Items, cancel: &mut Cancel) -> Result<()> {
    let mut uploads: Uploads = FuturesUnordered::new();
    let mut more = true;
    while more || !uploads.is_empty() {
        tokio::select! {
            () = cancel.cancelled() => return Err(interrupted()),
            item = items.recv(), if more => match item {
                Some(item) => assembler.accept(item?, &uploads).await?,
                None => more = false,
            },
            Some(stored) = uploads.next(), if !uploads.is_empty() => assembler.stored(stored?).await?,
        }
        // A source that misses changes: there is no point in going on with this plan.
        if assembler.distrust.is_some() {
            return Ok(());
        }
    }
    Ok(())
}

/// Starts a named thread.
pub fn spawn_thread(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map(|_| ())
        .map_err(|e| Error::unavailable("a thread could not be started").caused_by(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_base_counts_until_it_is_not_needed_any_more() {
        let budget = Budget::new(8 << 20, 1 << 20);
        let runtime = tokio::runtime::Handle::current();
        let taken = tokio::task::block_in_place(|| budget.acquire(&runtime, 2)).expect("room");
        assert_eq!(budget.permits.available_permits(), 6);
        let kept = without_base(taken);
        assert_eq!((budget.permits.available_permits(), kept.num_permits()), (7, 1));
        let kept = without_base(kept);
        assert_eq!((budget.permits.available_permits(), kept.num_permits()), (7, 1));
        drop(kept);
        assert_eq!(budget.permits.available_permits(), 8);
    }
}
