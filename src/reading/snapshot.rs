//! A snapshot as a volume that can be read at any offset: for servers, mounts and exports.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::Semaphore;

use crate::error::{Error, Result};
use crate::format::REFS_PER_PAGE;
use crate::plan::ahead::Ahead;
use crate::reading::explained;
use crate::reading::kept::KeptChunks;
use crate::repo::Project;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::Manifest;
use crate::units::{ChunkId, ChunkIndex, Content, Extent, Geometry, SnapshotId};

/// Memory for chunks unless asked otherwise, of all snapshots together.
pub const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
/// Most bytes of one read.
pub const READ_LEN_BYTES_MAX: usize = 32 << 20;
/// Snapshots kept open while nobody reads them.
const OPEN_MAX: usize = 32;
/// Manifest pages kept in memory for each open snapshot (about 80 KiB each): 64 GiB of a volume at 4 MiB a chunk.
const PAGES_KEPT_MAX: usize = 16;
/// Chunks that one read waits for at once.
const CHUNKS_INFLIGHT_MAX: usize = 8;
/// Chunks read ahead at once, of all readers together.
const AHEAD_INFLIGHT_MAX: usize = 16;

/// Snapshots of one project, read at random within one bound of memory.
pub struct Snapshots {
    project: Project,
    chunks: Arc<KeptChunks>,
    ahead: Arc<Semaphore>,
    /// The one that was opened last is the last.
    open: Mutex<VecDeque<(SnapshotId, Arc<SnapshotReader>)>>,
}

impl Snapshots {
    /// `memory_bytes` bounds the chunks in memory, those that are fetched and those that are kept; what is read is copied, and
    /// is the caller's to bound.
    pub fn new(project: &Project, memory_bytes: u64) -> Self {
        Self {
            project: project.clone(),
            chunks: KeptChunks::new(project, memory_bytes),
            ahead: Arc::new(Semaphore::new(AHEAD_INFLIGHT_MAX)),
            open: Mutex::default(),
        }
    }

    /// Whose snapshots they are.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// A reader of this snapshot: the one that there is, or a new one. Costs no request.
    pub fn open(&self, snapshot: &SnapshotEntry) -> Result<Arc<SnapshotReader>> {
        let id = snapshot.snapshot_id;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = open.iter().position(|(o, _)| *o == id).and_then(|at| open.remove(at)) {
            let reader = Arc::clone(&found.1);
            open.push_back(found);
            return Ok(reader);
        }
        let manifest = Manifest::of(&self.project, &snapshot.snapshot)?.keeping(PAGES_KEPT_MAX);
        let (found, expected) = (manifest.geometry().chunk_size_bytes, self.project.chunk_size_bytes());
        if found != expected {
            return Err(Error::corrupt(format!(
                "snapshot {id} has chunks of {found} bytes, its repository of {expected}"
            )));
        }
        let reader = Arc::new(SnapshotReader {
            snapshot: snapshot.clone(),
            manifest: Arc::new(manifest),
            chunks: Arc::clone(&self.chunks),
            trails: Mutex::default(),
            ahead: Arc::clone(&self.ahead),
        });
        if open.len() >= OPEN_MAX {
            open.pop_front();
        }
        open.push_back((id, Arc::clone(&reader)));
        Ok(reader)
    }
}

/// What a chunk that is not zero holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    id: ChunkId,
    len_bytes: u32,
}

/// One snapshot, for any number of readers at once.
pub struct SnapshotReader {
    snapshot: SnapshotEntry,
    manifest: Arc<Manifest>,
    chunks: Arc<KeptChunks>,
    trails: Mutex<Ahead>,
    ahead: Arc<Semaphore>,
}

impl SnapshotReader {
    /// What is read.
    pub fn snapshot(&self) -> &SnapshotEntry {
        &self.snapshot
    }

    /// Size of the volume at that moment.
    pub fn size_bytes(&self) -> u64 {
        self.geometry().size_bytes
    }

