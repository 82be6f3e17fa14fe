//! The repository: opening and making it, its projects, volumes, logs and manifests.
//!
//! Everything that is safe because of the protocol (repo-format.md §8) is decided in here.

mod admin;
pub(crate) mod bundles;
mod cache;
pub mod catalog;
pub mod content;
pub mod events;
mod find;
pub mod forbidden;
pub(crate) mod found;
pub mod history;
pub mod kept;
pub mod keys;
pub mod log;
pub mod lost;
pub mod manifest;
pub mod memory;
pub(crate) mod neighbours;
pub mod notes;
pub mod origin;
mod parts;
pub mod project;
mod recall;
mod remains;
pub mod reserve;
mod retained;
mod role_keys;
pub mod roles;
pub(crate) mod roster;
pub(crate) mod rounds;
pub(crate) mod row;
pub(crate) mod scratch;
pub mod session;
pub(crate) mod slot;
mod stored;
pub(crate) mod walk;
pub(crate) mod windows;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::codec::{self, LEVEL_DEFAULT, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::PROJECTS_PREFIX;
use crate::format::record::{KeySlotRecord, OpenRecord, RepositoryRecord};
use crate::format::role::Role;
use crate::format::{ObjectName, ObjectType};
use crate::keys::{MasterKey, SlotPlace, Unlock, random_array};
use crate::repo::found::Foreign;
use crate::repo::role_keys::{Access, Member, RoleKeys};
use crate::store::{Created, Reader, Store};
use crate::units::{ProjectName, check_chunk_size};

pub use admin::Admin;
pub(crate) use cache::Cache;
pub use keys::KeySlot;
pub use memory::{AtPlace, Memory};
pub use project::Project;
pub use role_keys::RoleKey;
pub use roles::{Creating, Keeper, Keeping, Writer};
pub(crate) use stored::Listed;

/// What the repository is told of the machine it is used from.
#[derive(Clone)]
pub struct Environment {
    /// Host name, for people.
    pub host: String,
    /// An opaque name of this machine and its boot: processes of another boot are surely dead.
    pub machine: String,
    /// This process's id, recorded in `.open`.
    pub process: u32,
    /// Whether a process of this machine and boot still runs.
    pub is_process_alive: fn(u32) -> bool,
    /// For times that people see, and for how long something took; never for what is safe.
    pub clock: Arc<dyn Clock>,
    /// Where copies of small objects may be kept; always rebuildable.
    pub cache_dir: Option<PathBuf>,
    /// Where is remembered what repositories looked like last time.
    pub memory_dir: Option<PathBuf>,
    /// Whether what is seen is remembered there. Otherwise what is remembered is only read.
    pub remembers: bool,
    /// The store is believed as it is now, whatever is remembered of the repository at its place.
    pub trust_store: bool,
}

impl Environment {
    /// Why a session is surely over: this very machine began it, and its process is dead. `None` where it may live.
    pub(crate) fn is_dead(&self, open: &OpenRecord) -> Option<String> {
        let here = open.machine == self.machine && !self.machine.is_empty();
        let dead = here && open.process != self.process && !(self.is_process_alive)(open.process);
        dead.then(|| format!("its process {} on {} is dead", open.process, open.host))
    }
}

/// Name and version, as records show it.
pub const PROGRAM: &str = concat!("cuttle ", env!("CARGO_PKG_VERSION"));

/// Objects below a delta unless `init` is told otherwise: a chunk then takes at most nine requests to read.
pub const DELTA_DEPTH_MAX_DEFAULT: u8 = 7;

/// What `init` decides for good.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// A power of two, 4 KiB to 16 MiB (repo-format.md §3).
    pub chunk_size_bytes: u32,
    /// Most objects below a delta; 0 for a repository without deltas.
    pub delta_depth_max: u8,
}

/// An open repository.
pub struct Repository {
    store: Store,
    pub(crate) record: RepositoryRecord,
    /// The repository object's bytes, which every key slot is bound to.
    object: Vec<u8>,
    access: Access,
    pub(crate) environment: Environment,
    pub(crate) cache: Cache,
    pub(crate) memory: Memory,
    /// Names that do not open.
    pub(crate) foreign: Foreign,
}

/// What is expected of a repository that is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A secret is at hand, so it must be encrypted.
    Encrypted,
    /// One that is not encrypted is opened only where this host has seen it before.
    EncryptedOrRemembered,
    /// Whatever it is.
    Either,
}

/// Gives the secret when asked; asked only when the repository is encrypted.
pub type AskSecret<'a> = dyn FnMut() -> Result<Unlock> + 'a;

