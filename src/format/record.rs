//! The small records (repo-format.md §6).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::GC_SEAL_LEN_BYTES_MAX;
use crate::format::context::SLOT_AAD;
use crate::format::envelope::{ObjectType, damaged};
use crate::format::page::{Page, count_of_page, root_level};
use crate::units::{Generation, Geometry, ProjectName, Sequence, SnapshotId, VolumeName, VolumeNumber};
use crate::volume::{Identity, ImageLayout, SnapshotPoint};

/// A record: a body of at most 1 MiB (a seal: 8 MiB), encoded by bincode with fixed-width little-endian integers.
pub trait Record: Serialize + DeserializeOwned {
    const OBJECT_TYPE: ObjectType;

    fn encode(&self) -> Result<Vec<u8>> {
        let bytes = bincode::serde::encode_to_vec(self, config())
            .map_err(|e| Error::internal("a record could not be encoded").caused_by(e))?;
        let max = Self::OBJECT_TYPE.plain_len_bytes_max();
        if bytes.len() > max {
            return Err(Error::invalid(format!("a record of {} bytes, at most {max} fit", bytes.len()))
                .help("shorten the image metadata or the tags"));
        }
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let max = Self::OBJECT_TYPE.plain_len_bytes_max();
        if bytes.len() > max {
            return Err(damaged(format!("a record of {} bytes, at most {max}", bytes.len())));
        }
        let (record, read) = bincode::serde::decode_from_slice(bytes, config())
            .map_err(|e| damaged("a record is not what its type says").caused_by(e))?;
        if read != bytes.len() {
            return Err(damaged(format!(
                "a record of {read} bytes has {} more behind it",
                bytes.len() - read
            )));
        }
        Ok(record)
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<GC_SEAL_LEN_BYTES_MAX>()
}

macro_rules! records {
    ($($record:ty => $kind:ident),* $(,)?) => {
        $(impl Record for $record { const OBJECT_TYPE: ObjectType = ObjectType::$kind; })*
    };
}

records! {
    RepositoryRecord => Repository,
    KeySlotRecord => Key,
    ProjectRecord => Project,
    VolumeRecord => Volume,
    OpenRecord => Open,
    EndRecord => End,
    ForgetRecord => Forget,
    NoteRecord => Note,
    AliveRecord => Alive,
    super::gc::BeginRecord => GcBegin,
    super::gc::SealRecord => GcSeal,
    super::gc::DoneRecord => GcDone,
    super::lost::LostRecord => Lost,
    super::bundle::BundleRecord => Bundle,
}

/// §6.1
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    pub repo_id: [u8; 16],
    pub chunk_size_bytes: u32,
    pub encrypted: bool,
    pub create_if_absent: bool,
    pub delta_depth_max: u8,
    pub required_features: u64,
    pub created_unix_ms: u64,
}

/// §6.2
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlotRecord {
    pub kdf: Kdf,
    pub salt: [u8; 32],
    pub commitment: [u8; 32],
    /// The wrapped master key: ciphertext and tag.
    pub wrapped: ([u8; 32], [u8; 16]),
    pub label: String,
    pub created_unix_ms: u64,
    /// Over all of the record but this, its name and the repository object, with a key of the master's.
    pub mac: [u8; 32],
}

impl KeySlotRecord {
    /// What its MAC is over: its name, the repository object, and all of it but the MAC (§5).
    pub fn bound(&self, slot: u64, repository: &[u8]) -> Result<Vec<u8>> {
        let unsigned = Self { mac: [0; 32], ..self.clone() };
        Ok([&slot.to_le_bytes()[..], blake3::hash(repository).as_bytes(), &unsigned.encode()?].concat())
    }

    /// What the wrapped key is bound to (§5).
    pub fn wrap_bound(repository: &[u8]) -> Vec<u8> {
        [SLOT_AAD, blake3::hash(repository).as_bytes()].concat()
    }
}

/// How a slot's secret becomes a key (§5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kdf {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32 },
    KeyFile,
}

/// §6.3. Holds key material: never printed, wiped by its owner.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRecord {
    pub project_id: [u8; 16],
    pub root: [u8; 32],
    pub name: String,
    pub created_unix_ms: u64,
}

/// §6.4
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub number: VolumeNumber,
    pub name: String,
    pub identity: Identity,
    pub created_unix_ms: u64,
}

impl VolumeRecord {
    pub fn volume_name(&self) -> Result<VolumeName> {
        self.name.parse().map_err(|e: Error| damaged(format!("catalog entry {}: {e}", self.number)))
    }
}

/// §6.5
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRecord {
    pub snapshot_id: SnapshotId,
    pub generation: Generation,
    pub host: String,
    pub machine: String,
    pub process: u32,
    pub program: String,
    pub started_unix_ms: u64,
}

/// §6.6
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    pub snapshot_id: SnapshotId,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Committed(Box<Snapshot>),
    Aborted { by: String, reason: String },
}

/// A committed backup (§6.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub volume: VolumeNumber,
    pub sequence: Sequence,
    pub generation: Generation,
    pub size_bytes: u64,
    pub chunk_size_bytes: u32,
    pub identity: Identity,
    pub point: Option<SnapshotPoint>,
    pub layout: ImageLayout,
    pub host: String,
    pub program: String,
    pub started_unix_ms: u64,
    pub tags: Vec<String>,
    pub parent: Option<Sequence>,
    pub full_read: bool,
    pub nights_since_full: u32,
    pub sample_cursor: u64,
    pub stats: BackupStats,
    pub root: Vec<u8>,
}

impl Snapshot {
    pub fn geometry(&self) -> Result<Geometry> {
        Geometry::new(self.size_bytes, self.chunk_size_bytes).map_err(|e| damaged(e.to_string()))
    }

    pub fn root_page(&self) -> Result<Page> {
        let chunks = self.geometry()?.chunk_count();
        let level = root_level(chunks);
        Page::decode(&self.root, level, count_of_page(chunks, level, 0))
    }
}

/// What a backup moved (§6.6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStats {
    /// Read from the source.
    pub read_bytes: u64,
    /// Chunks that were not in the repository.
    pub new_chunks: u64,
    /// Their plaintext.
    pub new_bytes: u64,
    /// Objects uploaded for them.
    pub stored_bytes: u64,
    /// Chunks looked at that the repository had.
    pub known_chunks: u64,
    /// Chunks looked at that are all zero.
    pub zero_chunks: u64,
    /// Of the new chunks, those stored as deltas.
    pub delta_chunks: u64,
    /// Of the objects uploaded, those that are deltas.
    pub delta_bytes: u64,
}

/// §6.7
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetRecord {
    pub snapshot_id: SnapshotId,
    pub host: String,
    pub at_unix_ms: u64,
}

/// §6.8
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    pub protected: bool,
    pub tags: Vec<String>,
    pub host: String,
    pub at_unix_ms: u64,
}

/// §6.9
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveRecord {
    pub snapshot_id: SnapshotId,
    pub at_unix_ms: u64,
}

/// Checks what a project record says of itself.
pub fn check_project(record: &ProjectRecord, name: &ProjectName) -> Result<()> {
    if record.name == name.as_str() {
        Ok(())
    } else {
        Err(damaged(format!("the project record of {name} says it is {:?}", record.name)))
    }
}