    fn geometry(&self) -> Geometry {
        self.manifest.geometry()
    }

    /// The bytes of a range, exactly as many as asked for. Reads ahead where a reader goes straight on.
    ///
    /// # Errors
    /// `Invalid` beyond the end or above [`READ_LEN_BYTES_MAX`]. A store that does not answer is `Unavailable` after all
    /// retries, damage is `Corrupt`; neither is ever zeros, and the next read tries again.
    pub async fn read(&self, offset_bytes: u64, len_bytes: usize) -> Result<Bytes> {
        let range = self.checked(offset_bytes, len_bytes as u64)?;
        if len_bytes > READ_LEN_BYTES_MAX {
            return Err(Error::invalid(format!("a read of {len_bytes} bytes: at most {READ_LEN_BYTES_MAX}")));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let chunks = self.chunks_of(&range);
        self.read_ahead(chunks.clone());
        match self.filled(&range, chunks).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(explained(self.manifest.project(), &self.snapshot, error).await),
        }
    }

    /// What lies in a range, from its beginning, in at most `extents_max` parts: what is left out is asked for again.
    /// Neighbours are of different kinds. Manifest pages tell; no chunk is fetched, and zeros of any length are cheap.
    pub async fn extents(
        &self,
        offset_bytes: u64,
        len_bytes: u64,
        extents_max: usize,
    ) -> Result<Vec<Extent>> {
        let range = self.checked(offset_bytes, len_bytes)?;
        let (geometry, mut found) = (self.geometry(), Extents::new(range.start, extents_max));
        while found.end_bytes < range.end && !found.full {
            let chunk = geometry.index_of(found.end_bytes);
            let leaf = chunk.0 / REFS_PER_PAGE as u64;
            let zeros = self.manifest.zero_leaves_at(leaf).await?;
            if zeros > 0 {
                let end = (leaf + zeros).saturating_mul(REFS_PER_PAGE as u64);
                let end_bytes = end.saturating_mul(u64::from(geometry.chunk_size_bytes)).min(range.end);
                found.add(end_bytes, Content::Zero);
                continue;
            }
            let page = self.manifest.leaf(leaf).await?;
            let first = (chunk.0 % REFS_PER_PAGE as u64) as usize;
            for (index, chunk_ref) in (chunk.0..).zip(page.refs.iter().skip(first)) {
                let end_bytes = geometry.range_bytes(ChunkIndex(index)).end.min(range.end);
                let content = if chunk_ref.is_zero() { Content::Zero } else { Content::Data };
                if found.end_bytes >= range.end || !found.add(end_bytes, content) {
                    break;
                }
            }
        }
        Ok(found.all)
    }

    /// What each chunk of a range holds, which begins with one: `None` for zeros, and beyond the end. Equal ones hold the same bytes.
    pub(crate) async fn held(&self, range: Range<u64>) -> Result<Vec<Option<Held>>> {
        let geometry = self.geometry();
        let chunks = geometry.index_of(range.start).0..range.end.div_ceil(geometry.chunk_size_bytes.into());
        let mut out = Vec::new();
        for index in chunks.map(ChunkIndex) {
            let id = self.manifest.chunk(index).await?.id();
            out.push(id.map(|id| Held { id, len_bytes: geometry.chunk_len_bytes(index) }));
        }
        Ok(out)
    }

    fn checked(&self, offset_bytes: u64, len_bytes: u64) -> Result<Range<u64>> {
        let size_bytes = self.size_bytes();
        match offset_bytes.checked_add(len_bytes) {
            Some(end) if end <= size_bytes => Ok(offset_bytes..end),
            _ => Err(Error::invalid(format!(
                "a read of {len_bytes} bytes at offset {offset_bytes} of a volume of {size_bytes}"
            ))),
        }
    }

    fn chunks_of(&self, range: &Range<u64>) -> Range<u64> {
        let geometry = self.geometry();
        geometry.index_of(range.start).0..geometry.index_of(range.end - 1).0 + 1
    }

