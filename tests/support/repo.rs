//! A repository on a store of the test's choice, and volumes in memory whose every change is known.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cuttle::backup::{self, BackupOptions, BackupReport, Input};
use cuttle::cancel::Cancel;
use cuttle::clock::SystemClock;
use cuttle::diff::Limits as StreamLimits;
use cuttle::format::PageRef;
use cuttle::format::record::{Snapshot, VolumeRecord};
use cuttle::keys::Unlock;
use cuttle::progress::Silent;
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::manifest::{Manifest, ManifestBuilder};
use cuttle::repo::session::{Committed, Session};
use cuttle::repo::{Admin, Environment, InitOptions, Keeper, Repository, default_project};
use cuttle::source::diff_stream;
use cuttle::source::{
    Changes, ClonedFrom, Content, Descent, Extent, FreezeRequest, Frozen, Head, Present, ReadAt, Since,
    Volume,
};
use cuttle::store::{Limits, Store};
use cuttle::units::{ChunkIndex, Geometry, Sequence};
use cuttle::verify::{self, VerifyOptions, VerifyReport};
use cuttle::volume::{Identity, ImageLayout, Made, SnapshotPoint};
use cuttle::{Error, Result};
use object_store::ObjectStore;
use zeroize::Zeroizing;

use super::by_hand;

/// Small chunks make small volumes interesting.
pub const CHUNK: u32 = 4096;

pub fn environment() -> Environment {
    Environment {
        host: "test".into(),
        machine: "test-machine".into(),
        process: std::process::id(),
        is_process_alive: |_| true,
        clock: Arc::new(SystemClock),
        cache_dir: None,
        memory_dir: None,
        remembers: true,
        trust_store: false,
    }
}

pub fn store(inner: Arc<dyn ObjectStore>) -> Store {
    Store::with_object_store(inner, Limits::default())
}

/// Tries again without waiting.
pub fn hasty() -> Limits {
    let backoff = Duration::ZERO;
    Limits { backoff_first: backoff, backoff_max: backoff, jitter_seed: Some(7), ..Limits::default() }
}

/// A key file's content: fast to stretch.
pub fn secret() -> Unlock {
    Unlock::KeyFile(Zeroizing::new(vec![7; 32]))
}

/// A repository without deltas: each chunk is one object.
pub async fn init_on(store: Store, chunk_size_bytes: u32, encrypted: bool) -> Admin {
    init_with(store, InitOptions { chunk_size_bytes, delta_depth_max: 0 }, encrypted).await
}

pub async fn init_with(store: Store, options: InitOptions, encrypted: bool) -> Admin {
    let secret = secret();
    let unlock = encrypted.then_some(&secret);
    Repository::init(store, environment(), &options, unlock).await.expect("a new repository")
}

pub async fn in_memory() -> (Arc<object_store::memory::InMemory>, Keeper) {
    let inner = Arc::new(object_store::memory::InMemory::new());
    let repository = init_on(store(inner.clone()), CHUNK, true).await;
    (inner, default(&repository).await)
}

/// Opens the default project, as the next command would.
pub async fn connect(store: Store, environment: Environment) -> Result<Keeper> {
    let repository = Repository::open(store, environment, &mut || Ok(secret())).await?;
    repository.keeper(&default_project()).await
}

pub async fn reopen(inner: Arc<dyn ObjectStore>) -> Result<Keeper> {
    connect(store(inner), environment()).await
}

pub async fn default(repository: &Admin) -> Keeper {
    repository.keeper(&default_project()).await.expect("the default project")
}

/// Reads a whole snapshot, chunk by chunk.
pub async fn read_back(project: &Keeper, snapshot: &SnapshotEntry) -> Result<Vec<u8>> {
    let manifest = Manifest::of(project, &snapshot.snapshot)?;
    let geometry = manifest.geometry();
    let mut out = vec![0; geometry.size_bytes as usize];
    for number in 0..manifest.leaf_count() {
        for (at, chunk) in manifest.leaf(number).await?.refs.iter().enumerate() {
            let index = ChunkIndex(number * 1024 + at as u64);
            if !chunk.is_zero() {
                let range = geometry.range_bytes(index);
                let plain = project.content().fetch_chunk(chunk, geometry.chunk_len_bytes(index)).await?;
                out[range.start as usize..range.end as usize].copy_from_slice(&plain);
            }
        }
    }
    Ok(out)
}

pub async fn latest(project: &Keeper, volume: &str) -> SnapshotEntry {
    project.volumes().snapshot(volume).await.expect("a snapshot")
}

/// What verify makes of it, every byte or all but the chunks'.
pub async fn verify(project: &Keeper, read_data: bool) -> Result<VerifyReport> {
    let options = VerifyOptions { read_data, ..VerifyOptions::default() };
    verify::run(project, options, Arc::new(Silent), Cancel::never()).await
}

