//! What unit tests of the operations share: repositories in memory, snapshots made by hand, volumes, sinks.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::codec;
use crate::error::{Error, Result};
use crate::format::names::ContentName;
use crate::format::page::{ObjectRef, PageRef};
use crate::format::record::{BackupStats, Snapshot};
use crate::keys::Unlock;
use crate::repo::history::SnapshotEntry;
use crate::repo::manifest::{Manifest, ManifestBuilder};
use crate::repo::session::{Committed, Session};
use crate::repo::{Admin, Environment, InitOptions, Keeper, Repository, default_project};
use crate::sink::{Existing, Order, Sink};
use crate::source::ReadAt;
use crate::store::{Limits, Store};
use crate::units::{ChunkIndex, Generation, Geometry, Sequence};
use crate::volume::{Identity, ImageLayout};

pub(crate) const CHUNK: u32 = 4096;

struct FixedClock;

impl Clock for FixedClock {
    fn now_unix_ms(&self) -> u64 {
        1_700_000_000_000
    }
}

pub(crate) fn environment() -> Environment {
    Environment {
        host: "test".into(),
        machine: String::new(),
        process: 1,
        is_process_alive: |_| true,
        clock: Arc::new(FixedClock),
        cache_dir: None,
        memory_dir: None,
        remembers: true,
        trust_store: false,
    }
}

fn unlock() -> Unlock {
    Unlock::KeyFile(Zeroizing::new(vec![7; 32]))
}

/// A repository in memory and the objects behind it.
#[derive(Clone)]
pub(crate) struct Bench {
    pub(crate) objects: Arc<InMemory>,
    pub(crate) admin: Admin,
    pub(crate) project: Keeper,
}

impl Bench {
    pub(crate) async fn new(encrypted: bool) -> Self {
        let objects = Arc::new(InMemory::new());
        let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
        let unlock = unlock();
        let admin = Repository::init(store(&objects), environment(), &options, encrypted.then_some(&unlock))
            .await
            .expect("init");
        let project = admin.keeper(&default_project()).await.expect("project");
        Self { objects, admin, project }
    }

    /// Opens the repository anew, as the next command would.
    pub(crate) async fn reopened(&self) -> Result<Keeper> {
        self.opened().await?.keeper(&default_project()).await
    }

    pub(crate) async fn opened(&self) -> Result<Admin> {
        Repository::open(store(&self.objects), environment(), &mut || Ok(unlock())).await
    }

    /// Opens it anew with a cache.
    pub(crate) async fn cached(self, dir: &std::path::Path) -> Self {
        let environment = Environment { cache_dir: Some(dir.to_owned()), ..environment() };
        let mut ask = || Ok(unlock());
        let admin = Repository::open(store(&self.objects), environment, &mut ask).await.expect("open");
        let project = admin.keeper(&default_project()).await.expect("project");
        Self { admin, project, ..self }
    }

    pub(crate) fn store(&self) -> Store {
        store(&self.objects)
    }

    /// Names of all objects that begin so, sorted.
    pub(crate) async fn names(&self, prefix: &str) -> Vec<String> {
        let all = self.store().list("", None).await.expect("list");
        all.into_iter().map(|info| info.key).filter(|key| key.starts_with(prefix)).collect()
    }

    pub(crate) async fn get(&self, name: &str) -> Vec<u8> {
        let result = self.objects.get(&Path::from(name)).await.expect("there");
        result.bytes().await.expect("bytes").to_vec()
    }

    pub(crate) async fn put(&self, name: &str, bytes: Vec<u8>) {
        self.objects.put(&Path::from(name), Bytes::from(bytes).into()).await.expect("put");
    }

    pub(crate) async fn delete(&self, name: &str) {
        ObjectStoreExt::delete(&*self.objects, &Path::from(name)).await.expect("deleted");
    }

    /// Uploads a chunk and returns its ref.
    pub(crate) async fn chunk(&self, plain: &[u8]) -> PageRef {
        let id = self.project.identify(plain);
        let name =
            self.project.content().chunk_name(ContentName { generation: Generation(0), id, variant: 0 });
        let sealed = codec::seal(self.project.place(&name), plain, codec::LEVEL_DEFAULT).expect("sealed");
        PageRef::full(self.project.content().put(sealed, false).await.expect("uploaded").object)
    }

