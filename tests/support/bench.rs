//! A repository in memory, and snapshots in it that are made by hand: of any chunks, deltas and refs.

use std::sync::Arc;

use cuttle::codec;
use cuttle::format::ObjectName;
use cuttle::format::page::PageRef;
use cuttle::format::record::VolumeRecord;
use cuttle::repo::history::SnapshotEntry;
use cuttle::repo::{Admin, Environment, InitOptions, Keeper, Repository};
use cuttle::store::Store;
use cuttle::units::VolumeNumber;
use cuttle::volume::Identity;
use cuttle::{Result, repo};
use object_store::memory::InMemory;

use super::Numbers;
use super::by_hand::{self, ByHand};
use super::repo::{CHUNK, commit_refs, connect, default, environment, init_with, latest, secret, store};

pub struct Bench {
    pub objects: Arc<InMemory>,
    pub admin: Admin,
    pub project: Keeper,
    hand: ByHand,
}

impl Bench {
    pub async fn new(encrypted: bool) -> Self {
        let objects = Arc::new(InMemory::new());
        let options = InitOptions { chunk_size_bytes: CHUNK, delta_depth_max: 7 };
        let admin = init_with(store(objects.clone()), options, encrypted).await;
        let project = default(&admin).await;
        let hand = ByHand::open(objects.clone(), &secret(), "default").await;
        Self { objects, admin, project, hand }
    }

    /// Opens the repository anew, as the next command would.
    pub async fn reopened(&self) -> Result<Keeper> {
        connect(self.store(), environment()).await
    }

    pub async fn opened(&self) -> Result<Admin> {
        Repository::open(self.store(), environment(), &mut || Ok(secret())).await
    }

    /// Opens it anew with a cache.
    pub async fn cached(self, dir: &std::path::Path) -> Self {
        let environment = Environment { cache_dir: Some(dir.to_owned()), ..environment() };
        let project = connect(self.store(), environment).await.expect("opened");
        Self { project, ..self }
    }

    pub fn store(&self) -> Store {
        store(self.objects.clone())
    }

    /// Names of all objects that begin so, sorted.
    pub async fn names(&self, prefix: &str) -> Vec<String> {
        by_hand::names(&*self.objects, prefix).await
    }

    pub async fn get(&self, name: &str) -> Vec<u8> {
        by_hand::get(&*self.objects, name).await.to_vec()
    }

    pub async fn put(&self, name: &str, bytes: Vec<u8>) {
        by_hand::put(&*self.objects, name, bytes).await;
    }

    pub async fn delete(&self, name: &str) {
        by_hand::delete(&*self.objects, name).await;
    }

    /// Puts a chunk and returns its ref.
    pub async fn chunk(&self, plain: &[u8]) -> PageRef {
        self.hand.chunk(plain, 0).await
    }

    /// Puts a chunk as a delta against another and returns its ref.
    pub async fn delta(&self, plain: &[u8], base: &PageRef, base_plain: &[u8], variant: u32) -> PageRef {
        self.hand.delta(plain, base, base_plain, variant).await
    }

    /// A snapshot of a whole volume.
    pub async fn backup(&self, volume: &str, data: &[u8]) -> SnapshotEntry {
        let mut refs = Vec::new();
        for chunk in data.chunks(CHUNK as usize) {
            refs.push(if codec::is_zero(chunk) { PageRef::Zero } else { self.chunk(chunk).await });
        }
        self.commit(volume, data.len() as u64, refs).await
    }

    /// Commits a snapshot that holds these refs, whatever they say.
    pub async fn commit(&self, volume: &str, size_bytes: u64, refs: Vec<PageRef>) -> SnapshotEntry {
        self.commit_at(volume, size_bytes, (0..).zip(refs).collect()).await
    }

    /// As [`commit`](Self::commit), each ref at an index of its own.
    pub async fn commit_at(&self, volume: &str, size_bytes: u64, refs: Vec<(u64, PageRef)>) -> SnapshotEntry {
        let record = self.volume(volume).await;
        let sequence = commit_refs(&self.project, &record, size_bytes, refs).await;
        self.find(&format!("{volume}@{sequence}")).await
    }

    /// The entry of a volume; made when there is none.
    async fn volume(&self, name: &str) -> VolumeRecord {
        let catalog = self.project.volumes().confirmed().await.expect("a catalog");
        if let Some(found) = catalog.by_name(&name.parse().expect("valid")) {
            return found.clone();
        }
        let number = VolumeNumber(catalog.entries().len() as u32 + 1);
        let (name, identity) = (name.to_owned(), Identity::Stream);
        let record = VolumeRecord { number, name, identity, created_unix_ms: 0 };
        self.hand.put_record(&ObjectName::Volume(repo::default_project(), number), &record).await;
        record
    }

    pub async fn find(&self, spec: &str) -> SnapshotEntry {
        latest(&self.project, spec).await
    }
}

impl Numbers {
    /// A volume of fresh, repeated and zero chunks.
    pub fn volume(&mut self, len: usize) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::with_capacity(len);
        while out.len() < len {
            let chunk = (CHUNK as usize).min(len - out.len());
            match self.below(4) {
                0 => out.resize(out.len() + chunk, 0),
                1 if out.len() >= chunk => {
                    let from = self.below(out.len() / CHUNK as usize) * CHUNK as usize;
                    out.extend_from_within(from..from + chunk);
                }
                _ => out.extend(self.text(chunk)),
            }
        }
        out
    }
}
