//! Decoded chunks in memory, within a bound: each fetched once however many ask for it, the one used last kept longest.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::budget::{Budget, Share};
use crate::error::{Error, Result};
use crate::format::page::{ObjectRef, PageRef};
use crate::plan::restore::Fetch;
use crate::reading::need::fetch_bytes;
use crate::repo::Project;
use crate::repo::content::check_plain_len;
use crate::repo::neighbours::Neighbours;
use crate::units::ChunkId;

/// Chunks that fit at least, whatever bound is asked for: one that is fetched with its objects and base, and some kept.
const CHUNKS_MIN: u64 = 8;
/// The part of the memory that parts of bundles may take.
const NEIGHBOURS_DIVISOR: u64 = 8;

/// A decoded chunk; it counts until nobody holds it.
pub(super) struct Chunk {
    plain: Vec<u8>,
    _share: Share,
}

impl Chunk {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.plain
    }
}

/// An error goes to all who waited for the same fetch.
type Fetched = Result<Arc<Chunk>, Arc<Error>>;
type Coming = Shared<BoxFuture<'static, Fetched>>;

enum Asked {
    Kept(Arc<Chunk>),
    Coming(Coming),
}

/// The chunks of one project.
///
/// One budget holds what is fetched and what is kept. No more is kept than leaves room for a fetch, so a fetch waits only for
/// others, which end by themselves, and for those who copy out of a chunk at this moment.
pub(super) struct KeptChunks {
    project: Project,
    budget: Budget,
    neighbours: Neighbours,
    kept_bytes_max: u64,
    fetch_bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: HashMap<ChunkId, Kept>,
    /// By when they were used last.
    order: BTreeMap<u64, ChunkId>,
    kept_bytes: u64,
    uses: u64,
    /// What is being fetched. Nobody fetches when nobody waits any more.
    coming: HashMap<ChunkId, WeakShared<BoxFuture<'static, Fetched>>>,
}

struct Kept {
    chunk: Arc<Chunk>,
    used: u64,
}

impl KeptChunks {
    pub(super) fn new(project: &Project, memory_bytes: u64) -> Arc<Self> {
        let memory_bytes = memory_bytes.max(CHUNKS_MIN * u64::from(project.chunk_size_bytes()));
        let fetch_bytes_max = memory_bytes / 2;
        Arc::new(Self {
            project: project.clone(),
            neighbours: Neighbours::new(project, memory_bytes / NEIGHBOURS_DIVISOR),
            budget: Budget::new(memory_bytes - memory_bytes / NEIGHBOURS_DIVISOR),
            kept_bytes_max: memory_bytes - memory_bytes / NEIGHBOURS_DIVISOR - fetch_bytes_max,
            fetch_bytes_max,
            state: Mutex::default(),
        })
    }

    /// The content of a chunk that is not zero, from memory or from the store.
    pub(super) async fn get(self: &Arc<Self>, chunk: &PageRef, len_bytes: u32) -> Result<Arc<Chunk>> {
        let Some(id) = chunk.id() else {
            return Err(Error::internal("a chunk of zeros is not fetched"));
        };
        let asked = self.ask(id, chunk, len_bytes, None);
        let found = match asked {
            Asked::Kept(found) => found,
            Asked::Coming(coming) => coming.await.map_err(|e| again(&e))?,
        };
        // A hostile manifest may give one id two lengths.
        check_plain_len(&id, found.plain.len(), len_bytes)?;
        Ok(found)
    }

    /// Says that these chunks are about to be read.
    pub(super) fn announce(&self, chunks: &[PageRef]) {
        let state = self.lock();
        let new = |id| !state.kept.contains_key(&id) && !state.coming.contains_key(&id);
        let chunks: Vec<&PageRef> = chunks.iter().filter(|chunk| chunk.id().is_some_and(new)).collect();
        drop(state);
        self.neighbours.announce(chunks.into_iter().flat_map(PageRef::objects));
    }