impl Repository {
    /// Makes a repository in an empty place, with its default project. `unlock` is `None` for an unencrypted one.
    pub async fn init(
        store: Store,
        environment: Environment,
        options: &InitOptions,
        unlock: Option<&Unlock>,
    ) -> Result<Admin> {
        let name = ObjectName::Repository;
        // Before anything is written.
        let at = Self::check_init(&store, &environment, options).await?;
        let create_if_absent = store.probe_create_if_absent("probe").await?;
        if !create_if_absent {
            store.without_create_if_absent();
        }
        let record = RepositoryRecord {
            repo_id: random_array()?,
            chunk_size_bytes: options.chunk_size_bytes,
            encrypted: unlock.is_some(),
            create_if_absent,
            delta_depth_max: options.delta_depth_max,
            required_features: 0,
            created_unix_ms: environment.clock.now_unix_ms(),
        };
        let sealed = codec::seal_record(Place { repo_id: &[0; 16], name: &name, key: None }, &record)?;
        // The slot comes first: a repository that exists can be opened. Until the repository object is there, nothing is.
        let around = keys::Around { store: &store, record: &record, object: sealed.bytes() };
        let (access, slot) = match unlock {
            None => (Access::Open, None),
            Some(unlock) => {
                let master = MasterKey::random()?;
                let slot = keys::put_slot(around, &master, unlock, &environment, "init").await?;
                (Access::Master(master), Some(slot))
            }
        };
        match store.create(&name.to_string(), sealed.bytes().clone()).await? {
            Created::New => {}
            Created::Exists { .. } => {
                // Another was faster: this slot opens nothing, and nobody else knows whose it is.
                if let Some(slot) = slot
                    && let Err(error) = store.delete(&ObjectName::Key { slot }.to_string()).await
                {
                    tracing::warn!(%error, "{} is left, and opens nothing: see `cuttle key list`", ObjectName::Key { slot });
                }
                return Err(already_there(&store));
            }
        }
        let cache = Cache::new(environment.cache_dir.as_deref(), &record.repo_id);
        let memory = Memory::begin(at, &record, &cache);
        let object = sealed.bytes().to_vec();
        let foreign = Foreign::default();
        let repository = Self { store, record, object, access, environment, cache, memory, foreign };
        repository.remember();
        let admin = Admin::of(repository);
        admin.create_project(&default_project()).await?;
        Ok(admin)
    }

    /// Refuses what [`init`](Self::init) would before it writes anything; changes nothing. What this host knows of the place.
    pub async fn check_init(
        store: &Reader,
        environment: &Environment,
        options: &InitOptions,
    ) -> Result<AtPlace> {
        check_chunk_size(options.chunk_size_bytes)?;
        if store.head(&ObjectName::Repository.to_string()).await?.is_some() {
            return Err(already_there(store));
        }
        let at = AtPlace::read(environment, store.place())?;
        at.refuse_new()?;
        remains::refuse_repository(store).await?;
        Ok(at)
    }

    /// Opens a repository, encrypted or not. Wrong secrets, an unknown version, and a repository that went back in time are
    /// errors.
    pub async fn open(store: Store, environment: Environment, ask: &mut AskSecret<'_>) -> Result<Admin> {
        Self::open_expected(store, environment, Expected::Either, &default_project(), ask).await
    }

    /// As [`open`](Self::open), for whoever expects it to be encrypted or not. One that is not as expected is refused before
    /// anything of it is believed or remembered, and anybody is asked: it may have been put in another's place. A secret that
    /// does not open the repository may open that project.
    pub async fn open_expected(
        store: Store,
        environment: Environment,
        expected: Expected,
        project: &ProjectName,
        ask: &mut AskSecret<'_>,
    ) -> Result<Admin> {
        let at = AtPlace::read(&environment, store.place())?;
        let (record, object) = match read_repository(&store).await {
            Err(e) if e.kind() == ErrorKind::NoRepository => {
                return Err(at.explain(remains::explain(&store, e).await));
            }
            found => found?,
        };
        if !record.create_if_absent {
            store.without_create_if_absent();
        }
        if expected == Expected::Encrypted && !record.encrypted {
            return Err(Error::wrong_key(format!(
                "a password or key is given, but the repository at {} is not encrypted",
                store.url()
            ))
            .help("if it never was, give none; otherwise someone put another repository in its place"));
        }
        let cache = Cache::new(environment.cache_dir.as_deref(), &record.repo_id);
        let memory = Memory::load(at, &record, &cache)?;
        if expected == Expected::EncryptedOrRemembered && !record.encrypted && !memory.has_seen(&record) {
            return Err(Error::invalid(format!(
                "the repository at {} is not encrypted, and this host does not remember it so",
                store.url()
            ))
            .help(
                "whoever can write to the store may have put it in an encrypted one's place, to be given volumes in plain. \
                 If it was made so, say --insecure-no-encryption once: this host remembers it",
            ));
        }
        let access = match record.encrypted {
            false => Access::Open,
            true => {
                let unlock = ask()?;
                let around = keys::Around { store: &store, record: &record, object: &object };
                open_with(around, &unlock, &memory, project).await?
            }
        };
        let foreign = Foreign::default();
        let repository = Self { store, record, object, access, environment, cache, memory, foreign };
        repository.remember();
        Ok(Admin::of(repository))
    }

