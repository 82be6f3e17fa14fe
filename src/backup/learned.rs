//! What is known of the content that backups of one generation may reference, whoever of this process learned it.
//!
//! Why one session may use what another learned before it registered: nothing of generation g and below, but for what round g condemned,
//! is deleted before a later round begins. A session that is of generation g has confirmed, after its registration, that none had begun by
//! then, and each that begins later waits for it (I3). So what was there at any time in generation g is there for as long as the session
//! is. The same holds for the live index of g, which is in a seal that never changes. What round g condemned, and what is lost, each session
//! looks up for itself before it takes anything from here (I4).
//!
//! What was uploaded by others since is not in it: that costs an upload that finds it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backup::live::Live;
use crate::format::names::ContentName;
use crate::format::page::ObjectRef;
use crate::units::{ChunkId, Generation};

/// Most chunks that are remembered (about 45 MiB).
const PROVEN_MAX: usize = 900_000;

/// What is known of the newest generation that was asked for.
#[derive(Debug, Default)]
pub(super) struct Learned(Mutex<Option<Arc<OfGeneration>>>);

/// Full chunks that sessions of one generation may reference.
pub(super) struct OfGeneration {
    pub generation: Generation,
    /// Named by a sealed record, or uploaded here.
    proven: Mutex<HashMap<ChunkId, (Generation, u32)>>,
    /// Of the generation itself, shown by a listing and proven by nothing: to be opened before they are used.
    listed: Mutex<HashSet<ChunkId>>,
    is_loaded: AtomicBool,
    pub live: Live,
}

impl Learned {
    /// What is known of a generation. A session of an older one, which the next step ends, shares nothing.
    pub(super) fn of(&self, generation: Generation) -> Arc<OfGeneration> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*newest {
            Some(known) if known.generation == generation => Arc::clone(known),
            Some(known) if known.generation > generation => Arc::new(OfGeneration::new(generation)),
            _ => Arc::clone(newest.insert(Arc::new(OfGeneration::new(generation)))),
        }
    }
}

impl OfGeneration {
    fn new(generation: Generation) -> Self {
        let (proven, listed, is_loaded, live) = Default::default();
        Self { generation, proven, listed, is_loaded, live }
    }

    /// Whether all was read that tells what there is. Where two sessions begin at once, both read it: none waits for the other.
    pub(super) fn is_loaded(&self) -> bool {
        self.is_loaded.load(Ordering::Acquire)
    }

    pub(super) fn loaded(&self) {
        self.is_loaded.store(true, Ordering::Release);
    }

    /// A full object without a variant, which a sealed record names or this process made.
    pub(super) fn prove(&self, object: &ObjectRef) {
        let mut proven = self.proven();
        if proven.len() < PROVEN_MAX {
            proven.insert(object.name.id, (object.name.generation, object.sealed_len_bytes));
        }
    }

    pub(super) fn list(&self, ids: impl IntoIterator<Item = ChunkId>) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    pub(super) fn proven_of(&self, id: ChunkId) -> Option<ObjectRef> {
        let proven = self.proven().get(&id).copied();
        proven
            .map(|(generation, sealed_len_bytes)| {
                let name = ContentName::plain(generation, id);
                ObjectRef { name, sealed_len_bytes }
            })
            .or_else(|| self.live.find(&id))
    }

    pub(super) fn is_listed(&self, id: &ChunkId) -> bool {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    fn proven(&self) -> MutexGuard<'_, HashMap<ChunkId, (Generation, u32)>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OfGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfGeneration").field("generation", &self.generation).finish_non_exhaustive()
    }
}
