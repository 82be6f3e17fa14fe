//! Chunks and pages in the store: uploading what is new, fetching with everything that is needed to decode, listing.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::cancel::Cancel;
use crate::codec::{self, Base, Sealed};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::bundle::split;
use crate::format::envelope::{Header, damaged};
use crate::format::names::{ContentKind, ContentName};
use crate::format::page::{ObjectRef, PIECE_ID_LEN_BYTES, Page, PageRef};
use crate::format::{CLOSURE_LEN_MAX, ObjectName, ObjectType};
use crate::keys::random_array;
use crate::repo::project::missing;
use crate::repo::stored::{self, Listed};
use crate::repo::{Creating, Project};
use crate::store::Created;
use crate::units::{ChunkId, Generation};
use crate::{cpu, units};

/// What an upload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// Its name and its size in the store.
    pub object: ObjectRef,
    /// Whether this upload put it there; false where the store had it.
    pub new: bool,
}

/// A chunk's object or piece as it came from the store; nothing of it is proven.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// Of the content, as it says itself.
    pub(crate) id: ChunkId,
    pub(crate) sealed: Bytes,
}

impl Body {
    /// What it must be sealed as.
    pub(crate) fn name(&self, content: Content<'_>, object: &ObjectRef) -> ObjectName {
        match object.name.offset_bytes {
            None => content.chunk_name(object.name),
            Some(_) => ObjectName::Piece(content.project.name().clone(), self.id),
        }
    }
}

/// The chunks, pages and bundles of a project.
#[derive(Clone, Copy)]
pub struct Content<'a> {
    pub(super) project: &'a Project,
}

