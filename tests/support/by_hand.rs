//! A second way into a repository: objects made and read by hand, from the format's own parts alone.
//!
//! For what no writer does yet or ever should: rounds of a prune, deltas, hostile records.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cuttle::codec::{self, Base, Bundle, Piece, Place, Sealed};
use cuttle::format::bundle::DeltaParts;
use cuttle::format::gc::RosterPart;
use cuttle::format::gc::{BeginRecord, Condemned, DoneRecord, PartRef, SealRecord};
use cuttle::format::live;
use cuttle::format::names::{ContentKind, ContentName};
use cuttle::format::page::{ObjectRef, Page, PageRef, count_of_page};
use cuttle::format::record::{
    BackupStats, EndRecord, ForgetRecord, KeySlotRecord, OpenRecord, Outcome, ProjectRecord,
    RepositoryRecord, Snapshot,
};
use cuttle::format::role::Role;
use cuttle::format::roster::{self, RosterEntry};
use cuttle::format::table::{self, TableEntry};
use cuttle::format::{ObjectName, ObjectType, Record};
use cuttle::keys::{MasterKey, ProjectKeys, SealingKey, Unlock};
use cuttle::units::{ChunkId, Generation, Geometry, ProjectName, Sequence, VolumeNumber};
use cuttle::volume::{Identity, ImageLayout};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

/// An open project of a repository, by its objects.
pub struct ByHand {
    pub objects: Arc<dyn ObjectStore>,
    pub repository: RepositoryRecord,
    pub project: ProjectName,
    master: Option<MasterKey>,
    keys: ProjectKeys,
}

