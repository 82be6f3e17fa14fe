//! What every backup's pipeline shares: the memory budget, the buffers, and the way from reading to the assembler.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::backup::assemble::{Assembler, Item, Uploads};
use crate::cancel::{Cancel, interrupted};
use crate::error::{Error, Result};
use crate::plan::delta::Chain;

/// Chunks in flight, at most, however small they are.
const CHUNKS_INFLIGHT_MAX: u64 = 256;

/// Permits of a chunk: for itself, for the base that it wants, and for the deltas that are joined with its own.
pub fn permits(chain: Option<&Chain>) -> u32 {
    chain.map_or(1, |chain| if chain.joined().is_empty() { 2 } else { 3 })
}

/// Bounds memory: one permit for each chunk between the start of its reading and its upload's end, and more until it is
/// encoded where its base is wanted as well.
pub struct Budget {
    permits: Arc<Semaphore>,
    buffers: Mutex<Vec<Vec<u8>>>,
    buffers_max: usize,
}

impl Budget {
    pub fn new(inflight_bytes: u64, chunk_size_bytes: u32) -> Arc<Self> {
        let chunks = (inflight_bytes / u64::from(chunk_size_bytes)).clamp(4, CHUNKS_INFLIGHT_MAX) as usize;
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(chunks)),
            buffers: Mutex::new(Vec::new()),
            buffers_max: chunks,
        })
    }

    /// Waits for room for `chunks` chunks. Fails once the pipeline stopped.
    pub async fn acquire(&self, chunks: u32) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_many_owned(chunks).await.map_err(|_| interrupted())
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

    /// Lets a reading thread end.
    pub fn stop(&self) {
        self.permits.close();
    }
}

/// Items from the readers. Unbounded, as the budget bounds what can be in it.
pub type Items = mpsc::UnboundedReceiver<Result<Item>>;
pub type ItemSender = mpsc::UnboundedSender<Result<Item>>;

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
        // What is stored makes room for more, so it goes first; it is never more than came in.
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(interrupted()),
            Some(stored) = uploads.next(), if !uploads.is_empty() => assembler.stored(stored?).await?,
            item = items.recv(), if more => match item {
                Some(item) => assembler.accept(item?, &uploads).await?,
                None => more = false,
            },
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

    #[tokio::test]
    async fn a_base_counts_until_it_is_not_needed_any_more() {
        let budget = Budget::new(8 << 20, 1 << 20);
        let taken = budget.acquire(2).await.expect("room");
        assert_eq!(budget.permits.available_permits(), 6);
        let kept = without_base(taken);
        assert_eq!((budget.permits.available_permits(), kept.num_permits()), (7, 1));
        let kept = without_base(kept);
        assert_eq!((budget.permits.available_permits(), kept.num_permits()), (7, 1));
        drop(kept);
        assert_eq!(budget.permits.available_permits(), 8);
    }
}