impl Content<'_> {
    pub(crate) fn chunk_name(self, name: ContentName) -> ObjectName {
        ObjectName::Chunk(self.project.name().clone(), name)
    }

    /// Where a chunk is, for people.
    pub(crate) fn chunk_label(self, name: ContentName) -> String {
        let object = self.object_name(name);
        name.offset_bytes.map_or_else(|| object.to_string(), |offset| format!("{object}+{offset}"))
    }

    /// The object in the store that a chunk is, or is a piece of.
    pub(crate) fn object_name(self, name: ContentName) -> ObjectName {
        ObjectName::content(self.project.name(), name.chunk_kind(), name)
    }

    pub(crate) fn page_name(self, name: ContentName) -> ObjectName {
        ObjectName::Page(self.project.name().clone(), name)
    }

    /// What stands under the name of a full object, if it opens and holds the same content. Who cannot open chunks goes by the mark.
    async fn found(self, sealed: &Sealed) -> Result<Option<ObjectRef>> {
        let name = content_name(sealed)?;
        let max = match sealed.name().object_type() {
            ObjectType::Chunk => chunk_object_len_bytes_max(self.project.chunk_size_bytes()),
            other => other.object_len_bytes_max() as u64,
        };
        let bytes = match self.project.repository().store().get(&sealed.name().to_string(), max).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            // Larger than any such object.
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(None),
            Err(e) => return Err(e),
        };
        if name.variant != 0 || !is_like(sealed, &bytes, bytes.len() as u64) {
            return Ok(None);
        }
        let sealed_len_bytes = bytes.len() as u32;
        let (project, object_name) = (self.project.clone(), sealed.name().clone());
        cpu::run(move || {
            let (mut plain, is_chunk) = (Vec::new(), object_name.object_type() == ObjectType::Chunk);
            let plain_max = match is_chunk {
                true => project.chunk_size_bytes() as usize,
                false => ObjectType::Page.plain_len_bytes_max(),
            };
            if is_chunk && !project.opens_chunks() {
                // One of the project sealed it under its id, which is as much as a key that opens nothing can tell.
                let marked = codec::check_mark(project.place(&object_name), &bytes).is_ok();
                return Ok(marked.then_some(ObjectRef { name, sealed_len_bytes }));
            }
            if codec::open(project.place(&object_name), &bytes, None, plain_max, &mut plain).is_err() {
                return Ok(None);
            }
            let id = if is_chunk { project.identify(&plain) } else { project.identify_page(&plain) };
            Ok((id == name.id).then_some(ObjectRef { name, sealed_len_bytes }))
        })
        .await
    }

    async fn rename_to_variant(self, sealed: Sealed) -> Result<Sealed> {
        let project = self.project.clone();
        cpu::run(move || {
            let variant = u32::from_le_bytes(random_array()?).max(1);
            let name = match sealed.name() {
                ObjectName::Chunk(p, c) => ObjectName::Chunk(p.clone(), ContentName { variant, ..*c }),
                ObjectName::Page(p, c) => ObjectName::Page(p.clone(), ContentName { variant, ..*c }),
                other => return Err(Error::internal(format!("{other} has no variants"))),
            };
            codec::rename(project.place(sealed.name()), &sealed, project.place(&name))
        })
        .await
    }

    /// Fetches a chunk with its closure, opens it, and checks its id. `len_bytes` is what the volume's geometry says.
    pub async fn fetch_chunk(self, chunk: &PageRef, len_bytes: u32) -> Result<Vec<u8>> {
        if chunk.is_zero() {
            return Ok(vec![0; len_bytes as usize]);
        }
        self.fetch_chunk_into(chunk, len_bytes, Vec::new).await
    }

    /// As [`fetch_chunk`](Self::fetch_chunk) for a chunk that is not zero. The buffer is taken once its objects have come.
    pub(crate) async fn fetch_chunk_into(
        self,
        chunk: &PageRef,
        len_bytes: u32,
        take: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>> {
        let objects: Vec<ObjectRef> = chunk.objects().copied().collect();
        let bodies = self.get_chunk_objects(&objects).await?;
        self.decode_chunk(chunk, bodies, len_bytes, take).await
    }

    /// Opens a chunk that is not zero, once its objects have come.
    pub(crate) async fn decode_chunk(
        self,
        chunk: &PageRef,
        bodies: Vec<Body>,
        len_bytes: u32,
        take: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>> {
        let (project, chunk) = (self.project.clone(), chunk.clone());
        cpu::run(move || {
            let mut plain = take();
            project.content().open_chunk_into(&chunk, &bodies, len_bytes, &mut plain)?;
            Ok(plain)
        })
        .await
    }

    /// The sealed bytes of the objects of one chunk, in their order.
    pub(crate) async fn get_chunk_objects(self, objects: &[ObjectRef]) -> Result<Vec<Body>> {
        let bodies = stream::iter(objects.to_vec()).map(|object| self.get_chunk_object(object));
        bodies.buffered(CLOSURE_LEN_MAX + 1).try_collect().await
    }

    /// The sealed bytes of one chunk object or piece, whose size must be what its ref says.
    pub(crate) async fn get_chunk_object(self, object: ObjectRef) -> Result<Body> {
        self.check_chunk_len(&object)?;
        let (name, key) = (object.name, self.object_name(object.name));
        let store = self.project.repository().store();
        let len_bytes = u64::from(object.sealed_len_bytes);
        let found = match name.offset_bytes {
            None => store.get(&key.to_string(), len_bytes).await?,
            Some(offset) => {
                let start = u64::from(offset);
                store.get_range(&key.to_string(), start..start + len_bytes).await?
            }
        };
        self.body(&object, found.ok_or_else(|| missing(&key))?)
    }

    /// What came for a chunk's object or piece.
    pub(crate) fn body(self, object: &ObjectRef, bytes: Bytes) -> Result<Body> {
        if bytes.len() != object.sealed_len_bytes as usize {
            return Err(wrong_len(self.chunk_label(object.name), bytes.len(), object));
        }
        match object.name.offset_bytes {
            None => Ok(Body { id: object.name.id, sealed: bytes }),
            Some(_) => {
                let (id, _) = split(&bytes)?;
                Ok(Body { id, sealed: bytes.slice(PIECE_ID_LEN_BYTES..) })
            }
        }
    }

    /// Whether a chunk's object or piece may be as long as its ref says.
    pub(crate) fn check_chunk_len(self, object: &ObjectRef) -> Result<()> {
        let len_bytes_max = chunk_object_len_bytes_max(self.project.chunk_size_bytes());
        if u64::from(object.sealed_len_bytes) <= len_bytes_max {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "{}: its manifest says {} bytes, at most {len_bytes_max}",
            self.chunk_label(object.name),
            object.sealed_len_bytes
        )))
    }

    /// Decodes a chunk from all that [`PageRef::objects`] names, in that order; a chunk of zeros has nothing.
    pub(crate) fn open_chunk_or_zero(
        self,
        chunk: &PageRef,
        bodies: &[Body],
        len_bytes: u32,
    ) -> Result<Vec<u8>> {
        if chunk.is_zero() {
            return Ok(vec![0; len_bytes as usize]);
        }
        let mut plain = Vec::new();
        self.open_chunk_into(chunk, bodies, len_bytes, &mut plain)?;
        Ok(plain)
    }

    /// As [`open_chunk_or_zero`](Self::open_chunk_or_zero) for a chunk that is not zero, into a buffer that was used before. After an error it holds anything.
    pub(crate) fn open_chunk_into(
        self,
        chunk: &PageRef,
        bodies: &[Body],
        len_bytes: u32,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let (Some(id), objects) = (chunk.id(), chunk.objects().collect::<Vec<_>>()) else {
            return Err(Error::internal("a chunk of zeros is not opened"));
        };
        let max = self.project.chunk_size_bytes() as usize;
        for (depth, (object, body)) in objects.iter().zip(bodies).rev().enumerate() {
            let name = body.name(self, object);
            codec::open_onto(self.project.place(&name), &body.sealed, depth as u8, max, plain)
                .map_err(|e| e.context(self.chunk_label(object.name)))?;
        }
        if self.project.identify(plain) != id {
            return Err(self.wrong_link(&objects, bodies));
        }
        check_plain_len(&id, plain.len(), len_bytes)
    }

    /// Which object of a chain that ends in another content is the first to be wrong: only the end's id is looked at before.
    fn wrong_link(self, objects: &[&ObjectRef], bodies: &[Body]) -> Error {
        let (mut plain, mut below) = (Vec::new(), None::<Vec<u8>>);
        for (depth, (object, body)) in objects.iter().zip(bodies).rev().enumerate() {
            let base = below.as_ref().map(|plain| Base { depth: depth as u8, plain });
            if let Err(error) = self.open_object(object, body, base, &mut plain) {
                return error;
            }
            below = Some(std::mem::take(&mut plain));
        }
        let label = objects.first().map(|object| self.chunk_label(object.name)).unwrap_or_default();
        damaged(format!("{label}: it holds another chunk than its manifest says"))
    }

    /// Decodes one object of a chunk, given its base, and checks the id that it says itself.
    pub(crate) fn open_object(
        self,
        object: &ObjectRef,
        body: &Body,
        base: Option<Base<'_>>,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let (name, label) = (body.name(self, object), self.chunk_label(object.name));
        let max = self.project.chunk_size_bytes() as usize;
        codec::open(self.project.place(&name), &body.sealed, base, max, plain).context(&label)?;
        if self.project.identify(plain) == body.id {
            return Ok(());
        }
        Err(damaged(format!("{label}: its content has another id")))
    }

    /// Reads a manifest page; the cache may answer.
    pub(crate) async fn read_page(self, object: &ObjectRef, level: u8, count: usize) -> Result<Page> {
        let name = self.page_name(object.name);
        let cache = &self.project.repository().cache;
        if let Some(copy) = cache.page(&name) {
            match self.open_page(&name, object, copy, level, count).await {
                Ok(page) => return Ok(page),
                Err(_) => cache.remove(&name),
            }
        }
        let bytes = self.project.get_object(&name).await?.ok_or_else(|| missing(&name))?;
        let page = self.open_page(&name, object, bytes.clone(), level, count).await?;
        cache.put_page(&name, &bytes);
        Ok(page)
    }

    pub(crate) async fn open_page(
        self,
        name: &ObjectName,
        object: &ObjectRef,
        bytes: Bytes,
        level: u8,
        count: usize,
    ) -> Result<Page> {
        if bytes.len() != object.sealed_len_bytes as usize {
            return Err(wrong_len(name.to_string(), bytes.len(), object));
        }
        let (project, name, id) = (self.project.clone(), name.clone(), object.name.id);
        cpu::run(move || {
            let mut plain = Vec::new();
            let max = ObjectType::Page.plain_len_bytes_max();
            codec::open(project.place(&name), &bytes, None, max, &mut plain).context(&name)?;
            if project.identify_page(&plain) != id {
                return Err(damaged(format!("{name}: its content has another id")));
            }
            Page::decode(&plain, level, count).context(&name)
        })
        .await
    }

    /// Shows every object of a kind, in any order, each once. Foreign names are left out. `newest` is the newest generation, as
    /// far as that is known: it only tells how the work is shared.
    pub(crate) async fn each(
        self,
        kind: ContentKind,
        newest: Generation,
        cancel: &Cancel,
        each: impl FnMut(Listed),
    ) -> Result<()> {
        stored::each(self.project, kind, newest, cancel, each).await
    }
}