    /// Fetches a chunk that nobody asked for yet. Gives up at once where it would have to wait for memory.
    pub(super) async fn fetch_ahead(self: &Arc<Self>, chunk: &PageRef, len_bytes: u32) {
        let Some(id) = chunk.id() else { return };
        let known = {
            let state = self.lock();
            state.kept.contains_key(&id) || state.coming.contains_key(&id)
        };
        if known {
            return;
        }
        // What fails is asked for again by whoever needs it, and told to them.
        let Some(share) = self.budget.try_take(self.cost(chunk, len_bytes)) else { return };
        let asked = self.ask(id, chunk, len_bytes, Some(share));
        if let Asked::Coming(coming) = asked {
            let _ = coming.await;
        }
    }

    /// What is kept, the fetch that is under way, or a new one.
    fn ask(self: &Arc<Self>, id: ChunkId, chunk: &PageRef, len_bytes: u32, share: Option<Share>) -> Asked {
        let mut state = self.lock();
        if let Some(found) = state.find(id) {
            return Asked::Kept(found);
        }
        if let Some(coming) = state.coming.get(&id).and_then(WeakShared::upgrade) {
            return Asked::Coming(coming);
        }
        let (this, chunk) = (Arc::clone(self), chunk.clone());
        let fetch = async move {
            let fetched = this.fetch(&chunk, len_bytes, share).await;
            this.arrived(id, fetched)
        };
        let coming = fetch.boxed().shared();
        state.coming.retain(|_, other| other.upgrade().is_some());
        if let Some(weak) = coming.downgrade() {
            state.coming.insert(id, weak);
        }
        Asked::Coming(coming)
    }

    async fn fetch(&self, chunk: &PageRef, len_bytes: u32, share: Option<Share>) -> Result<Chunk> {
        let mut share = match share {
            Some(share) => share,
            None => self.budget.take(self.cost(chunk, len_bytes)).await?,
        };
        let objects: Vec<ObjectRef> = chunk.objects().copied().collect();
        let bodies = self.neighbours.get_all(&objects).await?;
        let plain = self.project.content().decode_chunk(chunk, bodies, len_bytes, Vec::new).await?;
        // Of what it took to fetch only the plaintext stays.
        let kept =
            share.split(plain.len()).ok_or_else(|| Error::internal("a chunk takes more than its share"))?;
        Ok(Chunk { plain, _share: kept })
    }

    /// Memory that a fetch takes: more than half of all is never asked for, so that it is there one day.
    fn cost(&self, chunk: &PageRef, len_bytes: u32) -> u64 {
        let fetch = Fetch { chunk: chunk.clone(), len_bytes, onto_zeros: false, offsets_bytes: Vec::new() };
        fetch_bytes(&fetch, self.project.chunk_size_bytes()).min(self.fetch_bytes_max)
    }

    fn arrived(&self, id: ChunkId, fetched: Result<Chunk>) -> Fetched {
        let mut state = self.lock();
        state.coming.remove(&id);
        let chunk = Arc::new(fetched.map_err(Arc::new)?);
        state.keep(id, &chunk, self.kept_bytes_max);
        Ok(chunk)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn find(&mut self, id: ChunkId) -> Option<Arc<Chunk>> {
        let kept = self.kept.get_mut(&id)?;
        self.order.remove(&kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.order.insert(kept.used, id);
        Some(Arc::clone(&kept.chunk))
    }

    fn keep(&mut self, id: ChunkId, chunk: &Arc<Chunk>, kept_bytes_max: u64) {
        let len = chunk.plain.len() as u64;
        self.drop_one(id);
        while self.kept_bytes + len > kept_bytes_max {
            let Some((_, oldest)) = self.order.first_key_value() else { return };
            self.drop_one(*oldest);
        }
        self.uses += 1;
        self.kept_bytes += len;
        self.order.insert(self.uses, id);
        self.kept.insert(id, Kept { chunk: Arc::clone(chunk), used: self.uses });
    }

    fn drop_one(&mut self, id: ChunkId) {
        if let Some(gone) = self.kept.remove(&id) {
            self.order.remove(&gone.used);
            self.kept_bytes -= gone.chunk.plain.len() as u64;
        }
    }
}

/// The same error for one more who waited.
fn again(error: &Arc<Error>) -> Error {
    let copy = Error::new(error.kind(), error.message()).caused_by(Arc::clone(error));
    match error.help_text() {
        Some(help) => copy.help(help),
        None => copy,
    }
}
