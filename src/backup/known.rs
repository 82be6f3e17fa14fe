//! What a session knows of the content that it may reference.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backup::learned::OfGeneration;
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{ObjectRef, PageRef};
use crate::repo::forbidden::Forbidden;
use crate::units::{ChunkId, Generation};

/// Most objects that a session remembers (about 50 MiB), those below a delta included. Beyond it, dedup is the store's: a
/// create that finds the chunk.
const KNOWN_MAX: usize = 900_000;

/// What this session knows of a chunk that it may reference.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Pending,
    Stored {
        generation: Generation,
        sealed_len_bytes: u32,
        variant: u32,
    },
    /// Stored by this session in a bundle, which nobody else knows of.
    Piece(Arc<PageRef>),
}

impl Known {
    pub(super) fn of(object: &ObjectRef) -> Self {
        let ContentName { generation, variant, .. } = object.name;
        Self::Stored { generation, sealed_len_bytes: object.sealed_len_bytes, variant }
    }

    /// The ref of the chunk; `None` while it is being uploaded.
    pub(super) fn chunk(&self, id: ChunkId) -> Option<PageRef> {
        match self {
            Self::Pending => None,
            Self::Stored { generation, sealed_len_bytes, variant } => {
                let name = ContentName { variant: *variant, ..ContentName::plain(*generation, id) };
                Some(PageRef::full(ObjectRef { name, sealed_len_bytes: *sealed_len_bytes }))
            }
            Self::Piece(chunk) => Some(PageRef::clone(chunk)),
        }
    }

    /// Objects that must be remembered for it.
    fn weight(&self) -> usize {
        match self {
            Self::Pending | Self::Stored { .. } => 1,
            Self::Piece(chunk) => 1 + chunk.objects().count(),
        }
    }
}

/// Two halves: when the newer is full, the older is dropped. So whatever a chunk in flight waits for is still known.
#[derive(Default)]
struct Halves {
    newer: HashMap<ChunkId, Known>,
    older: HashMap<ChunkId, Known>,
    /// Of what was put into the newer half.
    weight: usize,
}

impl Halves {
    fn get(&self, id: &ChunkId) -> Option<Known> {
        self.newer.get(id).or_else(|| self.older.get(id)).cloned()
    }

    fn insert(&mut self, id: ChunkId, known: Known) {
        if self.weight >= KNOWN_MAX / 2 {
            let older = std::mem::take(&mut self.newer);
            let pending = older.iter().filter(|(_, k)| matches!(k, Known::Pending));
            self.newer.extend(pending.map(|(id, k)| (*id, k.clone())));
            self.weight = self.newer.len();
            self.older = older;
        }
        self.weight += known.weight();
        self.newer.insert(id, known);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}

/// Asked by many threads.
#[derive(Default)]
pub(super) struct KnownChunks {
    known: Mutex<Halves>,
    others: Option<Others>,
}

/// What is known beside what the session itself saw.
pub(super) struct Others {
    pub learned: Arc<OfGeneration>,
    /// What the session may not reference, whoever knows of it.
    pub forbidden: Arc<Forbidden>,
    /// Whether other sessions ask for what this one stores.
    pub are_told: bool,
}

impl Others {
    fn proven_of(&self, id: ChunkId) -> Option<Known> {
        let object = self.learned.proven_of(id)?;
        (!self.forbidden.name(ContentKind::Chunk, object.name)).then(|| Known::of(&object))
    }

    fn is_listed(&self, id: ChunkId) -> bool {
        let name = ContentName::plain(self.learned.generation, id);
        self.learned.is_listed(&id) && !self.forbidden.name(ContentKind::Chunk, name)
    }

    /// Anybody of the generation may use what needs nothing else and has no variant.
    fn tell(&self, object: &ObjectRef) {
        if self.are_told && (object.name.generation, object.name.variant) == (self.learned.generation, 0) {
            self.learned.prove(object);
        }
    }
}

impl KnownChunks {
    fn known(&self) -> MutexGuard<'_, Halves> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn know(&self, id: ChunkId, known: Known) {
        self.known().insert(id, known);
    }

    /// Takes what others know into account from now on.
    pub(super) fn heed(&mut self, others: Others) {
        self.others = Some(others);
    }

    /// Whether a listing shows a full object of a chunk in the generation.
    pub(super) fn is_listed(&self, id: &ChunkId) -> bool {
        self.others.as_ref().is_some_and(|others| others.is_listed(*id))
    }

    /// Says what is known of an id; the first to ask for an unknown one is to upload it.
    pub(super) fn claim(&self, id: ChunkId) -> Option<Known> {
        let seen = self.known().get(&id);
        // That may take a look at the disk, which nobody else has to wait for.
        if let Some(found) = seen.or_else(|| self.others.as_ref()?.proven_of(id)) {
            return Some(found);
        }
        let mut known = self.known();
        let found = known.get(&id);
        if found.is_none() {
            known.insert(id, Known::Pending);
        }
        found
    }

    /// An upload is durable.
    pub(super) fn stored(&self, chunk: &PageRef) {
        let PageRef::Stored { id, object, .. } = chunk else { return };
        let known = match object.name.offset_bytes {
            None => Known::of(object),
            Some(_) => Known::Piece(Arc::new(chunk.clone())),
        };
        if let (Some(others), None) = (&self.others, object.name.offset_bytes) {
            others.tell(object);
        }
        self.know(*id, known);
    }

    /// The ref of an id that is durable by now.
    pub(super) fn stored_ref(&self, id: ChunkId) -> Option<PageRef> {
        self.known().get(&id)?.chunk(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ChunkId {
        ChunkId(std::array::from_fn(|i| n.to_le_bytes().get(i).copied().unwrap_or(0)))
    }

    #[test]
    fn what_deltas_stand_on_counts_in_what_is_remembered() {
        let name = |n| ContentName { generation: Generation(0), id: id(n), variant: 1, offset_bytes: None };
        let object = |n| ObjectRef { name: name(n), sealed_len_bytes: 200 };
        let delta = |n| {
            Known::Piece(Arc::new(PageRef::Stored {
                id: id(n),
                object: object(n),
                closure: vec![object(0); 7],
            }))
        };
        let mut known = Halves::default();
        known.insert(id(0), Known::Pending);
        // Nine objects each, the map's own entry included.
        let most = KNOWN_MAX / 9;
        for n in 1..=3 * most {
            known.insert(id(n), delta(n));
            assert!(known.len() <= most + 2);
        }
        assert!(matches!(known.get(&id(0)), Some(Known::Pending)), "it is still on its way");
        assert!(matches!(known.get(&id(3 * most)), Some(Known::Piece(_))));
        assert!(known.get(&id(1)).is_none());
    }
}
