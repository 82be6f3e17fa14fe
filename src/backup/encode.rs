//! One chunk on a CPU thread: zero, known, or compressed and sealed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::codec::{self, Sealed};
use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{ObjectRef, PageRef};
use crate::keys::random_array;
use crate::plan::delta::Chain;
use crate::repo::Project;
use crate::repo::forbidden::Forbidden;
use crate::units::{ChunkId, Generation};

/// Most objects that a session remembers (about 50 MiB), those below a delta included. Beyond it, dedup is the store's: a
/// create that finds the chunk.
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
    New(NewChunk),
    /// What the source has as the parent's chunk is not what the repository has.
    BaseDiffers,
}

/// An object to be uploaded.
#[derive(Debug)]
pub struct NewChunk {
    pub id: ChunkId,
    pub sealed: Sealed,
    /// What it is a delta against; `None` for a full object.
    pub chain: Option<Chain>,
}

impl NewChunk {
    /// Its ref, once the object is durable.
    pub fn chunk_ref(chain: Option<&Chain>, object: ObjectRef) -> PageRef {
        chain.map_or_else(|| PageRef::full(object), |chain| chain.extended_by(object))
    }
}

/// What a look at a chunk shows.
pub enum Found {
    Settled(Encoded),
    /// This session is the first to see the content: the asker must encode it.
    New(ChunkId),
}

/// What the parent has in a chunk's place, where that may be referenced.
#[derive(Debug, Clone)]
pub struct Before {
    pub chunk: PageRef,
    /// Whether the manifest being built has it too, so that nothing need be set.
    pub stands: bool,
}

/// What this session knows of a chunk that it may reference.
#[derive(Debug, Clone)]
pub(super) enum Known {
    Pending,
    Stored {
        generation: Generation,
        sealed_len_bytes: u32,
        variant: u32,
    },
    /// Stored by this session as a delta, which nobody else knows of.
    Delta(Arc<PageRef>),
}

impl Known {
    pub(super) fn of(object: &ObjectRef) -> Self {
        let ContentName { generation, variant, .. } = object.name;
        Self::Stored { generation, sealed_len_bytes: object.sealed_len_bytes, variant }
    }

    /// The ref of the chunk; `None` while it is being uploaded.
    fn chunk(&self, id: ChunkId) -> Option<PageRef> {
        match self {
            Self::Pending => None,
            Self::Stored { generation, sealed_len_bytes, variant } => {
                let name = ContentName { generation: *generation, id, variant: *variant };
                Some(PageRef::full(ObjectRef { name, sealed_len_bytes: *sealed_len_bytes }))
            }
            Self::Delta(chunk) => Some(PageRef::clone(chunk)),
        }
    }

    /// Objects that must be remembered for it.
    fn weight(&self) -> usize {
        match self {
            Self::Pending | Self::Stored { .. } => 1,
            Self::Delta(chunk) => 1 + chunk.objects().count(),
        }
    }
}

/// Two halves: when the newer is full, the older is dropped. So whatever a chunk in flight waits for is still known.
#[derive(Default)]
struct KnownChunks {
    newer: HashMap<ChunkId, Known>,
    older: HashMap<ChunkId, Known>,
    /// Of what was put into the newer half.
    weight: usize,
}

impl KnownChunks {
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

    fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}

/// Turns plaintext into what the store needs, knowing what is there.
pub struct Encoder {
    pub(super) project: Project,
    generation: Generation,
    pub(super) level: i32,
    check: bool,
    pub(super) forbidden: Arc<Forbidden>,
    known: Mutex<KnownChunks>,
    /// Chunks of the generation that a listing shows and nothing proves: to be opened before they are used.
    listed: Mutex<HashSet<ChunkId>>,
}

impl Encoder {
    /// `check` decodes every new object before it is uploaded.
    pub fn new(
        project: &Project,
        generation: Generation,
        level: i32,
        check: bool,
        forbidden: Arc<Forbidden>,
    ) -> Self {
        let (known, listed) = Default::default();
        Self { project: project.clone(), generation, level, check, forbidden, known, listed }
    }

