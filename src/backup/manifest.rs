//! What comes to be of a backup's chunks: the next manifest over stored objects, or, in a dry run, nothing but numbers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::BoxFuture;

use crate::backup::context::Context;
use crate::backup::ground::Ground;
use crate::codec::{Piece, Sealed};
use crate::error::{Error, Result};
use crate::format::ObjectName;
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, Page, PageRef};
use crate::repo::bundles::Own;
use crate::repo::content::Uploaded;
use crate::repo::manifest::{Manifest, ManifestBuilder};
use crate::repo::{Writer, bundles};
use crate::units::{ChunkId, ChunkIndex, Generation, Geometry, SnapshotId};

/// The snapshot that comes to be, chunk by chunk.
pub(super) trait Draft: Send {
    /// `base` is what the volume has but for what is set.
    fn new(cx: &Context<'_>, ground: &Ground, base: Arc<Manifest>, geometry: Geometry) -> Self;

    fn geometry(&self) -> Geometry;

    /// The ref of a chunk as it is now.
    async fn get(&mut self, index: ChunkIndex) -> Result<PageRef>;

    /// Sets the ref of a chunk, whose object is durable.
    async fn set(&mut self, index: ChunkIndex, chunk: PageRef) -> Result<()>;

    /// The leaves in memory that are written anew, by their numbers.
    fn changed_leaves(&self) -> Vec<u64>;

    /// Cuts or grows the volume. The chunk that the smaller end lies in must be set anew where it gets another length.
    async fn resize(&mut self, geometry: Geometry) -> Result<()>;

    /// Makes a new object durable. `is_listed`: a listing shows one of its name.
    fn put(&self, sealed: Sealed, is_listed: bool) -> BoxFuture<'static, Result<Uploaded>>;

    /// Makes pieces durable as one bundle. Their refs, in their order.
    fn put_bundle(&self, pieces: Vec<Piece>) -> BoxFuture<'static, Result<Vec<ObjectRef>>>;
}

/// One that can be committed.
pub(super) struct Stored {
    project: Writer,
    generation: Generation,
    /// What its bundles are named by, and how many there are.
    session: SnapshotId,
    bundles: AtomicU32,
    builder: ManifestBuilder,
}

impl Stored {
    /// Writes the pages and returns the root.
    pub(super) async fn finish(self) -> Result<Page> {
        self.builder.finish().await
    }
}

impl Draft for Stored {
    fn new(cx: &Context<'_>, ground: &Ground, base: Arc<Manifest>, geometry: Geometry) -> Self {
        let builder = ManifestBuilder::new(
            cx.project.clone(),
            base,
            geometry,
            ground.generation,
            Arc::clone(&ground.forbidden),
        );
        let (generation, session) = (ground.generation, ground.session);
        Self { project: cx.project.clone(), generation, session, bundles: AtomicU32::new(0), builder }
    }

    fn geometry(&self) -> Geometry {
        self.builder.geometry()
    }

    async fn get(&mut self, index: ChunkIndex) -> Result<PageRef> {
        self.builder.get(index).await
    }

    async fn set(&mut self, index: ChunkIndex, chunk: PageRef) -> Result<()> {
        self.builder.set(index, chunk).await
    }

    fn changed_leaves(&self) -> Vec<u64> {
        self.builder.changed_leaves()
    }

    async fn resize(&mut self, geometry: Geometry) -> Result<()> {
        self.builder.resize(geometry).await
    }

    fn put(&self, sealed: Sealed, is_listed: bool) -> BoxFuture<'static, Result<Uploaded>> {
        let project = self.project.clone();
        Box::pin(async move { project.content().put(sealed, is_listed).await })
    }

    fn put_bundle(&self, pieces: Vec<Piece>) -> BoxFuture<'static, Result<Vec<ObjectRef>>> {
        let (project, generation) = (self.project.clone(), self.generation);
        let k = self.bundles.fetch_add(1, Ordering::Relaxed) + 1;
        let own = Own { session: self.session, k };
        Box::pin(async move { bundles::put(&project, generation, own, pieces).await })
    }
}

/// One that is counted and let go.
pub(super) struct Counted {
    base: Arc<Manifest>,
    geometry: Geometry,
    /// Chunks of the base that still count: the smallest size the volume had since.
    valid_chunks: u64,
    /// Nobody can read again what was not stored: these read as zeros.
    set: HashSet<u64>,
}

impl Draft for Counted {
    fn new(_: &Context<'_>, _: &Ground, base: Arc<Manifest>, geometry: Geometry) -> Self {
        let valid_chunks = base.geometry().chunk_count().min(geometry.chunk_count());
        Self { base, geometry, valid_chunks, set: HashSet::new() }
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    async fn get(&mut self, index: ChunkIndex) -> Result<PageRef> {
        match index.0 >= self.valid_chunks || self.set.contains(&index.0) {
            true => Ok(PageRef::Zero),
            false => self.base.chunk(index).await,
        }
    }

    async fn set(&mut self, index: ChunkIndex, _: PageRef) -> Result<()> {
        self.set.insert(index.0);
        Ok(())
    }

    fn changed_leaves(&self) -> Vec<u64> {
        Vec::new()
    }

    async fn resize(&mut self, geometry: Geometry) -> Result<()> {
        self.geometry = geometry;
        self.valid_chunks = self.valid_chunks.min(geometry.chunk_count());
        Ok(())
    }

    fn put(&self, sealed: Sealed, is_listed: bool) -> BoxFuture<'static, Result<Uploaded>> {
        let counted = match *sealed.name() {
            ObjectName::Chunk(_, name) => {
                let object = ObjectRef { name, sealed_len_bytes: sealed.len_bytes() };
                Ok(Uploaded { object, new: !is_listed })
            }
            _ => Err(Error::internal(format!("{} is no chunk", sealed.name()))),
        };
        Box::pin(std::future::ready(counted))
    }

    fn put_bundle(&self, pieces: Vec<Piece>) -> BoxFuture<'static, Result<Vec<ObjectRef>>> {
        // Nobody reads them: what is set is only counted.
        let bundle = ContentName::plain(Generation(0), ChunkId([0; 32]));
        let objects = pieces.iter().scan(0, |next, piece| {
            let (offset_bytes, sealed_len_bytes) = (*next, piece.len_bytes());
            *next += sealed_len_bytes;
            Some(ObjectRef {
                name: ContentName { offset_bytes: Some(offset_bytes), ..bundle },
                sealed_len_bytes,
            })
        });
        Box::pin(std::future::ready(Ok(objects.collect())))
    }
}