    /// Uploads a chunk as a delta against another and returns its ref.
    pub(crate) async fn delta(
        &self,
        plain: &[u8],
        base: &PageRef,
        base_plain: &[u8],
        variant: u32,
    ) -> PageRef {
        let id = self.project.identify(plain);
        let content = ContentName { generation: Generation(0), id, variant };
        let name = self.project.content().chunk_name(content);
        let closure: Vec<ObjectRef> = base.objects().copied().collect();
        let below = codec::Base { name: closure[0].name, depth: closure.len() as u8, plain: base_plain };
        let sealed = codec::seal_delta(self.project.place(&name), plain, below, &codec::Joined::default(), 1)
            .expect("sealed");
        let object = ObjectRef { name: content, sealed_len_bytes: sealed.len_bytes() };
        self.store().create(&sealed.name().to_string(), sealed.bytes().clone()).await.expect("uploaded");
        PageRef::Stored { object, closure }
    }

    /// Backs a volume up: whole, with the library's own chunks, pages and log.
    pub(crate) async fn backup(&self, volume: &str, data: &[u8]) -> SnapshotEntry {
        let mut refs = Vec::new();
        for chunk in data.chunks(CHUNK as usize) {
            refs.push(if codec::is_zero(chunk) { PageRef::Zero } else { self.chunk(chunk).await });
        }
        self.commit(volume, data.len() as u64, refs).await
    }

    /// Commits a snapshot that holds these refs, whatever they say.
    pub(crate) async fn commit(&self, volume: &str, size_bytes: u64, refs: Vec<PageRef>) -> SnapshotEntry {
        self.commit_at(volume, size_bytes, (0..).zip(refs).collect()).await
    }

    /// As [`commit`](Self::commit), each ref at an index of its own.
    pub(crate) async fn commit_at(
        &self,
        volume: &str,
        size_bytes: u64,
        refs: Vec<(u64, PageRef)>,
    ) -> SnapshotEntry {
        let geometry = Geometry::new(size_bytes, CHUNK).expect("valid");
        let volume = volume.parse().expect("valid");
        let record = self.project.volumes().ensure(&volume, &Identity::Stream).await.expect("catalog");
        let session = Session::register(&self.project, &record).await.expect("registered");
        let base = Manifest::zero(&self.project, geometry);
        let mut builder = ManifestBuilder::new(
            session.project.clone(),
            base.into(),
            geometry,
            session.generation,
            Arc::default(),
        );
        for (index, chunk) in refs {
            builder.set(ChunkIndex(index), chunk).await.expect("set");
        }
        let root = builder.finish().await.expect("pages").encode();
        let snapshot = snapshot(&session, geometry, root);
        assert_eq!(session.commit(snapshot).await.expect("committed"), Committed::Done);
        let sequence = session.sequence;
        self.find(&format!("{volume}@{sequence}")).await
    }

    pub(crate) async fn find(&self, spec: &str) -> SnapshotEntry {
        self.project.volumes().snapshot(spec).await.expect("found")
    }
}

fn store(objects: &Arc<InMemory>) -> Store {
    let objects: Arc<dyn ObjectStore> = Arc::clone(objects) as _;
    Store::with_object_store(objects, Limits::default())
}

fn snapshot(session: &Session, geometry: Geometry, root: Vec<u8>) -> Snapshot {
    Snapshot {
        volume: session.volume.number,
        sequence: session.sequence,
        generation: session.generation,
        size_bytes: geometry.size_bytes,
        chunk_size_bytes: geometry.chunk_size_bytes,
        identity: Identity::Stream,
        point: None,
        layout: ImageLayout::default(),
        host: "test".into(),
        program: "test".into(),
        started_unix_ms: 0,
        tags: Vec::new(),
        parent: None::<Sequence>,
        full_read: true,
        nights_since_full: 0,
        sample_cursor: 0,
        stats: BackupStats::default(),
        root,
    }
}

