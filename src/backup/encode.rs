//! One chunk on a CPU thread: zero, known, or compressed and sealed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, stream};

use crate::codec::{self, Sealed};
use crate::error::{Error, Result};
use crate::format::names::{ContentName, chunks_prefix};
use crate::format::page::{ObjectRef, PageRef};
use crate::format::{HEADER_LEN_BYTES, ObjectName};
use crate::repo::Project;
use crate::repo::chunks::chunk_object_len_bytes_max;
use crate::store::ObjectInfo;
use crate::units::{ChunkId, Generation};

/// Most chunks of the generation that a session remembers (about 45 MiB). Beyond it, dedup is the store's: a create that
/// finds the chunk.
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
    New(ChunkId, Sealed),
}

/// What the parent has in a chunk's place, where that may be referenced.
#[derive(Debug, Clone)]
pub struct Before {
    pub chunk: PageRef,
    /// Whether the manifest being built has it too, so that nothing need be set.
    pub stands: bool,
}

/// What this session knows of a chunk of its generation.
#[derive(Debug, Clone, Copy)]
enum Known {
    Pending,
    Stored { sealed_len_bytes: u32, variant: u32 },
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
        if codec::is_zero(plain) {
            let same = before.is_some_and(|b| b.stands && b.chunk.is_zero());
            return Ok(if same { Encoded::Same } else { Encoded::Zero });
        }
        let id = self.project.identify(plain);
        if let Some(before) = before.filter(|b| b.chunk.id() == Some(id)) {
            return Ok(if before.stands { Encoded::Same } else { Encoded::Known(before.chunk.clone()) });
        }
        match self.claim(id) {
            Some(Known::Pending) => return Ok(Encoded::Pending(id)),
            Some(Known::Stored { sealed_len_bytes, variant }) => {
                return Ok(Encoded::Known(PageRef::full(self.object(id, sealed_len_bytes, variant))));
            }
            None => {}
        }
        let name = self.project.chunk_name(self.object(id, 0, 0).name);
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
        let ContentName { id, variant, .. } = object.name;
        self.known().insert(id, Known::Stored { sealed_len_bytes: object.sealed_len_bytes, variant });
    }

    /// The object of an id that is durable by now.
    pub fn stored_object(&self, id: ChunkId) -> Option<ObjectRef> {
        match self.known().get(&id) {
            Some(Known::Stored { sealed_len_bytes, variant }) => {
                Some(self.object(id, sealed_len_bytes, variant))
            }
            _ => None,
        }
    }

    fn object(&self, id: ChunkId, sealed_len_bytes: u32, variant: u32) -> ObjectRef {
        ObjectRef { name: ContentName { generation: self.generation, id, variant }, sealed_len_bytes }
    }
}