/// It does not step back for another backup of the same volume: many tests are about two at once, and about what a killed one leaves.
pub fn options(volume: &str) -> BackupOptions {
    BackupOptions { yields: false, ..BackupOptions::new(volume.parse().expect("a volume name")) }
}

pub async fn back_up(
    project: &Keeper,
    volume: &Arc<MemoryVolume>,
    options: &BackupOptions,
) -> Result<BackupReport> {
    let input = Input::Volume(volume.clone());
    backup::run(project, input, options, Arc::new(Silent), Cancel::never()).await
}

pub async fn back_up_stream(
    project: &Keeper,
    bytes: Vec<u8>,
    options: &BackupOptions,
) -> Result<BackupReport> {
    let source = diff_stream::open(std::io::Cursor::new(bytes), StreamLimits::default())?;
    backup::run(project, Input::Stream(source), options, Arc::new(Silent), Cancel::never()).await
}

/// An `rbd diff v1` stream, written by hand.
pub fn diff_v1(from: Option<&str>, to: &str, size: u64, extents: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let name = |tag: u8, s: &str| [&[tag][..], &(s.len() as u32).to_le_bytes(), s.as_bytes()].concat();
    let mut out = b"rbd diff v1\n".to_vec();
    out.extend(from.map(|f| name(b'f', f)).unwrap_or_default());
    out.extend(name(b't', to));
    out.push(b's');
    out.extend(size.to_le_bytes());
    for (offset, data) in extents {
        let zero = data.iter().all(|b| *b == 0);
        out.push(if zero { b'z' } else { b'w' });
        out.extend(offset.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        if !zero {
            out.extend(data);
        }
    }
    out.push(b'e');
    out
}

/// Commits refs of chunks as they are, whatever a writer would have made of them.
pub async fn commit_by_hand(
    project: &Keeper,
    volume: &str,
    size_bytes: u64,
    refs: impl IntoIterator<Item = (u64, PageRef)>,
) -> Sequence {
    let first = diff_v1(None, "nothing yet", 0, &[]);
    back_up_stream(project, first, &options(volume)).await.expect("a volume");
    let catalog = project.volumes().confirmed().await.expect("a catalog");
    let volume = catalog.by_name(&volume.parse().expect("valid")).expect("the volume");
    commit_refs(project, volume, size_bytes, refs).await
}

/// The same of a volume that is in the catalog.
pub async fn commit_refs(
    project: &Keeper,
    volume: &VolumeRecord,
    size_bytes: u64,
    refs: impl IntoIterator<Item = (u64, PageRef)>,
) -> Sequence {
    let geometry = Geometry::new(size_bytes, project.chunk_size_bytes()).expect("valid");
    let session = Session::register(project, volume).await.expect("registered");
    let base = Arc::new(Manifest::zero(project, geometry));
    let mut builder =
        ManifestBuilder::new(session.project.clone(), base, geometry, session.generation, Arc::default());
    for (index, chunk) in refs {
        builder.set(ChunkIndex(index), chunk).await.expect("set");
    }
    let root = builder.finish().await.expect("pages").encode();
    let record = by_hand::snapshot(session.volume.number, session.sequence, geometry, root);
    let point = SnapshotPoint {
        name: "by hand".into(),
        rbd_snap_id: 0,
        own: false,
        made: None,
        objects: Default::default(),
    };
    let snapshot = Snapshot { generation: session.generation, point: Some(point), ..record };
    assert_eq!(session.commit(snapshot).await.expect("committed"), Committed::Done);
    session.sequence
}

/// A volume in memory that keeps its snapshots and reports changes by comparing them.
pub struct MemoryVolume {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default, Clone)]
struct Inner {
    identity: String,
    content: Vec<u8>,
    snapshots: Vec<(SnapshotPoint, Vec<u8>)>,
    next_id: u64,
    /// Offsets that the diff does not report, however they changed.
    lies: BTreeSet<u64>,
    /// Reads that touch this offset fail.
    hurt: Option<u64>,
    hurt_base: Option<u64>,
    reads: u64,
    base_reads: u64,
    /// Its snapshots count as made by others.
    is_others: bool,
    /// A snapshot of another volume, and what it holds.
    cloned_from: Option<(ClonedFrom, Vec<u8>)>,
}

