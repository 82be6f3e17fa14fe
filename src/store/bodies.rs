//! Memory for the bodies of objects, used again: faulting in fresh memory for each costs a restore more than decrypting it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bodies below this length are not worth keeping.
const BODY_LEN_BYTES_MIN: usize = 64 << 10;
/// Bodies kept while nobody needs them.
const BODIES_IDLE_MAX: usize = 8;

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
        let found = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let memory = match found {
            Some(memory) if memory.len() >= len => memory,
            _ => vec![0; len],
        };
        Body { memory, len, home: Arc::clone(self) }
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
        if memory.len() >= BODY_LEN_BYTES_MIN && idle.len() < BODIES_IDLE_MAX {
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
        assert_eq!(bodies.take(10).as_mut_slice().len(), 10);
        assert_eq!(bodies.idle.lock().expect("not poisoned").len(), 1, "it was taken and came back");
    }
}
