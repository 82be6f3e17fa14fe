//! One chunk on a CPU thread: zero, known, or compressed and sealed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};

use crate::codec::{self, Sealed};
use crate::error::{Error, Result};
use crate::format::names::{ContentName, chunks_prefix};
use crate::format::page::{ObjectRef, PageRef};
use crate::format::{HEADER_LEN_BYTES, ObjectName};
use crate::plan::delta::Chain;
use crate::repo::Project;
use crate::repo::chunks::chunk_object_len_bytes_max;
use crate::store::ObjectInfo;
use crate::units::{ChunkId, Generation};

/// Most objects of the generation that a session remembers (about 50 MiB), those below a delta included. Beyond it, dedup
/// is the store's: a create that finds the chunk.
const KNOWN_MAX: usize = 900_000;
/// Most of them that come from a listing.
const LISTED_MAX: usize = 400_000;
/// Up to so many, one listing after another is the cheapest.
const LISTED_FEW: usize = 5_000;
/// Listings under way at once.
const LISTS_INFLIGHT_MAX: usize = 16;

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

/// What this session knows of a chunk of its generation.
#[derive(Debug, Clone)]
enum Known {
    Pending,
    Stored {
        sealed_len_bytes: u32,
        variant: u32,
    },
    /// Stored by this session as a delta, which nobody else knows of.
    Delta(Arc<PageRef>),
}

impl Known {
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

    /// Lists what the generation holds, so that a large backup of known content uploads nothing. What the listing
    /// misses costs a create that finds it; what it shows is there, as nothing of this generation is deleted while
    /// the session is open (invariant I3).
    pub async fn learn_stored(&self) -> Result<()> {
        let (store, name) = (self.project.repository().store(), self.project.name());
        let all = chunks_prefix(name, self.generation, None);
        let few: Vec<_> = store.list_stream(&all, None).take(LISTED_FEW).collect().await;
        if few.len() < LISTED_FEW {
            return few.into_iter().try_for_each(|info| info.map(|info| self.learn(&info)));
        }
        let lists = (0..=255u8).map(|first| chunks_prefix(name, self.generation, Some(first)));
        let mut lists = stream::iter(lists)
            .map(|prefix| async move { store.list(&prefix, None).await })
            .buffer_unordered(LISTS_INFLIGHT_MAX);
        while let Some(listed) = lists.next().await {
            listed?.iter().for_each(|info| self.learn(info));
            if self.known().len() >= LISTED_MAX {
                break;
            }
        }
        Ok(())
    }

    /// Takes what a listing shows for what its name says, as far as its size can be right.
    fn learn(&self, info: &ObjectInfo) {
        let sizes = HEADER_LEN_BYTES as u64..=chunk_object_len_bytes_max(self.project.chunk_size_bytes());
        if let Some(ObjectName::Chunk(_, ContentName { id, variant: 0, .. })) = ObjectName::parse(&info.key)
            && sizes.contains(&info.size_bytes)
            && let Ok(sealed_len_bytes) = u32::try_from(info.size_bytes)
        {
            self.known().insert(id, Known::Stored { sealed_len_bytes, variant: 0 });
        }
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
            Some(known) => Found::Settled(match self.known_ref(id, &known) {
                Some(chunk) => Encoded::Known(chunk),
                None => Encoded::Pending(id),
            }),
        }
    }

    /// Encodes a chunk as an object that needs no other.
    pub fn full(&self, id: ChunkId, plain: &[u8]) -> Result<NewChunk> {
        let name = self.name(id, 0);
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
        let ContentName { id, variant, .. } = object.name;
        let known = match closure.is_empty() {
            true => Known::Stored { sealed_len_bytes: object.sealed_len_bytes, variant },
            false => Known::Delta(Arc::new(chunk.clone())),
        };
        self.known().insert(id, known);
    }

    /// The ref of an id that is durable by now.
    pub fn stored_ref(&self, id: ChunkId) -> Option<PageRef> {
        let known = self.known().get(&id)?;
        self.known_ref(id, &known)
    }

    /// `None` while it is being uploaded.
    fn known_ref(&self, id: ChunkId, known: &Known) -> Option<PageRef> {
        match known {
            Known::Pending => None,
            Known::Stored { sealed_len_bytes, variant } => {
                Some(PageRef::full(self.object(id, *sealed_len_bytes, *variant)))
            }
            Known::Delta(chunk) => Some(PageRef::clone(chunk)),
        }
    }

    /// The name of a chunk of this session.
    pub(super) fn name(&self, id: ChunkId, variant: u32) -> ObjectName {
        self.project.chunk_name(self.object(id, 0, variant).name)
    }

    fn object(&self, id: ChunkId, sealed_len_bytes: u32, variant: u32) -> ObjectRef {
        ObjectRef { name: ContentName { generation: self.generation, id, variant }, sealed_len_bytes }
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
