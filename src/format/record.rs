//! The small records (repo-format.md §6).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::BUNDLE_TABLE_LEN_BYTES_MAX;
use crate::format::context::SLOT_AAD;
use crate::format::envelope::{ObjectType, damaged};
use crate::format::page::{Page, count_of_page, root_level};
use crate::units::{Generation, Geometry, ProjectName, Sequence, SnapshotId, VolumeName, VolumeNumber};
use crate::volume::{Identity, ImageLayout, SnapshotPoint};

/// A record: a body of at most 1 MiB (a bundle's table: 8 MiB), encoded by bincode with fixed-width little-endian integers.
pub trait Record: Serialize + DeserializeOwned {
    /// The type that stands in the header of its objects (§2).
    const OBJECT_TYPE: ObjectType;

    /// Its bytes; an error where they are more than its type may have (§3).
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

    /// Reads a record that takes up all of `bytes`; anything behind it is damage.
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
        .with_limit::<BUNDLE_TABLE_LEN_BYTES_MAX>()
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
    /// Random; in the checksum and the sealing of every object but this one.
    pub repo_id: [u8; 16],
    /// A power of two, 4 KiB to 16 MiB (§3).
    pub chunk_size_bytes: u32,
    /// Whether all objects but the repository's and the keys' are sealed.
    pub encrypted: bool,
    /// Whether the store honours the condition of a create; false: one writer at a time.
    pub create_if_absent: bool,
    /// Largest depth of deltas that writers make, at most 15; 0: no deltas.
    pub delta_depth_max: u8,
    /// Bits that a reader must know; 0 in version 1.
    pub required_features: u64,
    /// By the clock of whoever made it; for people only.
    pub created_unix_ms: u64,
}

/// §6.2
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySlotRecord {
    /// How the passphrase or key file becomes the slot's key.
    pub kdf: Kdf,
    /// Random, new for every slot.
    pub salt: [u8; 32],
    /// Shows whether a secret is right, before anything is unwrapped (§5).
    pub commitment: [u8; 32],
    /// The wrapped master key: ciphertext and tag.
    pub wrapped: ([u8; 32], [u8; 16]),
    /// For people; may be empty.
    pub label: String,
    /// By the clock of whoever made it; for people only.
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
    pub(crate) fn wrap_bound(repository: &[u8]) -> Vec<u8> {
        [SLOT_AAD, blake3::hash(repository).as_bytes()].concat()
    }
}

/// How a slot's secret becomes a key (§5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kdf {
    /// A passphrase, by argon2id.
    Argon2id {
        /// 8,192 to 65,536 (§3).
        memory_kib: u32,
        /// 1 to 4.
        passes: u32,
        /// 1 to 16.
        lanes: u32,
    },
    /// A key file, by its content.
    KeyFile,
}

/// §6.3. Holds key material: never printed, wiped by its owner.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRecord {
    /// Random.
    pub project_id: [u8; 16],
    /// What the keys of the project are derived from (§5).
    pub root: [u8; 32],
    /// Equal to the name in the object's name.
    pub name: String,
    /// By the clock of whoever made it; for people only.
    pub created_unix_ms: u64,
}

/// §6.4
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Equal to n in the object's name.
    pub number: VolumeNumber,
    /// Unique in the project; not proven to be a valid name, see [`volume_name`](Self::volume_name).
    pub name: String,
    /// Of the source for which the entry was made.
    pub identity: Identity,
    /// By the clock of whoever made it; for people only.
    pub created_unix_ms: u64,
}

impl VolumeRecord {
    /// The name, as far as it is a valid one.
    pub fn volume_name(&self) -> Result<VolumeName> {
        self.name.parse().map_err(|e: Error| damaged(format!("catalog entry {}: {e}", self.number)))
    }
}

/// §6.5
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRecord {
    /// Random; `.end`, `.forget` and `.alive` repeat it.
    pub snapshot_id: SnapshotId,
    /// In which the session registered, before that was confirmed (§8.1).
    pub generation: Generation,
    /// The name of the host, for people.
    pub host: String,
    /// An opaque name of the machine and its boot.
    pub machine: String,
    /// Its id on the machine.
    pub process: u32,
    /// The name and version of the program.
    pub program: String,
    /// By the clock of the host; for people only.
    pub started_unix_ms: u64,
}

