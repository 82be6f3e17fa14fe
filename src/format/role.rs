//! Keys that open one project, and only as much of it as a role needs (repo-format.md §6.11).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::context::ROLE_SLOT;
use crate::format::envelope::ObjectType;
use crate::format::record::{Kdf, Record};
use crate::units::ProjectName;

/// Keys in a slot.
pub const ROLE_KEYS: usize = 7;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Makes backups. Opens no chunk, forgets and deletes nothing.
    Backup,
    /// Reads everything of the project.
    Restore,
    /// Forgets, prunes, tags and protects. Opens no chunk.
    Keeper,
    /// All of these.
    Admin,
}

/// A key of a project, by its place in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleKeySlot {
    /// Of the hash that names chunks.
    ChunkId,
    /// Of the hash that names pages and parts.
    PageId,
    /// Seals whatever is no chunk.
    Metadata,
    /// Chunks are sealed to it.
    DataPublic,
    /// Opens them.
    DataPrivate,
    /// Shows who decided.
    Verifying,
    /// Decides.
    Signing,
}

impl Role {
    /// In the order in which people are told of them.
    pub const ALL: [Self; 4] = [Self::Backup, Self::Restore, Self::Keeper, Self::Admin];

    /// Its keys; a slot has zeros for the others.
    pub fn keys(self) -> &'static [RoleKeySlot] {
        use RoleKeySlot::{ChunkId, DataPrivate, DataPublic, Metadata, PageId, Signing, Verifying};
        match self {
            Self::Backup => &[ChunkId, PageId, Metadata, DataPublic, Verifying],
            Self::Restore => &[ChunkId, PageId, Metadata, DataPublic, DataPrivate, Verifying],
            Self::Keeper => &[PageId, Metadata, Verifying, Signing],
            Self::Admin => &[ChunkId, PageId, Metadata, DataPublic, DataPrivate, Verifying, Signing],
        }
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Keeper => "keeper",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// §6.11
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleSlotRecord {
    /// That in the project's record.
    pub project_id: [u8; 16],
    /// Which keys are in it.
    pub role: Role,
    /// How the passphrase or key file becomes the slot's key.
    pub kdf: Kdf,
    /// Random, new for every slot.
    pub salt: [u8; 32],
    /// Shows whether a secret is right, before anything is unwrapped (§5).
    pub commitment: [u8; 32],
    /// The wrapped keys: ciphertext and tag.
    pub wrapped: ([[u8; 32]; ROLE_KEYS], [u8; 16]),
    /// For people; may be empty.
    pub label: String,
    /// By the clock of whoever made it; for people only.
    pub created_unix_ms: u64,
    /// By the project's signing key, over all of it but this, its name and the repository object.
    pub signature: ([u8; 32], [u8; 32]),
}

/// Where a slot belongs.
#[derive(Clone, Copy)]
pub struct RoleSlotPlace<'a> {
    /// The number in its object name.
    pub slot: u64,
    /// The name in its object name.
    pub project: &'a ProjectName,
    /// Of that project.
    pub project_id: &'a [u8; 16],
    /// All bytes of the `repository` object as it is stored.
    pub repository: &'a [u8],
}

impl RoleSlotPlace<'_> {
    fn bound(&self) -> Vec<u8> {
        let repository = blake3::hash(self.repository);
        [ROLE_SLOT, repository.as_bytes(), self.project_id, self.project.as_str().as_bytes()].concat()
    }

    /// What wrapped keys are bound to (§5).
    pub(crate) fn wrap_bound(&self, role: Role) -> Vec<u8> {
        [&self.bound()[..], &[0, role as u8]].concat()
    }
}

impl Record for RoleSlotRecord {
    const OBJECT_TYPE: ObjectType = ObjectType::RoleKey;
}

impl RoleSlotRecord {
    /// What its signature is over (§5).
    pub(crate) fn digest(&self, at: RoleSlotPlace<'_>) -> Result<[u8; 32]> {
        let unsigned = Self { signature: ([0; 32], [0; 32]), ..self.clone() };
        let bound = [&at.bound()[..], &[1], &at.slot.to_le_bytes(), &unsigned.encode()?].concat();
        Ok(*blake3::hash(&bound).as_bytes())
    }
}