/// An object's bytes.
pub async fn get(objects: &dyn ObjectStore, name: &str) -> Bytes {
    let found = objects.get(&Path::from(name)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    found.bytes().await.expect("a body")
}

/// Puts bytes in an object's place, whatever was there.
pub async fn put(objects: &dyn ObjectStore, name: &str, bytes: impl Into<Bytes>) {
    objects.put(&Path::from(name), bytes.into().into()).await.expect("put");
}

pub async fn delete(objects: &dyn ObjectStore, name: &str) {
    ObjectStoreExt::delete(objects, &Path::from(name)).await.expect("deleted");
}

/// The names of all objects that begin so, sorted.
pub async fn names(objects: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    let all: Vec<_> = objects.list(None).try_collect().await.expect("a listing");
    let mut names: Vec<String> = all.into_iter().map(|o| o.location.to_string()).collect();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

/// The record of a snapshot of a stream, which says no more than it must.
pub fn snapshot(volume: VolumeNumber, sequence: Sequence, geometry: Geometry, root: Vec<u8>) -> Snapshot {
    Snapshot {
        volume,
        sequence,
        generation: Generation(0),
        size_bytes: geometry.size_bytes,
        chunk_size_bytes: geometry.chunk_size_bytes,
        identity: Identity::Stream,
        point: None,
        layout: ImageLayout::default(),
        host: "test".into(),
        program: "test".into(),
        started_unix_ms: 0,
        tags: Vec::new(),
        parent: None,
        origin: None,
        full_read: true,
        recalled_from: None,
        nights_since_full: 0,
        sample_cursor: 0,
        stats: BackupStats::default(),
        root,
    }
}

impl ByHand {
    pub async fn open(objects: Arc<dyn ObjectStore>, unlock: &Unlock, project: &str) -> Self {
        let object = get(&*objects, "repository").await;
        let name = ObjectName::Repository;
        let place = Place { repo_id: &[0; 16], name: &name, key: None };
        let repository: RepositoryRecord = codec::open_record(place, &object).expect("a repository");
        let master = match repository.encrypted {
            false => None,
            true => Some(master_key(&*objects, &repository, &object, unlock).await),
        };
        let project: ProjectName = project.parse().expect("a project's name");
        let name = ObjectName::Project(project.clone());
        let key = master.as_ref().map(|m| SealingKey::new(m.project_key()));
        let place = Place { repo_id: &repository.repo_id, name: &name, key: key.as_ref() };
        let record: ProjectRecord =
            codec::open_record(place, &get(&*objects, &name.to_string()).await).expect("a project");
        let keys = ProjectKeys::derive(&record).expect("keys");
        Self { objects, repository, project, master, keys }
    }

    /// As who has only the keys of a role.
    pub fn of_role(self, role: Role) -> Self {
        let keys = self.keys.of_role(role).expect("all of them");
        Self { keys, master: None, ..self }
    }

    /// Calls `with` with the place of an object and the key that seals it.
    pub fn at<T>(&self, name: &ObjectName, with: impl FnOnce(Place<'_>) -> T) -> T {
        let repo_id = match name {
            ObjectName::Repository => &[0; 16],
            _ => &self.repository.repo_id,
        };
        let project_key = self.master.as_ref().map(|m| SealingKey::new(m.project_key()));
        let key = match name.object_type() {
            ObjectType::Repository | ObjectType::Key | ObjectType::RoleKey => None,
            ObjectType::Project => project_key.as_ref(),
            other => Some(self.keys.sealing(other)),
        };
        with(Place { repo_id, name, key: key.filter(|_| self.repository.encrypted) })
    }

    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        codec::identify(self.keys.chunk_id_key(), plain)
    }

    pub fn page_id(&self, plain: &[u8]) -> ChunkId {
        codec::identify(self.keys.page_id_key(), plain)
    }

    pub fn chunk_name(&self, name: ContentName) -> ObjectName {
        ObjectName::Chunk(self.project.clone(), name)
    }

    /// Puts any plaintext under any name, sealed as it must be.
    pub async fn put_plain(&self, name: &ObjectName, plain: &[u8]) -> u32 {
        let sealed = self.at(name, |place| codec::seal(place, plain, 1)).expect("sealed");
        self.put_sealed(&sealed).await
    }

    pub async fn put_record<R: Record + PartialEq>(&self, name: &ObjectName, record: &R) {
        let sealed = self.at(name, |place| codec::seal_record(place, record)).expect("sealed");
        self.put_sealed(&sealed).await;
    }

    pub async fn record<R: Record>(&self, name: &ObjectName) -> R {
        let object = get(&*self.objects, &name.to_string()).await;
        self.at(name, |place| codec::open_record(place, &object)).expect("a record")
    }

    /// The plaintext of a full object.
    pub async fn plain(&self, name: &ObjectName) -> Vec<u8> {
        let object = get(&*self.objects, &name.to_string()).await;
        let (mut plain, max) = (Vec::new(), name.object_type().plain_len_bytes_max());
        self.at(name, |place| codec::open(place, &object, None, max, &mut plain)).expect("a good object");
        plain
    }

    pub async fn page(&self, name: &ObjectName, level: u8, count: usize) -> Page {
        Page::decode(&self.plain(name).await, level, count).expect("a page")
    }

    async fn put_sealed(&self, sealed: &Sealed) -> u32 {
        put(&*self.objects, &sealed.name().to_string(), sealed.bytes().clone()).await;
        sealed.len_bytes()
    }

    /// Puts a full chunk and returns its ref.
    pub async fn chunk(&self, plain: &[u8], generation: u32) -> PageRef {
        self.chunk_variant(plain, generation, 0).await
    }

    pub async fn chunk_variant(&self, plain: &[u8], generation: u32, variant: u32) -> PageRef {
        let id = self.chunk_id(plain);
        let name = ContentName { generation: Generation(generation), id, variant, offset_bytes: None };
        let sealed_len_bytes = self.put_plain(&self.chunk_name(name), plain).await;
        PageRef::full(ObjectRef { name, sealed_len_bytes })
    }

    /// Puts a chunk as a delta against another and returns its ref.
    pub async fn delta(&self, plain: &[u8], base: &PageRef, base_plain: &[u8], variant: u32) -> PageRef {
        let closure: Vec<ObjectRef> = base.objects().copied().collect();
        let below = Base { depth: closure.len() as u8, plain: base_plain };
        let id = self.chunk_id(plain);
        let delta = self
            .at(&ObjectName::Piece(self.project.clone(), id), |place| {
                codec::seal_delta(place, plain, below, &codec::Joined::default(), 1)
            })
            .expect("sealed");
        let told = DeltaParts { base: base.id(), runs: delta.runs };
        let pieces = [Piece { id, sealed: delta.sealed, delta: Some(told) }];
        // Apart from all others of the same content.
        let mut bundle = id;
        bundle.0[28..].iter_mut().zip(variant.to_le_bytes()).for_each(|(byte, with)| *byte ^= with);
        let bundle = ContentName::plain(closure[0].name.generation, bundle);
        let object = self.bundle(bundle, &pieces).await[0];
        PageRef::Stored { id, object, closure }
    }

    /// Puts pieces as one bundle.
    pub async fn bundle(&self, bundle: ContentName, pieces: &[Piece]) -> Vec<ObjectRef> {
        let name = ObjectName::Bundle(self.project.clone(), bundle);
        let made = self.at(&name, |place| Bundle::of(place, pieces)).expect("a bundle");
        self.put_sealed(&made.sealed).await;
        let refs = made.offsets_bytes.iter().zip(pieces).map(|(offset_bytes, piece)| ObjectRef {
            name: ContentName { offset_bytes: Some(*offset_bytes), ..bundle },
            sealed_len_bytes: piece.len_bytes(),
        });
        refs.collect()
    }

    /// The object that a chunk is in.
    pub fn object_name(&self, name: ContentName) -> ObjectName {
        ObjectName::content(&self.project, name.chunk_kind(), name)
    }

    /// Begins a prune round that condemns these ids.
    pub async fn begin_round(&self, generation: u32, ids: &[ChunkId]) {
        let generation = Generation(generation);
        let plain = Condemned::new(ids.iter().map(cuttle::format::gc::prefix).collect()).encode();
        let id = self.page_id(&plain);
        let part = ObjectName::GcPart(self.project.clone(), generation, id);
        let sealed_len_bytes = self.put_plain(&part, &plain).await;
        let condemned = vec![PartRef { id, sealed_len_bytes, entries: (plain.len() / 8) as u32 }];
        let begin = ObjectName::GcBegin(self.project.clone(), generation);
        let last_seal = self.last_seal(generation.0.saturating_sub(1)).await;
        self.put_record(&begin, &BeginRecord { generation, last_seal, condemned }).await;
    }

    pub async fn end_round(&self, generation: u32) {
        let last_seal = self.last_seal(generation).await;
        let generation = Generation(generation);
        let done = ObjectName::GcDone(self.project.clone(), generation);
        self.put_record(&done, &DoneRecord { generation, last_seal }).await;
    }

    /// The newest round up to one that was sealed.
    async fn last_seal(&self, generation: u32) -> Generation {
        let all = names(&*self.objects, &format!("projects/{}/gc/", self.project)).await;
        let seals = all.iter().filter_map(|name| match ObjectName::parse(name) {
            Some(ObjectName::GcSeal(_, g)) if g.0 <= generation => Some(g),
            _ => None,
        });
        seals.max().unwrap_or(Generation(0))
    }

    /// Seals a round that deletes these, with the roster of another or none.
    pub async fn seal_round(&self, generation: u32, deleted: &[TableEntry], roster: Vec<RosterEntry>) {
        let generation = Generation(generation);
        let deleted = vec![self.put_part(generation, &table::encode(deleted), deleted.len() as u32).await];
        self.put_seal(generation, deleted, Vec::new(), &roster).await;
    }

    /// Seals a round, with what its roster says in parts.
    pub async fn put_seal(
        &self,
        generation: Generation,
        deleted: Vec<PartRef>,
        live_index: Vec<PartRef>,
        said: &[RosterEntry],
    ) {
        let mut roster = Vec::new();
        for entries in roster::parts_of(said) {
            let plain = roster::encode(entries).expect("encodes");
            let part = self.put_part(generation, &plain, entries.len() as u32).await;
            roster.extend(entries.last().map(|last| RosterPart { last_volume: last.volume, part }));
        }
        let seal = ObjectName::GcSeal(self.project.clone(), generation);
        let record = SealRecord { generation, roster, live_index, deleted, copied: false };
        self.put_record(&seal, &record).await;
    }

    /// Puts a part of a table, whatever it says.
    pub async fn put_part(&self, generation: Generation, plain: &[u8], entries: u32) -> PartRef {
        let id = self.page_id(plain);
        let part = ObjectName::GcPart(self.project.clone(), generation, id);
        let sealed_len_bytes = self.put_plain(&part, plain).await;
        PartRef { id, sealed_len_bytes, entries }
    }

    /// Forgets a snapshot, whatever anybody thinks of it.
    pub async fn forget(&self, volume: u32, sequence: u32) {
        let (p, n, s) = (self.project.clone(), VolumeNumber(volume), Sequence(sequence));
        let open: OpenRecord = self.record(&ObjectName::Open(p.clone(), n, s)).await;
        let forget = ForgetRecord { snapshot_id: open.snapshot_id, host: "test".into(), at_unix_ms: 0 };
        self.put_record(&ObjectName::Forget(p, n, s), &forget).await;
    }

    /// Live snapshots as the objects show them: volume, sequence and what was committed.
    pub async fn live(&self) -> Vec<Snapshot> {
        let mut live = Vec::new();
        let all = names(&*self.objects, &format!("projects/{}/", self.project)).await;
        for name in &all {
            let Some(end @ ObjectName::End(..)) = ObjectName::parse(name) else { continue };
            let ObjectName::End(p, n, s) = end.clone() else { continue };
            if all.contains(&ObjectName::Forget(p, n, s).to_string()) {
                continue;
            }
            if let Outcome::Committed(snapshot) = self.record::<EndRecord>(&end).await.outcome {
                live.push(*snapshot);
            }
        }
        live
    }

    /// The names of all chunks, pages and bundles that live snapshots need, found by walking every tree in full.
    pub async fn reachable(&self) -> BTreeSet<String> {
        self.needed().await.into_keys().collect()
    }

    /// All full chunks without a variant that live snapshots need, ascending by id.
    pub async fn full_chunks(&self) -> Vec<TableEntry> {
        let is_full = |o: &ObjectRef| o.name.variant == 0 && o.chunk_kind() == ContentKind::Chunk;
        let needed = self.needed().await.into_iter();
        let chunks =
            needed.filter(|(name, _)| matches!(ObjectName::parse(name), Some(ObjectName::Chunk(..))));
        let full = chunks.map(|(_, object)| object).filter(is_full);
        live::in_order(full.map(|object| TableEntry { kind: ContentKind::Chunk, object }).collect())
    }

    /// The same with what manifests say of them.
    async fn needed(&self) -> BTreeMap<String, ObjectRef> {
        let mut needed = BTreeMap::new();
        for snapshot in self.live().await {
            let chunks = snapshot.size_bytes.div_ceil(u64::from(snapshot.chunk_size_bytes));
            let mut level: Vec<(u64, Page)> = vec![(0, snapshot.root_page().expect("a root"))];
            while let Some((number, page)) = level.pop() {
                for (at, page_ref) in page.refs.iter().enumerate() {
                    for object in page_ref.objects() {
                        let kind = if page.level == 0 { object.chunk_kind() } else { ContentKind::Page };
                        let name = ObjectName::content(&self.project, kind, object.name);
                        needed.insert(name.to_string(), *object);
                        if page.level > 0 {
                            let number = number * 1024 + at as u64;
                            let count = count_of_page(chunks, page.level - 1, number);
                            level.push((number, self.page(&name, page.level - 1, count).await));
                        }
                    }
                }
            }
        }
        needed
    }

    /// The chunks and pages in the store, by what they are.
    pub async fn contents(&self) -> BTreeMap<String, ContentName> {
        let all = names(&*self.objects, &format!("projects/{}/", self.project)).await;
        let content = |name: &String| match ObjectName::parse(name)? {
            ObjectName::Chunk(_, content) | ObjectName::Page(_, content) | ObjectName::Bundle(_, content) => {
                Some(content)
            }
            _ => None,
        };
        all.into_iter().filter_map(|name| content(&name).map(|content| (name, content))).collect()
    }
}

async fn master_key(
    objects: &dyn ObjectStore,
    repository: &RepositoryRecord,
    object: &[u8],
    unlock: &Unlock,
) -> MasterKey {
    for name in names(objects, "keys/").await {
        let key = ObjectName::parse(&name).expect("a key slot's name");
        let place = Place { repo_id: &repository.repo_id, name: &key, key: None };
        let slot: KeySlotRecord = codec::open_record(place, &get(objects, &name).await).expect("a slot");
        if let Some(master) = MasterKey::unwrap(&slot, unlock, object).expect("a slot of this repository") {
            return master;
        }
    }
    panic!("no slot opens");
}