    async fn filled(&self, range: &Range<u64>, chunks: Range<u64>) -> Result<Bytes> {
        let mut out = vec![0; (range.end - range.start) as usize];
        self.announce(chunks.clone()).await?;
        // Copied as they come: a chunk that waited for another would hold memory that the other may wait for.
        let mut coming = stream::iter(chunks)
            .map(|index| async move { (ChunkIndex(index), self.chunk(ChunkIndex(index)).await) })
            .buffer_unordered(CHUNKS_INFLIGHT_MAX);
        while let Some((index, chunk)) = coming.next().await {
            let Some(chunk) = chunk? else { continue };
            let place = self.geometry().range_bytes(index);
            let (start, end) = (place.start.max(range.start), place.end.min(range.end));
            let from = (start - place.start) as usize..(end - place.start) as usize;
            let to = (start - range.start) as usize..(end - range.start) as usize;
            match (out.get_mut(to), chunk.bytes().get(from)) {
                (Some(to), Some(from)) => to.copy_from_slice(from),
                _ => return Err(Error::internal(format!("chunk {index} does not fit its place"))),
            }
        }
        Ok(Bytes::from(out))
    }

    /// Says that these chunks are about to be read, where they are more than one.
    async fn announce(&self, chunks: Range<u64>) -> Result<()> {
        if chunks.end - chunks.start > 1 {
            let mut refs = Vec::new();
            for index in chunks {
                refs.push(self.manifest.chunk(ChunkIndex(index)).await?);
            }
            self.chunks.announce(&refs);
        }
        Ok(())
    }

    /// A chunk's content; `None` for zeros.
    async fn chunk(&self, index: ChunkIndex) -> Result<Option<Arc<super::kept::Chunk>>> {
        let chunk = self.manifest.chunk(index).await?;
        if chunk.is_zero() {
            return Ok(None);
        }
        let offset_bytes = self.geometry().offset_bytes(index);
        let found = self.chunks.get(&chunk, self.geometry().chunk_len_bytes(index)).await;
        found.map(Some).map_err(|e| e.context(format!("read at offset {offset_bytes}")))
    }

    fn read_ahead(&self, chunks: Range<u64>) {
        let wanted = self.trails.lock().unwrap_or_else(PoisonError::into_inner).saw(chunks);
        for index in wanted.start..wanted.end.min(self.geometry().chunk_count()) {
            // Where enough is under way already, nothing waits in line.
            let Ok(permit) = Arc::clone(&self.ahead).try_acquire_owned() else { return };
            let (manifest, kept) = (Arc::clone(&self.manifest), Arc::clone(&self.chunks));
            let len_bytes = self.geometry().chunk_len_bytes(ChunkIndex(index));
            tokio::spawn(async move {
                if let Ok(chunk) = manifest.chunk(ChunkIndex(index)).await {
                    kept.fetch_ahead(&chunk, len_bytes).await;
                }
                drop(permit);
            });
        }
    }
}

/// Extents found so far; neighbours that hold the same are one.
struct Extents {
    all: Vec<Extent>,
    end_bytes: u64,
    extents_max: usize,
    full: bool,
}

impl Extents {
    fn new(offset_bytes: u64, extents_max: usize) -> Self {
        Self { all: Vec::new(), end_bytes: offset_bytes, extents_max: extents_max.max(1), full: false }
    }

    /// Goes on up to `end_bytes`; false where that would be one too many.
    fn add(&mut self, end_bytes: u64, content: Content) -> bool {
        let length_bytes = end_bytes - self.end_bytes;
        let count = self.all.len();
        match self.all.last_mut() {
            Some(last) if last.content == content => last.length_bytes += length_bytes,
            _ if count >= self.extents_max => {
                self.full = true;
                return false;
            }
            _ => self.all.push(Extent { offset_bytes: self.end_bytes, length_bytes, content }),
        }
        self.end_bytes = end_bytes;
        true
    }
}
