//! One chunk on a CPU thread: zero, known, or compressed and sealed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::codec::{self, Sealed};
use crate::error::{Error, Result};
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef};
use crate::repo::Project;
use crate::units::{ChunkId, Generation};

/// Most chunks that a session remembers (about 50 MiB). Beyond it, dedup is the store's: a create that
/// finds the chunk.
const KNOWN_MAX: usize = 900_000;

/// What a chunk turned out to be.
#[derive(Debug)]
pub enum Encoded {
    /// All zero.
    Zero,
    /// What the parent has in the same place.
    Same,
    /// A run of chunks that need not be read: zero, as in the parent.
    StillZero { chunks: u64, bytes: u64 },
    /// In the repository already.
    Known(PageRef),
    /// The same content is being uploaded by this session.
    Pending(ChunkId),
    /// To be uploaded.
    New(ChunkId, Sealed),
}

/// What the parent has in a chunk's place, where that may be referenced.
#[derive(Debug, Clone)]
pub struct Before {
    pub chunk: PageRef,
    /// Whether the manifest being built has it too, so that nothing need be set.
    pub stands: bool,
}

/// What this session knows of a chunk that it may reference.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    Pending,
    Stored { generation: Generation, sealed_len_bytes: u32, variant: u32 },
}

impl Known {
    pub(super) fn of(object: &ObjectRef) -> Self {
        let ContentName { generation, variant, .. } = object.name;
        Self::Stored { generation, sealed_len_bytes: object.sealed_len_bytes, variant }
    }

    fn object(self, id: ChunkId) -> Option<ObjectRef> {
        match self {
            Self::Pending => None,
            Self::Stored { generation, sealed_len_bytes, variant } => {
                Some(ObjectRef { name: ContentName { generation, id, variant }, sealed_len_bytes })
            }
        }
    }
}

/// Two halves: when the newer is full, the older is dropped. So whatever a chunk in flight waits for is still known.
#[derive(Default)]
struct KnownChunks {
    newer: HashMap<ChunkId, Known>,
    older: HashMap<ChunkId, Known>,
}

impl KnownChunks {
    fn get(&self, id: &ChunkId) -> Option<Known> {
        self.newer.get(id).or_else(|| self.older.get(id)).copied()
    }

    fn insert(&mut self, id: ChunkId, known: Known) {
        if self.newer.len() >= KNOWN_MAX / 2 {
            let older = std::mem::take(&mut self.newer);
            self.newer
                .extend(older.iter().filter(|(_, k)| matches!(k, Known::Pending)).map(|(id, k)| (*id, *k)));
            self.older = older;
        }
        self.newer.insert(id, known);
    }

    fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}

/// Turns plaintext into what the store needs, knowing what is there.
pub struct Encoder {
    project: Project,
    generation: Generation,
    level: i32,
    check: bool,
    known: Mutex<KnownChunks>,
}

impl Encoder {
    /// `check` decodes every new object before it is uploaded.
    pub fn new(project: &Project, generation: Generation, level: i32, check: bool) -> Self {
        let known = Mutex::new(KnownChunks::default());
        Self { project: project.clone(), generation, level, check, known }
    }

    fn known(&self) -> MutexGuard<'_, KnownChunks> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn project(&self) -> &Project {
        &self.project
    }

    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn known_count(&self) -> usize {
        self.known().len()
    }

    pub(super) fn know(&self, id: ChunkId, known: Known) {
        self.known().insert(id, known);
    }

    /// `before` is `None` where nothing is known of the place, or what is there may not be referenced.
    pub fn encode(&self, plain: &[u8], before: Option<&Before>) -> Result<Encoded> {
        if codec::is_zero(plain) {
            let same = before.is_some_and(|b| b.stands && b.chunk.is_zero());
            return Ok(if same { Encoded::Same } else { Encoded::Zero });
        }
        let id = self.project.identify(plain);
        if let Some(before) = before.filter(|b| b.chunk.id() == Some(id)) {
            return Ok(if before.stands { Encoded::Same } else { Encoded::Known(before.chunk.clone()) });
        }
        if let Some(known) = self.claim(id) {
            let stored = known.object(id).map(|object| Encoded::Known(PageRef::full(object)));
            return Ok(stored.unwrap_or(Encoded::Pending(id)));
        }
        let name = self.project.chunk_name(ContentName { generation: self.generation, id, variant: 0 });
        let sealed = codec::seal(self.project.place(&name), plain, self.level)?;
        if self.check {
            let mut back = Vec::new();
            codec::open(self.project.place(&name), sealed.bytes(), None, plain.len(), &mut back)?;
            if back != plain {
                return Err(Error::internal(format!("{name} does not decode to what it was made from"))
                    .help("this machine's memory or processor is not to be trusted; test it"));
            }
        }
        Ok(Encoded::New(id, sealed))
    }

    /// Says what is known of an id; the first to ask for an unknown one is to upload it.
    fn claim(&self, id: ChunkId) -> Option<Known> {
        let mut known = self.known();
        let found = known.get(&id);
        if found.is_none() {
            known.insert(id, Known::Pending);
        }
        found
    }

    /// An upload is durable.
    pub fn stored(&self, object: &ObjectRef) {
        self.know(object.name.id, Known::of(object));
    }

    /// The object of an id that is durable by now.
    pub fn stored_object(&self, id: ChunkId) -> Option<ObjectRef> {
        self.known().get(&id)?.object(id)
    }
}
