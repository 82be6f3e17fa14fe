//! A project: the dedup domain and the isolation boundary. Nothing past `open` accepts another project's name.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use zeroize::Zeroize;

use crate::codec::{self, Place, Sealed};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::{ProjectRecord, VolumeRecord, check_project};
use crate::format::role::{Role, RoleSlotPlace, RoleSlotRecord};
use crate::format::{ObjectName, ObjectType, Record};
use crate::keys::{ProjectKeys, SealingKey, random_array};
use crate::repo::Repository;
use crate::repo::catalog::{Catalog, Volumes};
use crate::repo::content::Content;
use crate::repo::events::Events;
use crate::repo::found::Found;
use crate::repo::history::History;
use crate::repo::log::Log;
use crate::repo::lost::LostRecords;
use crate::repo::parts::Parts;
use crate::repo::remains::{exists, refuse_project};
use crate::repo::retained;
use crate::repo::roster::{Known as KnownRoster, Rosters};
use crate::repo::rounds::Rounds;
use crate::repo::slot::Slot;
use crate::store::{Created, Stamp};
use crate::units::{ChunkId, Generation, ProjectName, Sequence, VolumeNumber};

/// An open project. Cheap to clone.
#[derive(Clone)]
pub struct Project {
    inner: Arc<Inner>,
}

struct Inner {
    repository: Arc<Repository>,
    name: ProjectName,
    id: [u8; 16],
    role: Role,
    keys: ProjectKeys,
    /// The catalog as this process read it last; see [`Volumes`].
    catalog: Mutex<Option<Arc<Catalog>>>,
    /// What this process goes by where it reads logs; see [`Rosters`].
    known_roster: Mutex<KnownRoster>,
    /// What it knows of forgets and notes; see [`Retained`](retained::Retained).
    known_retained: retained::Shared,
}

impl Project {
    pub(super) async fn create(repository: &Arc<Repository>, name: &ProjectName) -> Result<Self> {
        refuse_project(repository, name).await?;
        let record = ProjectRecord {
            project_id: random_array()?,
            root: random_array()?,
            name: name.to_string(),
            created_unix_ms: repository.environment.clock.now_unix_ms(),
        };
        let object_name = ObjectName::Project(name.clone());
        let key = repository.master().map(|m| SealingKey::new(m.project_key()));
        let place = Place { repo_id: &repository.record.repo_id, name: &object_name, key: key.as_ref() };
        let sealed = codec::seal_record(place, &record)?;
        match repository.store.create(&object_name.to_string(), sealed.bytes().clone()).await? {
            Created::New => {
                repository.memory.saw_project(name, &record.project_id)?;
                Self::of_record(repository, name, record)
            }
            Created::Exists { .. } => Err(exists(name)),
        }
    }

    pub(super) async fn open(repository: &Arc<Repository>, name: &ProjectName) -> Result<Self> {
        if let Some(member) = repository.member_of() {
            if member.project != *name {
                return Err(Error::wrong_key(format!("this key opens project {} alone", member.project))
                    .help(format!("say `--project {}`, or use another key", member.project)));
            }
            repository.memory.saw_project(name, &member.project_id)?;
            return Ok(Self::new(repository, name, member.project_id, member.role, member.keys.clone()));
        }
        let object_name = ObjectName::Project(name.clone());
        let max = ObjectType::Project.object_len_bytes_max() as u64;
        let object = repository.store.get(&object_name.to_string(), max).await?.ok_or_else(|| {
            match repository.memory.volumes_of(name) {
                None => Error::not_found(format!("there is no project {name} in {}", repository.store.url()))
                    .help(format!("see `cuttle project list`, or make it with `cuttle project create {name}`")),
                Some(volumes) => repository.memory.went_back(format!(
                    "project {name}, which had {volumes} volumes, is not there any more: {object_name} is gone"
                )),
            }
        })?;
        let key = repository.master().map(|m| SealingKey::new(m.project_key()));
        let place = Place { repo_id: &repository.record.repo_id, name: &object_name, key: key.as_ref() };
        let record: ProjectRecord = codec::open_record(place, &object).map_err(|e| match e.kind() {
            ErrorKind::Corrupt if key.is_some() => {
                Error::wrong_key(format!("project {name} does not open with this repository's key: {e}"))
                    .help("the project record was damaged, or belongs to another repository")
            }
            _ => e,
        })?;
        check_project(&record, name)?;
        repository.memory.saw_project(name, &record.project_id)?;
        Self::of_record(repository, name, record)
    }