impl Creating<Content<'_>> {
    /// Uploads a chunk or page of the session's generation, or finds that it is there.
    ///
    /// What stands under a full object's name already is used once it was opened: anybody who may create can have put it
    /// there. What does not open is left for `verify` to report, and the content goes under a variant of the name. A variant
    /// that is taken, delta or not, is another's. Where a listing shows the name, it is looked at before anything is sent.
    pub(crate) async fn put(self, sealed: Sealed, is_listed: bool) -> Result<Uploaded> {
        let mut sealed = sealed;
        if is_listed && let Some(object) = self.found(&sealed).await? {
            return Ok(Uploaded { object, new: false });
        }
        for _ in 0..CLOSURE_LEN_MAX {
            let name = content_name(&sealed)?;
            match self.project.create_sealed(&sealed).await? {
                Created::New => {
                    let object = ObjectRef { name, sealed_len_bytes: sealed.len_bytes() };
                    return Ok(Uploaded { object, new: true });
                }
                Created::Exists { head, size_bytes } if is_like(&sealed, &head, size_bytes) => {
                    if let Some(object) = self.found(&sealed).await? {
                        return Ok(Uploaded { object, new: false });
                    }
                    tracing::warn!(name = %sealed.name(), "what stands there does not open; writing a variant");
                }
                Created::Exists { .. } if name.variant == 0 => {
                    tracing::warn!(name = %sealed.name(), "a damaged object stands in the way; writing a variant");
                }
                Created::Exists { .. } => {}
            }
            sealed = self.rename_to_variant(sealed).await?;
        }
        Err(Error::unavailable(format!("no free variant of {}", sealed.name())).help("run `cuttle verify`"))
    }
}