    /// Where it lies, to read.
    pub fn store(&self) -> &Reader {
        &self.store
    }

    /// The repository record, which never changes (repo-format.md §6.1).
    pub fn record(&self) -> &RepositoryRecord {
        &self.record
    }

    /// Projects by name, as a listing shows them.
    pub async fn projects(&self) -> Result<Vec<ProjectName>> {
        let found = self.store.list_prefixes(PROJECTS_PREFIX).await?;
        let name = |p: &String| p.trim_end_matches('/').rsplit('/').next().and_then(|s| s.parse().ok());
        Ok(found.iter().filter_map(name).collect())
    }

    /// Opens a project for whoever only reads.
    pub async fn project(self: &Arc<Self>, name: &ProjectName) -> Result<Project> {
        Project::open(self, name).await
    }

    /// Key slots: those that count first, oldest first, then those that do not.
    pub async fn keys(&self) -> Result<Vec<KeySlot>> {
        keys::list(self.around_keys(), self.master()).await
    }

    /// Slots of a project's roles: those that count first, oldest first, then those that do not.
    pub async fn role_keys(&self, project: &Project) -> Result<Vec<RoleKey>> {
        RoleKeys { around: self.around_keys(), project }.list().await
    }

    /// Whether a slot was made with this repository's key; `None` for who has not that key.
    pub(crate) fn has_made(&self, slot: u64, record: &KeySlotRecord) -> Result<Option<bool>> {
        let at = SlotPlace { slot, repository: &self.object };
        self.master().map(|master| master.has_made(record, at)).transpose()
    }

    /// What the key at hand is for, and which it is, where it opens one project alone.
    pub fn member(&self) -> Option<(&ProjectName, Role, u64)> {
        match &self.access {
            Access::Member(member) => Some((&member.project, member.role, member.slot)),
            Access::Open | Access::Master(_) => None,
        }
    }

    fn member_of(&self) -> Option<&Arc<Member>> {
        match &self.access {
            Access::Member(member) => Some(member),
            Access::Open | Access::Master(_) => None,
        }
    }

    fn around_keys(&self) -> keys::Around<'_> {
        keys::Around { store: &self.store, record: &self.record, object: &self.object }
    }

    pub(crate) fn master(&self) -> Option<&MasterKey> {
        match &self.access {
            Access::Master(master) => Some(master),
            Access::Open | Access::Member(_) => None,
        }
    }

    fn remember(&self) {
        self.memory.saw_repository(&self.record, self.master().map(MasterKey::fingerprint));
    }
}

async fn open_with(
    around: keys::Around<'_>,
    unlock: &Unlock,
    memory: &Memory,
    project: &ProjectName,
) -> Result<Access> {
    match keys::unlock(around, unlock, memory).await {
        Ok(master) => Ok(Access::Master(master)),
        Err(e) if e.kind() == ErrorKind::WrongKey => {
            match role_keys::unlock(around, project, unlock, memory).await? {
                Some(member) => Ok(Access::Member(Arc::new(member))),
                None => {
                    let help = e.help_text().unwrap_or_default().to_owned();
                    let help = format!("{help}; a key of one project needs --project: {project} was tried");
                    Err(e.help(help))
                }
            }
        }
        Err(e) => Err(e),
    }
}

/// The project that exists from the start.
pub fn default_project() -> ProjectName {
    match "default".parse() {
        Ok(name) => name,
        Err(_) => unreachable!("the name is valid"),
    }
}

/// Reads the repository record, for those who have no key as well.
pub async fn read_repository(store: &Reader) -> Result<(RepositoryRecord, Vec<u8>)> {
    let name = ObjectName::Repository;
    let max = ObjectType::Repository.object_len_bytes_max() as u64;
    let object = store.get(&name.to_string(), max).await?.ok_or_else(|| {
        Error::no_repository(format!("there is no repository at {}", store.url()))
            .help("check -r/--repo, or make one with `cuttle init`")
    })?;
    let place = Place { repo_id: &[0; 16], name: &name, key: None };
    let record: RepositoryRecord = codec::open_record(place, &object)?;
    if record.required_features != 0 {
        return Err(Error::unsupported(format!(
            "the repository needs features {:#x}, which {PROGRAM} does not know",
            record.required_features
        ))
        .help("use a newer cuttle"));
    }
    check_chunk_size(record.chunk_size_bytes).map_err(|e| Error::new(ErrorKind::Corrupt, e.to_string()))?;
    Ok((record, object.to_vec()))
}

fn already_there(store: &Reader) -> Error {
    Error::conflict(format!("there already is a repository at {}", store.url()))
        .help("use it as it is, or choose another place")
}

/// Compression of what is not chunks.
pub(crate) const METADATA_LEVEL: i32 = LEVEL_DEFAULT;