impl MemoryVolume {
    pub fn new(content: Vec<u8>) -> Arc<Self> {
        let inner = Inner { identity: "image-1".into(), content, next_id: 1, ..Inner::default() };
        Arc::new(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    /// A clone of a snapshot of this volume, that with this id.
    pub fn clone_of(&self, rbd_snap_id: u64) -> Arc<Self> {
        let image = self.identity().expect("it has one");
        let found = self.inner().snapshots.iter().find(|(p, _)| p.rbd_snap_id == rbd_snap_id).cloned();
        let content = found.expect("the volume has the snapshot").1;
        let cloned_from = Some((ClonedFrom { image, rbd_snap_id }, content.clone()));
        let inner =
            Inner { identity: "image-clone".into(), content, next_id: 1000, cloned_from, ..Inner::default() };
        Arc::new(Self { inner: Arc::new(Mutex::new(inner)) })
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("not poisoned")
    }

    /// Another one with the same content and snapshots.
    pub fn fork(&self) -> Arc<Self> {
        Arc::new(Self { inner: Arc::new(Mutex::new(self.inner().clone())) })
    }

    pub fn edit(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.inner().content);
    }

    pub fn content(&self) -> Vec<u8> {
        self.inner().content.clone()
    }

    pub fn snapshot_names(&self) -> Vec<String> {
        self.inner().snapshots.iter().map(|(p, _)| p.name.clone()).collect()
    }

    /// From now on changes in the block at this offset are not reported.
    pub fn lie_about(&self, offset_bytes: u64) {
        self.inner().lies.insert(offset_bytes / 512 * 512);
    }

    /// From now on reads that touch this offset fail, or none.
    pub fn hurt_at(&self, offset_bytes: Option<u64>) {
        self.inner().hurt = offset_bytes;
    }

    /// The same of reads of bases.
    pub fn hurt_base_at(&self, offset_bytes: Option<u64>) {
        self.inner().hurt_base = offset_bytes;
    }

    /// From now on its snapshots count as made by others.
    pub fn snapshots_are_others(&self) {
        self.inner().is_others = true;
    }

    pub fn become_another(&self) {
        self.inner().identity = "image-2".into();
    }

    /// Bytes read since the last call.
    pub fn take_read_bytes(&self) -> u64 {
        std::mem::take(&mut self.inner().reads)
    }

    /// Bytes read of bases since the last call.
    pub fn take_base_read_bytes(&self) -> u64 {
        std::mem::take(&mut self.inner().base_reads)
    }

    /// Changes what the clone was made from, as nobody should.
    pub fn tamper_parent(&self, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.inner().cloned_from.as_mut().expect("a clone").1);
    }

    /// Changes what the volume's snapshots hold, as nobody should.
    pub fn tamper(&self, change: impl Fn(&mut Vec<u8>)) {
        self.inner().snapshots.iter_mut().for_each(|(_, content)| change(content));
    }
}

impl Volume for MemoryVolume {
    fn identity(&self) -> Result<Identity> {
        Ok(Identity::Rbd {
            cluster_fsid: "fsid".into(),
            pool: "pool".into(),
            namespace: String::new(),
            image: "image".into(),
            image_id: self.inner().identity.clone(),
        })
    }

    fn descent(&self) -> Result<Descent> {
        let cloned_from = self.inner().cloned_from.as_ref().map(|(from, _)| from.clone());
        Ok(Descent { cloned_from, ..Descent::default() })
    }

    fn present(&self) -> Result<Option<Present>> {
        let (content, inner) = (self.content(), Arc::clone(&self.inner));
        Ok(Some(Present {
            head: Box::new(MemoryNow(Arc::clone(&self.inner))),
            layout: ImageLayout { order: 12, ..ImageLayout::default() },
            reader: Arc::new(Counted { content, inner, is_base: false }),
        }))
    }

    fn freeze(&self, request: &FreezeRequest) -> Result<Box<dyn Frozen>> {
        let mut inner = self.inner();
        let point = SnapshotPoint {
            name: request.own_name.clone(),
            rbd_snap_id: inner.next_id,
            own: !inner.is_others,
            made: Some(Made {
                others: inner.snapshots.iter().map(|(p, _)| p.rbd_snap_id).collect(),
                replaces: inner.snapshots.last().map(|(p, _)| p.rbd_snap_id),
                replaced_has_clean: inner.snapshots.last().map(|_| false),
            }),
            objects: cuttle::volume::ObjectsBy::Map { digest: [7; 32] },
        };
        inner.next_id += 1;
        let content = inner.content.clone();
        inner.snapshots.push((point.clone(), content.clone()));
        let base = request.parent.as_ref().and_then(|p| {
            inner.snapshots.iter().find(|(q, _)| q.rbd_snap_id == p.rbd_snap_id).map(|(_, c)| c.clone())
        });
        let origin = inner.cloned_from.as_ref().filter(|_| request.origin.is_some()).map(|(_, c)| c.clone());
        let base = base.or(origin);
        let lies = inner.lies.clone();
        let prefix = request.own_prefix.clone();
        Ok(Box::new(FrozenMemory { inner: Arc::clone(&self.inner), point, content, base, lies, prefix }))
    }
}