/// Whether a chunk's plaintext has the length that its place in the volume asks for.
pub(crate) fn check_plain_len(id: &ChunkId, found: usize, expected: u32) -> Result<()> {
    if found == expected as usize {
        return Ok(());
    }
    Err(Error::corrupt(format!("chunk {id} holds {found} bytes, its place in the volume {expected}")))
}

/// Most bytes that a chunk's object, or piece, may have in a repository of this chunk size.
pub(crate) fn chunk_object_len_bytes_max(chunk_size_bytes: u32) -> u64 {
    let (plain, object) = (ObjectType::Chunk.plain_len_bytes_max(), ObjectType::Chunk.object_len_bytes_max());
    (object - plain + PIECE_ID_LEN_BYTES) as u64 + u64::from(chunk_size_bytes)
}

fn wrong_len(label: String, found: usize, object: &ObjectRef) -> Error {
    Error::corrupt(format!("{label} has {found} bytes, its manifest says {}", object.sealed_len_bytes))
        .help("run `cuttle verify` to see what is hurt")
}

fn content_name(sealed: &Sealed) -> Result<ContentName> {
    match *sealed.name() {
        ObjectName::Chunk(_, name) | ObjectName::Page(_, name) => Ok(name),
        _ => Err(Error::internal(format!("{} is neither chunk nor page", sealed.name()))),
    }
}

/// Whether what another session put under the same full name looks whole.
fn is_like(ours: &Sealed, head: &[u8], size_bytes: u64) -> bool {
    let (Ok(theirs), Ok(mine)) =
        (Header::decode(head, size_bytes), Header::decode(ours.bytes(), ours.bytes().len() as u64))
    else {
        return false;
    };
    theirs.object_type == mine.object_type
        && theirs.sealing == mine.sealing
        && theirs.plain_len_bytes == mine.plain_len_bytes
        && theirs.depth == 0
        && mine.depth == 0
}

/// Most plaintext bytes that fetching one chunk holds at once: the chunk and the base it is decoded against.
pub const fn fetch_memory_bytes_max(chunk_size_bytes: u32) -> u64 {
    2 * chunk_size_bytes as u64 + units::CHUNK_SIZE_BYTES_MIN as u64
}
