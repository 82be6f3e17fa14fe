//! Memory for the bodies of objects, used again: faulting in fresh memory for each costs a restore more than decrypting it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bodies below this length are not worth keeping.
const BODY_LEN_BYTES_MIN: usize = 64 << 10;
/// Memory kept while nobody needs it.
const IDLE_BYTES_MAX: usize = 32 << 20;

/// Idle memory of a store.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    idle: Mutex<Vec<Vec<u8>>>,
}

/// A body that is being filled. Its memory goes back to the store when the last reader is gone.
#[derive(Debug)]
pub(super) struct Body {
    memory: Vec<u8>,
    len: usize,
    home: Arc<Bodies>,
}

impl Bodies {
    /// A body of that length, whose content is anything. The caller has checked the length against its limit.
    pub(super) fn take(self: &Arc<Self>, len: usize) -> Body {
        let memory = self.fitting(len).unwrap_or_else(|| vec![0; len]);
        Body { memory, len, home: Arc::clone(self) }
    }

    /// The smallest that is long enough: chunks come as full objects and as deltas, which are much smaller.
    fn fitting(&self, len: usize) -> Option<Vec<u8>> {
        if len < BODY_LEN_BYTES_MIN {
            return None;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = idle.iter().enumerate().filter(|(_, memory)| memory.len() >= len);
        let (at, _) = fitting.min_by_key(|(_, memory)| memory.len())?;
        Some(idle.swap_remove(at))
    }
}

impl Body {
    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Cuts it to what was filled.
    pub(super) fn freeze(mut self, filled: usize) -> Bytes {
        self.len = self.len.min(filled);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut idle = self.home.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle_bytes: usize = idle.iter().map(Vec::len).sum();
        if memory.len() >= BODY_LEN_BYTES_MIN && idle_bytes + memory.len() <= IDLE_BYTES_MAX {
            idle.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_is_cut_to_what_was_filled() {
        let bodies = Arc::new(Bodies::default());
        let mut body = bodies.take(BODY_LEN_BYTES_MIN);
        body.as_mut_slice()[..3].copy_from_slice(b"abc");
        let bytes = body.freeze(3);
        let other = bytes.slice(1..);
        drop(bytes);
        assert_eq!(other, "bc");
        assert_eq!(bodies.idle.lock().expect("not poisoned").len(), 0, "somebody still reads it");
        drop(other);
        assert_eq!(bodies.idle.lock().expect("not poisoned").len(), 1);
        assert_eq!(
            bodies.take(BODY_LEN_BYTES_MIN - 1).memory.len(),
            BODY_LEN_BYTES_MIN - 1,
            "what is small is fresh"
        );
        assert_eq!(bodies.idle.lock().expect("not poisoned").len(), 1);
    }

    #[test]
    fn the_smallest_that_fits_is_used_again_within_a_bound() {
        let bodies = Arc::new(Bodies::default());
        let taken: Vec<Body> = [9, 3, 5, 3].map(|units| bodies.take(units * BODY_LEN_BYTES_MIN)).into();
        drop(taken);
        for (units, expected) in [(4, 5), (3, 3), (2, 3), (1, 9), (1, 1)] {
            let body = bodies.take(units * BODY_LEN_BYTES_MIN);
            assert_eq!(body.memory.len(), expected * BODY_LEN_BYTES_MIN, "{units} units");
            std::mem::forget(body);
        }
        let many: Vec<Body> = (0..100).map(|_| bodies.take(1 << 20)).collect();
        drop(many);
        assert_eq!(bodies.idle.lock().expect("not poisoned").len(), IDLE_BYTES_MAX >> 20);
    }
}
