//! One chunk on a CPU thread: zero, known, or compressed and sealed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::backup::context::Context;
use crate::backup::ground::Ground;
use crate::backup::known::KnownChunks;
use crate::backup::resumed::Resumed;
use crate::backup::tables::Tables;
use crate::codec::{self, Piece, Sealed};
use crate::error::{Error, Result};
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{ObjectRef, PageRef};
use crate::format::{ObjectName, SMALL_CHUNK_DIVISOR};
use crate::keys::random_array;
use crate::plan::delta::Chain;
use crate::plan::level::Gauge;
use crate::repo::Project;
use crate::repo::forbidden::Forbidden;
use crate::units::{ChunkId, Generation};

/// What a chunk turned out to be.
#[derive(Debug)]
pub(super) enum Encoded {
    /// All zero.
    Zero,
    /// What the parent has in the same place.
    Same,
    /// A run of chunks that need not be read: zero, as in the parent.
    StillZero { chunks: u64, bytes: u64 },
    /// In the repository already.
    Known(PageRef),
    /// In a bundle that an interrupted backup left. Others of this session may wait for the content.
    Found(PageRef),
    /// The same content is being uploaded by this session.
    Pending(ChunkId),
    /// To be uploaded.
    New(Box<NewChunk>),
    /// What the source has as the parent's chunk is not what the repository has.
    BaseDiffers,
}

/// A chunk to be uploaded.
#[derive(Debug)]
pub(super) struct NewChunk {
    pub id: ChunkId,
    pub made: Made,
    /// What it is a delta against; `None` for a full object.
    pub chain: Option<Chain>,
}

/// How a chunk is stored.
#[derive(Debug)]
pub(super) enum Made {
    /// As an object that others of the generation can find by its id.
    Object(Sealed),
    /// With others in a bundle: deltas, and what is too small for an object of its own.
    Piece(Piece),
}

impl Made {
    /// Bytes that are uploaded for it.
    pub(super) fn len_bytes(&self) -> u32 {
        match self {
            Self::Object(sealed) => sealed.len_bytes(),
            Self::Piece(piece) => piece.len_bytes(),
        }
    }
}

impl NewChunk {
    /// Its ref, once it is durable.
    pub(super) fn chunk_ref(id: ChunkId, chain: Option<&Chain>, object: ObjectRef) -> PageRef {
        let closure = chain.map(Chain::closure).unwrap_or_default().to_vec();
        PageRef::Stored { id, object, closure }
    }
}

/// What a look at a chunk shows.
pub(super) enum Found {
    Settled(Encoded),
    /// This session is the first to see the content: the asker must encode it.
    New(ChunkId),
}

/// What the parent has in a chunk's place, where that may be referenced.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub chunk: PageRef,
    /// Whether the manifest being built has it too, so that nothing need be set.
    pub stands: bool,
}

/// Turns plaintext into what the store needs, knowing what is there.
pub(super) struct Encoder {
    pub project: Project,
    pub generation: Generation,
    /// Compression level, as it is now.
    level: AtomicI32,
    /// Decode every new object before it is uploaded.
    check: bool,
    pub forbidden: Arc<Forbidden>,
    pub known: KnownChunks,
    pub resumed: Arc<Resumed>,
    pub tables: Tables,
}

impl Encoder {
    /// One that knows of nothing yet.
    pub(super) fn new(cx: &Context<'_>, ground: &Ground) -> Self {
        let known = KnownChunks::default();
        ground.resumed.full().iter().for_each(|chunk| known.stored(chunk));
        Self {
            project: Project::clone(cx.project),
            generation: ground.generation,
            level: AtomicI32::new(Gauge::new(cx.options.level).level()),
            check: cx.options.check_encoding,
            forbidden: Arc::clone(&ground.forbidden),
            known,
            resumed: Arc::clone(&ground.resumed),
            tables: Tables::new(cx.project),
        }
    }

    pub(super) fn level(&self) -> i32 {
        self.level.load(Ordering::Relaxed)
    }

    pub(super) fn set_level(&self, level: i32) {
        self.level.store(level, Ordering::Relaxed);
    }

    /// `before` is `None` where nothing is known of the place, or what is there may not be referenced.
    pub(super) fn encode(&self, plain: &[u8], before: Option<&Before>) -> Result<Encoded> {
        match self.look(plain, before) {
            Found::Settled(encoded) => Ok(encoded),
            Found::New(id) => Ok(Encoded::New(Box::new(self.full(id, plain)?))),
        }
    }

    /// As [`encode`](Self::encode), without encoding what is new.
    pub(super) fn look(&self, plain: &[u8], before: Option<&Before>) -> Found {
        if codec::is_zero(plain) {
            let same = before.is_some_and(|b| b.stands && b.chunk.is_zero());
            return Found::Settled(if same { Encoded::Same } else { Encoded::Zero });
        }
        let id = self.project.identify(plain);
        if let Some(before) = before.filter(|b| b.chunk.id() == Some(id)) {
            let same = before.stands;
            return Found::Settled(if same { Encoded::Same } else { Encoded::Known(before.chunk.clone()) });
        }
        match self.known.claim(id) {
            None => Found::New(id),
            Some(known) => Found::Settled(known.chunk(id).map_or(Encoded::Pending(id), Encoded::Known)),
        }
    }

    /// Encodes a chunk so that it needs no other.
    pub(super) fn full(&self, id: ChunkId, plain: &[u8]) -> Result<NewChunk> {
        let own = ContentName::plain(self.generation, id);
        // What stood there is lost: whatever stands there now is not built upon, and older manifests know its size.
        let variant = match self.forbidden.name(ContentKind::Chunk, own) {
            true => u32::from_le_bytes(random_array()?).max(1),
            false => 0,
        };
        let name = self.name(id, variant);
        let sealed = codec::seal(self.project.place(&name), plain, self.level())?;
        if self.check {
            let mut back = Vec::new();
            codec::open(self.project.place(&name), sealed.bytes(), None, plain.len(), &mut back)?;
            if back != plain {
                return Err(Error::internal(format!("{name} does not decode to what it was made from"))
                    .help("this machine's memory or processor is not to be trusted; test it"));
            }
        }
        let made = match sealed.len_bytes() <= self.project.chunk_size_bytes() / SMALL_CHUNK_DIVISOR {
            true => Made::Piece(self.small(id, &sealed)?),
            false => Made::Object(sealed),
        };
        Ok(NewChunk { id, made, chain: None })
    }

    fn small(&self, id: ChunkId, sealed: &Sealed) -> Result<Piece> {
        let name = self.piece_name(id);
        let sealed = codec::rename(self.project.place(sealed.name()), sealed, self.project.place(&name))?;
        Ok(Piece { id, sealed, delta: None })
    }

    /// What a piece is sealed as.
    pub(super) fn piece_name(&self, id: ChunkId) -> ObjectName {
        ObjectName::Piece(self.project.name().clone(), id)
    }

    /// The name of a chunk of this session.
    fn name(&self, id: ChunkId, variant: u32) -> ObjectName {
        self.project.content().chunk_name(ContentName { variant, ..ContentName::plain(self.generation, id) })
    }
}