/// §6.6
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRecord {
    /// Equal to that of `.open`; whoever ends the session repeats it.
    pub snapshot_id: SnapshotId,
    /// What became of it.
    pub outcome: Outcome,
}

/// The one outcome of a sequence (§6.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The snapshot is live until it is forgotten.
    Committed(Box<Snapshot>),
    /// There is no snapshot.
    Aborted {
        /// Whoever ended the session; for people.
        by: String,
        /// For people.
        reason: String,
    },
}

/// A committed backup (§6.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Equal to n in the object's name.
    pub volume: VolumeNumber,
    /// Equal to seq in the object's name.
    pub sequence: Sequence,
    /// In which its new objects lie.
    pub generation: Generation,
    /// Of the volume, in whole: up to 4 PiB.
    pub size_bytes: u64,
    /// Equal to the repository's.
    pub chunk_size_bytes: u32,
    /// Of what was read.
    pub identity: Identity,
    /// The source's snapshot that was read; `None` where there is none.
    pub point: Option<SnapshotPoint>,
    /// How to make the image again.
    pub layout: ImageLayout,
    /// The name of the host that made the backup, for people.
    pub host: String,
    /// The name and version of the program.
    pub program: String,
    /// By the clock of the host; for people only.
    pub started_unix_ms: u64,
    /// As given at the backup; the newest note counts instead, where there is one.
    pub tags: Vec<String>,
    /// What it was compared with; `None` where there was nothing.
    pub parent: Option<Sequence>,
    /// The snapshot of another volume that its image was cloned from, and that it was first compared with.
    pub origin: Option<SnapshotOrigin>,
    /// The forgotten snapshot of its volume that it has the content of; `None` for one that was read.
    pub recalled_from: Option<Sequence>,
    /// Whether all of the volume was read, not only reported changes.
    pub full_read: bool,
    /// Backups since the last that read everything; 0 where this one did.
    pub nights_since_full: u32,
    /// Index of the chunk at which the next rotating sample begins.
    pub sample_cursor: u64,
    /// What the backup moved.
    pub stats: BackupStats,
    /// The root page of the manifest, encoded (§7).
    pub root: Vec<u8>,
}

/// The snapshot of another volume of the project that a clone hangs on (§6.6). Whoever reads must not rely on its being live: it may be
/// forgotten like any other, and the clone's manifest is whole without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotOrigin {
    /// Its volume.
    pub volume: VolumeNumber,
    /// Its number there.
    pub sequence: Sequence,
    /// As its `.end` says.
    pub snapshot_id: SnapshotId,
    /// RBD's id of the image that was cloned, on the cluster that `identity` names.
    pub image_id: String,
    /// RBD's id of that image's snapshot.
    pub rbd_snap_id: u64,
}

impl Snapshot {
    /// Its size in chunks; an error where the sizes are out of their limits.
    pub fn geometry(&self) -> Result<Geometry> {
        Geometry::new(self.size_bytes, self.chunk_size_bytes).map_err(|e| damaged(e.to_string()))
    }

    /// The root of its manifest, decoded; its level and count follow from the size (§7).
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
    /// Equal to that of `.open`; zeros where that does not open (§8.5).
    pub snapshot_id: SnapshotId,
    /// The name of the host that forgot it, for people.
    pub host: String,
    /// By the clock of that host; for people only.
    pub at_unix_ms: u64,
}

/// §6.8
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRecord {
    /// Equal to that of `.open`.
    pub snapshot_id: SnapshotId,
    /// Whether it may not be forgotten.
    pub protected: bool,
    /// All that the snapshot has from now on, instead of those before.
    pub tags: Vec<String>,
    /// The name of the host that wrote it, for people.
    pub host: String,
    /// By the clock of that host; for people only.
    pub at_unix_ms: u64,
}

/// §6.9
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveRecord {
    /// Equal to that of `.open`.
    pub snapshot_id: SnapshotId,
    /// By the clock of the host; the store's time is what counts.
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
