//! What bounds an operation's memory: bytes in flight, and buffers that are used again.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cancel::interrupted;
use crate::error::Result;

/// Buffers kept while nobody needs them, however small they are.
const IDLE_MAX: usize = 64;

/// Bytes that may be in memory at once: taken before a buffer is filled, given back when its content is where it belongs.
/// Cheap to clone: all clones are one budget.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    semaphore: Arc<Semaphore>,
    total_bytes: u32,
    idle: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Bytes taken from a [`Budget`], until it is dropped.
pub(crate) type Share = OwnedSemaphorePermit;

impl Budget {
    /// At most 4 GiB.
    pub(crate) fn new(inflight_bytes: u64) -> Self {
        let total_bytes = u32::try_from(inflight_bytes.max(1)).unwrap_or(u32::MAX);
        Self { semaphore: Arc::new(Semaphore::new(total_bytes as usize)), total_bytes, idle: Arc::default() }
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        u64::from(self.total_bytes)
    }

    /// Waits until so many bytes are free. What needs more than the whole budget waits for all of it, and runs alone.
    pub(crate) async fn take(&self, bytes: u64) -> Result<Share> {
        let taken = Arc::clone(&self.semaphore).acquire_many_owned(self.clamp(bytes)).await;
        taken.map_err(|_| interrupted())
    }

    /// As [`take`](Self::take), or `None` where it would have to wait.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Share> {
        Arc::clone(&self.semaphore).try_acquire_many_owned(self.clamp(bytes)).ok()
    }

    fn clamp(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total_bytes)
    }

    /// A buffer that was used before, with whatever was in it: faulting 4 MiB in takes about as long as hashing them. The one
    /// given back last is taken first, as the CPU's cache may still hold it.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Keeps a buffer for the next one who wants it: no more than fit in half of the budget, as the other half is what the
    /// objects take that do not compress.
    pub(crate) fn give_back(&self, buffer: Vec<u8>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = idle.iter().map(Vec::capacity).sum();
        let fits = idle.is_empty() || kept + buffer.capacity() <= self.total_bytes as usize / 2;
        if fits && idle.len() < IDLE_MAX {
            idle.push(buffer);
        }
    }
}

/// Gives back what of a share is more than so many bytes.
pub(crate) fn shrink(mut share: Share, bytes: u64) -> Share {
    let more = share.num_permits().saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    drop(share.split(more));
    share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_share_can_be_given_back_in_part() {
        let budget = Budget::new(8);
        let taken = budget.take(3).await.expect("room");
        assert_eq!(budget.semaphore.available_permits(), 5);
        let kept = shrink(taken, 1);
        assert_eq!((budget.semaphore.available_permits(), kept.num_permits()), (7, 1));
        let kept = shrink(kept, 2);
        assert_eq!((budget.semaphore.available_permits(), kept.num_permits()), (7, 1));
        drop(kept);
        assert_eq!(budget.semaphore.available_permits(), 8);
    }

    #[tokio::test]
    async fn what_is_larger_than_all_waits_for_all_of_it() {
        let budget = Budget::new(8);
        let all = budget.take(1000).await.expect("room");
        assert_eq!(all.num_permits(), 8);
        assert!(budget.try_take(1).is_none());
    }

    #[test]
    fn idle_buffers_are_bounded() {
        let budget = Budget::new(100);
        for _ in 0..4 {
            budget.give_back(Vec::with_capacity(20));
        }
        assert_eq!(budget.idle.lock().expect("not poisoned").len(), 2);
        // One is kept, however large.
        let budget = Budget::new(100);
        budget.give_back(Vec::with_capacity(200));
        assert_eq!(budget.buffer().capacity(), 200);
    }
}