/// The volume as it is when it is asked.
struct MemoryNow(Arc<Mutex<Inner>>);

impl Head for MemoryNow {
    fn identity(&self) -> Result<Identity> {
        Err(Error::internal("nobody asks"))
    }

    fn has(&self, point: &SnapshotPoint) -> bool {
        let inner = self.0.lock().expect("not poisoned");
        inner.snapshots.iter().any(|(p, _)| p.rbd_snap_id == point.rbd_snap_id)
    }

    fn changed_since(&self, point: &SnapshotPoint) -> Result<Since> {
        let inner = self.0.lock().expect("not poisoned").clone();
        let base = inner.snapshots.iter().find(|(p, _)| p.rbd_snap_id == point.rbd_snap_id);
        let frozen = FrozenMemory {
            inner: Arc::clone(&self.0),
            point: point.clone(),
            content: inner.content.clone(),
            base: base.map(|(_, content)| content.clone()),
            lies: inner.lies,
            prefix: String::new(),
        };
        let (Changes::All(changes) | Changes::Since(changes)) = frozen.changes()?;
        Ok(Since { size_bytes: inner.content.len() as u64, changes, remark: None, check_command: None })
    }
}

struct FrozenMemory {
    inner: Arc<Mutex<Inner>>,
    point: SnapshotPoint,
    content: Vec<u8>,
    base: Option<Vec<u8>>,
    lies: BTreeSet<u64>,
    prefix: String,
}

impl FrozenMemory {
    fn snapshots(&self, keep: impl Fn(&SnapshotPoint) -> bool) {
        self.inner.lock().expect("not poisoned").snapshots.retain(|(p, _)| keep(p));
    }
}

impl Frozen for FrozenMemory {
    fn layout(&self) -> ImageLayout {
        ImageLayout { order: 12, ..ImageLayout::default() }
    }

    fn point(&self) -> Option<SnapshotPoint> {
        Some(self.point.clone())
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        let (content, inner) = (self.content.clone(), Arc::clone(&self.inner));
        Arc::new(Counted { content, inner, is_base: false })
    }

    fn changes(&self) -> Result<Changes> {
        fn block(content: &[u8], at: usize) -> &[u8] {
            content.get(at..content.len().min(at + 512)).unwrap_or_default()
        }
        let zero = |b: &[u8]| *b == [0; 512][..b.len()];
        let mut extents = Vec::new();
        for at in (0..self.content.len()).step_by(512) {
            let now = block(&self.content, at);
            let listed = match &self.base {
                None => !zero(now),
                Some(base) => block(base, at) != now && !self.lies.contains(&(at as u64)),
            };
            if listed {
                extents.push(Extent {
                    offset_bytes: at as u64,
                    length_bytes: now.len() as u64,
                    content: if zero(now) { Content::Zero } else { Content::Data },
                });
            }
        }
        Ok(if self.base.is_some() { Changes::Since(extents) } else { Changes::All(extents) })
    }

    fn base_reader(&self) -> Option<Arc<dyn ReadAt>> {
        let (content, inner) = (self.base.clone()?, Arc::clone(&self.inner));
        Some(Arc::new(Counted { content, inner, is_base: true }))
    }

    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        self.snapshots(|p| !p.name.starts_with(&self.prefix) || p.rbd_snap_id >= self.point.rbd_snap_id);
        Ok(())
    }

    fn discard(&self) -> Result<()> {
        self.snapshots(|p| p.rbd_snap_id != self.point.rbd_snap_id);
        Ok(())
    }
}

struct Counted {
    content: Vec<u8>,
    inner: Arc<Mutex<Inner>>,
    is_base: bool,
}

impl ReadAt for Counted {
    fn size_bytes(&self) -> u64 {
        self.content.len() as u64
    }

    fn read_at(&self, offset_bytes: u64, buf: &mut [u8]) -> Result<()> {
        let range = offset_bytes..offset_bytes + buf.len() as u64;
        let (hurt, hurt_base) = {
            let inner = self.inner.lock().expect("not poisoned");
            (inner.hurt, inner.hurt_base)
        };
        if (if self.is_base { hurt_base } else { hurt }).is_some_and(|hurt| range.contains(&hurt)) {
            return Err(Error::unavailable("the disk is broken here"));
        }
        let at = offset_bytes as usize;
        let from = self.content.get(at..at + buf.len()).ok_or_else(|| Error::invalid("past the end"))?;
        buf.copy_from_slice(from);
        let mut inner = self.inner.lock().expect("not poisoned");
        match self.is_base {
            true => inner.base_reads += buf.len() as u64,
            false => inner.reads += buf.len() as u64,
        }
        Ok(())
    }
}