/// A small generator with a seed: tests repeat exactly.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Bytes that compress a little.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 32) as u8 & 0x3f).collect()
    }

    /// A volume of fresh, repeated and zero chunks.
    pub(crate) fn volume(&mut self, len: usize) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::with_capacity(len);
        while out.len() < len {
            let chunk = (CHUNK as usize).min(len - out.len());
            match self.below(4) {
                0 => out.resize(out.len() + chunk, 0),
                1 if out.len() >= chunk => {
                    let from = self.below(out.len() / CHUNK as usize) * CHUNK as usize;
                    out.extend_from_within(from..from + chunk);
                }
                _ => out.extend(self.bytes(chunk)),
            }
        }
        out
    }
}

/// What was done to a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) writes: usize,
    pub(crate) zeroed_bytes: u64,
    pub(crate) finished: usize,
}

/// A target in memory.
pub(crate) struct MemorySink {
    pub(crate) data: Arc<Mutex<Vec<u8>>>,
    pub(crate) calls: Mutex<Calls>,
    order: Order,
    existing: Existing,
    /// Called before each write with the number of writes so far.
    pub(crate) on_write: Box<dyn Fn(usize) -> Result<()> + Send + Sync>,
}

impl MemorySink {
    pub(crate) fn blank(size: usize) -> Self {
        Self::new(vec![0; size], Order::Any, Existing::Blank)
    }

    /// Ascending and of unknown content, as a pipe is.
    pub(crate) fn pipe(size: usize) -> Self {
        Self::new(vec![0xaa; size], Order::Ascending, Existing::Nothing)
    }

    pub(crate) fn holding(data: Vec<u8>) -> Self {
        let mut sink = Self::new(data, Order::Any, Existing::Blank);
        sink.existing = Existing::Content(Arc::new(MemoryReader(Arc::clone(&sink.data))));
        sink
    }

    pub(crate) fn new(data: Vec<u8>, order: Order, existing: Existing) -> Self {
        let data = Arc::new(Mutex::new(data));
        let (calls, on_write) = (Mutex::default(), Box::new(|_| Ok(())));
        Self { data, calls, order, existing, on_write }
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        self.data.lock().expect("not poisoned").clone()
    }

    pub(crate) fn calls(&self) -> Calls {
        *self.calls.lock().expect("not poisoned")
    }
}

impl Sink for MemorySink {
    fn order(&self) -> Order {
        self.order
    }

    fn existing(&self) -> Existing {
        self.existing.clone()
    }

    fn write_at(&self, offset_bytes: u64, data: &[u8]) -> Result<()> {
        let writes = self.calls().writes;
        (self.on_write)(writes)?;
        self.calls.lock().expect("not poisoned").writes += 1;
        let at = offset_bytes as usize;
        self.data.lock().expect("not poisoned")[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn zero_at(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        self.calls.lock().expect("not poisoned").zeroed_bytes += length_bytes;
        let at = offset_bytes as usize;
        self.data.lock().expect("not poisoned")[at..at + length_bytes as usize].fill(0);
        Ok(())
    }

    fn read_back(&self) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(MemoryReader(Arc::clone(&self.data))))
    }

    fn finish(&self) -> Result<()> {
        self.calls.lock().expect("not poisoned").finished += 1;
        Ok(())
    }
}

/// Reads what a [`MemorySink`] holds.
pub(crate) struct MemoryReader(pub(crate) Arc<Mutex<Vec<u8>>>);

impl MemoryReader {
    pub(crate) fn of(data: Vec<u8>) -> Arc<dyn ReadAt> {
        Arc::new(Self(Arc::new(Mutex::new(data))))
    }
}

impl ReadAt for MemoryReader {
    fn size_bytes(&self) -> u64 {
        self.0.lock().expect("not poisoned").len() as u64
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let data = self.0.lock().expect("not poisoned");
        let at = offset_bytes as usize;
        let found = data.get(at..at + buf.len()).ok_or_else(|| Error::invalid("beyond the end"))?;
        buf.copy_from_slice(found);
        Ok(())
    }
}