    fn of_record(
        repository: &Arc<Repository>,
        name: &ProjectName,
        mut record: ProjectRecord,
    ) -> Result<Self> {
        let keys = ProjectKeys::derive(&record);
        record.root.zeroize();
        Ok(Self::new(repository, name, record.project_id, Role::Admin, keys?))
    }

    fn new(
        repository: &Arc<Repository>,
        name: &ProjectName,
        id: [u8; 16],
        role: Role,
        keys: ProjectKeys,
    ) -> Self {
        let (repository, name) = (Arc::clone(repository), name.clone());
        let (catalog, known_roster, known_retained) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                repository,
                name,
                id,
                role,
                keys,
                catalog,
                known_roster,
                known_retained,
            }),
        }
    }

    /// Its name, unique in the repository.
    pub fn name(&self) -> &ProjectName {
        &self.inner.name
    }

    /// Random, in its record.
    pub(crate) fn id(&self) -> &[u8; 16] {
        &self.inner.id
    }

    /// What the key at hand is for. Without encryption everybody is its admin.
    pub fn role(&self) -> Role {
        self.inner.role
    }

    /// Whether the key at hand opens chunks.
    pub(crate) fn opens_chunks(&self) -> bool {
        !self.repository().record.encrypted || self.keys().open_chunks()
    }

    /// Refuses what the key at hand is not for.
    ///
    /// # Errors
    /// `WrongKey`.
    pub fn demand(&self, roles: &[Role]) -> Result<()> {
        let role = self.role();
        if role == Role::Admin || roles.contains(&role) {
            return Ok(());
        }
        let wanted: Vec<&str> = roles.iter().chain([&Role::Admin]).map(|role| role.name()).collect();
        Err(Error::wrong_key(format!("this is a key of the role {role}, which may not do that"))
            .help(format!("use a key of the role {}: `cuttle key list` shows them", wanted.join(" or "))))
    }

    /// Whether the slot of a role was made by who may decide here.
    pub(crate) fn has_made(&self, slot: u64, record: &RoleSlotRecord) -> Result<bool> {
        let (project, project_id, repository) = (self.name(), self.id(), &self.repository().object);
        self.keys().have_made(record, RoleSlotPlace { slot, project, project_id, repository })
    }

    /// The repository that it is in.
    pub fn repository(&self) -> &Arc<Repository> {
        &self.inner.repository
    }

    pub(super) fn catalog(&self) -> &Mutex<Option<Arc<Catalog>>> {
        &self.inner.catalog
    }

    /// Forgets what was listed of forgets and notes: who decides by them looks again.
    pub(crate) fn look_again(&self) {
        retained::Retained { project: self }.look_again();
    }

    pub(super) fn known_retained(&self) -> &retained::Shared {
        &self.inner.known_retained
    }

    pub(super) fn known_roster(&self) -> &Mutex<KnownRoster> {
        &self.inner.known_roster
    }

    pub(crate) fn keys(&self) -> &ProjectKeys {
        &self.inner.keys
    }

    /// The repository's.
    pub fn chunk_size_bytes(&self) -> u32 {
        self.repository().record.chunk_size_bytes
    }

    /// The keyed hash that names a chunk of this project.
    pub fn identify(&self, plain: &[u8]) -> ChunkId {
        codec::identify(self.keys().chunk_id_key(), plain)
    }

    /// The keyed hash that names a page or a gc part of this project.
    pub(crate) fn identify_page(&self, plain: &[u8]) -> ChunkId {
        codec::identify(self.keys().page_id_key(), plain)
    }

    pub(crate) fn place<'a>(&'a self, name: &'a ObjectName) -> Place<'a> {
        let record = &self.repository().record;
        let keys = self.keys();
        let key = record.encrypted.then(|| keys.sealing(name.object_type()));
        Place { repo_id: &record.repo_id, name, key }
    }

    /// Uploads a sealed object unless something is there already.
    pub(super) async fn create_sealed(&self, sealed: &Sealed) -> Result<Created> {
        let (name, cache) = (sealed.name(), &self.repository().cache);
        let (key, bytes) = (name.to_string(), sealed.bytes().clone());
        let (created, stamp) = self.repository().store.create_stamped(&key, bytes).await?;
        if matches!(created, Created::New) {
            cache.put_page(name, sealed.bytes());
            // The next night looks for just this one.
            stamp.iter().for_each(|stamp| cache.put_record(name, stamp, sealed.bytes()));
        }
        Ok(created)
    }

    pub(super) async fn create_record<R: Record + PartialEq>(
        &self,
        name: &ObjectName,
        record: &R,
    ) -> Result<Created> {
        let sealed = codec::seal_record(self.place(name), record)?;
        self.create_sealed(&sealed).await
    }

    /// Reads an object's bytes. The caller authenticates them.
    pub(crate) async fn get_object(&self, name: &ObjectName) -> Result<Option<Bytes>> {
        let max = name.object_type().object_len_bytes_max() as u64;
        self.repository().store().get(&name.to_string(), max).await
    }

    /// Reads a record that must exist. Never from the cache.
    pub(crate) async fn read_known_record<R: Record>(&self, name: &ObjectName) -> Result<R> {
        let object = self.get_object(name).await?.ok_or_else(|| missing(name))?;
        codec::open_record(self.place(name), &object)
    }

    /// Reads a record that a listing shows; the cache may answer with a copy of what the listing shows, and of nothing else.
    pub(crate) async fn read_listed_record<R: Record>(
        &self,
        name: &ObjectName,
        stamp: Option<Stamp>,
    ) -> Result<R> {
        let Some(stamp) = stamp else { return self.read_known_record(name).await };
        let cache = &self.repository().cache;
        if let Some(copy) = cache.record(name, &stamp) {
            match codec::open_record(self.place(name), &copy) {
                Ok(record) => return Ok(record),
                Err(_) => cache.remove(name),
            }
        }
        let object = self.get_object(name).await?.ok_or_else(|| missing(name))?;
        let record = codec::open_record(self.place(name), &object)?;
        cache.put_record(name, &stamp, &object);
        Ok(record)
    }

    /// Gets and opens a record. Only what keeps it from looking is an error.
    pub(crate) async fn look<R: Record>(&self, name: &ObjectName) -> Result<Found<R>> {
        self.look_bound(name, |_| Ok(())).await
    }

    /// As [`look`](Self::look), for a record that must say where it belongs.
    pub(crate) async fn look_bound<R: Record>(
        &self,
        name: &ObjectName,
        belongs: impl FnOnce(&R) -> std::result::Result<(), String>,
    ) -> Result<Found<R>> {
        let opened = match self.get_object(name).await {
            Ok(None) => return Ok(Found::Absent),
            Ok(Some(object)) => codec::open_record(self.place(name), &object),
            Err(error) => Err(error),
        };
        let found = match opened {
            Ok(record) => Found::Opens(record).bound(belongs),
            // Of a newer version, as far as its first bytes tell: that, too, may be planted.
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                Found::Foreign(e.to_string())
            }
            Err(e) => return Err(e),
        };
        if let Found::Foreign(why) = &found {
            self.repository().foreign.tell(name, why);
        }
        Ok(found)
    }

    /// The volumes, by number and name.
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes { project: self }
    }

    /// The snapshots of a volume.
    pub fn history<'a>(&'a self, volume: &'a VolumeRecord) -> History<'a> {
        History { project: self, volume }
    }

    /// What happened to a volume, sequence by sequence.
    pub fn log(&self, volume: VolumeNumber) -> Log<'_> {
        Log { project: self, volume }
    }

    /// What happened, newest first.
    pub fn events(&self) -> Events<'_> {
        Events { project: self }
    }

    /// The records of one sequence.
    pub(crate) fn slot(&self, volume: VolumeNumber, sequence: Sequence) -> Slot<'_> {
        Slot { project: self, volume, sequence }
    }

    /// The prune rounds.
    pub(crate) fn rounds(&self) -> Rounds<'_> {
        Rounds { project: self }
    }

    /// What seals say of the volumes' logs.
    pub(crate) fn rosters(&self) -> Rosters<'_> {
        Rosters { project: self }
    }

    /// The tables of one round.
    pub(crate) fn parts(&self, generation: Generation) -> Parts<'_> {
        Parts { project: self, generation }
    }

    /// Chunks and pages.
    pub fn content(&self) -> Content<'_> {
        Content { project: self }
    }

    /// The records of what was found lost.
    pub(crate) fn lost_records(&self) -> LostRecords<'_> {
        LostRecords { project: self }
    }
}

/// An object that must exist does not.
pub(crate) fn missing(name: &ObjectName) -> Error {
    Error::corrupt(format!("{name} is missing"))
        .help("run `cuttle verify`; if the bucket keeps versions, look for a deleted one")
}