    pub(super) fn saw_listed(&self, ids: impl IntoIterator<Item = ChunkId>) {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    /// Whether a listing shows a full object of a chunk in the generation.
    pub(super) fn is_listed(&self, id: &ChunkId) -> bool {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
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
        match self.look(plain, before) {
            Found::Settled(encoded) => Ok(encoded),
            Found::New(id) => self.full(id, plain).map(Encoded::New),
        }
    }

    /// As [`encode`](Self::encode), without encoding what is new.
    pub fn look(&self, plain: &[u8], before: Option<&Before>) -> Found {
        if codec::is_zero(plain) {
            let same = before.is_some_and(|b| b.stands && b.chunk.is_zero());
            return Found::Settled(if same { Encoded::Same } else { Encoded::Zero });
        }
        let id = self.project.identify(plain);
        if let Some(before) = before.filter(|b| b.chunk.id() == Some(id)) {
            let same = before.stands;
            return Found::Settled(if same { Encoded::Same } else { Encoded::Known(before.chunk.clone()) });
        }
        match self.claim(id) {
            None => Found::New(id),
            Some(known) => Found::Settled(known.chunk(id).map_or(Encoded::Pending(id), Encoded::Known)),
        }
    }

    /// Encodes a chunk as an object that needs no other.
    pub fn full(&self, id: ChunkId, plain: &[u8]) -> Result<NewChunk> {
        let own = ContentName { generation: self.generation, id, variant: 0 };
        // What stood there is lost: whatever stands there now is not built upon, and older manifests know its size.
        let variant = match self.forbidden.name(ContentKind::Chunk, own) {
            true => u32::from_le_bytes(random_array()?).max(1),
            false => 0,
        };
        let name = self.name(id, variant);
        let sealed = codec::seal(self.project.place(&name), plain, self.level)?;
        if self.check {
            let mut back = Vec::new();
            codec::open(self.project.place(&name), sealed.bytes(), None, plain.len(), &mut back)?;
            if back != plain {
                return Err(Error::internal(format!("{name} does not decode to what it was made from"))
                    .help("this machine's memory or processor is not to be trusted; test it"));
            }
        }
        Ok(NewChunk { id, sealed, chain: None })
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
    pub fn stored(&self, chunk: &PageRef) {
        let PageRef::Stored { object, closure } = chunk else { return };
        let known = match closure.is_empty() {
            true => Known::of(object),
            false => Known::Delta(Arc::new(chunk.clone())),
        };
        self.know(object.name.id, known);
    }

    /// The ref of an id that is durable by now.
    pub fn stored_ref(&self, id: ChunkId) -> Option<PageRef> {
        self.known().get(&id)?.chunk(id)
    }

    /// The name of a chunk of this session.
    pub(super) fn name(&self, id: ChunkId, variant: u32) -> ObjectName {
        self.project.content().chunk_name(ContentName { generation: self.generation, id, variant })
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
        let name = |n| ContentName { generation: Generation(0), id: id(n), variant: 1 };
        let object = |n| ObjectRef { name: name(n), sealed_len_bytes: 200 };
        let delta =
            |n| Known::Delta(Arc::new(PageRef::Stored { object: object(n), closure: vec![object(0); 7] }));
        let mut known = KnownChunks::default();
        known.insert(id(0), Known::Pending);
        // Nine objects each, the map's own entry included.
        let most = KNOWN_MAX / 9;
        for n in 1..=3 * most {
            known.insert(id(n), delta(n));
            assert!(known.len() <= most + 2);
        }
        assert!(matches!(known.get(&id(0)), Some(Known::Pending)), "it is still on its way");
        assert!(matches!(known.get(&id(3 * most)), Some(Known::Delta(_))));
        assert!(known.get(&id(1)).is_none());
    }
}
