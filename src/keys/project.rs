//! The keys of a project: all of them for its admin, and for every other role those that it needs.

use zeroize::Zeroizing;

use super::wrap::Wrapped;
use super::{SealingKey, Secret, Unlock, sealing};
use crate::error::{Error, Result};
use crate::format::ObjectType;
use crate::format::context;
use crate::format::envelope::{SIGNATURE_LEN_BYTES, Sealing};
use crate::format::record::ProjectRecord;
use crate::format::role::{ROLE_KEYS, Role, RoleKeySlot, RoleSlotPlace, RoleSlotRecord};

const LEN_BYTES: usize = 32 * ROLE_KEYS;

/// The keys of a project that somebody has.
#[derive(Clone)]
pub struct ProjectKeys {
    /// As roles have them: zeros for what is not there.
    set: [Secret; ROLE_KEYS],
    data: SealingKey,
    metadata: SealingKey,
    authority: SealingKey,
}

impl ProjectKeys {
    /// All keys of a project, from the root in its record (repo-format.md §5).
    pub fn derive(record: &ProjectRecord) -> Result<Self> {
        let root = Secret(record.root);
        let (private, signing) = (root.derive(context::DATA), root.derive(context::AUTHORITY));
        let public = super::kem::public_key(&super::kem::private_key(&private)?)?;
        let verifying = sealing::verifying_key(&signing)?;
        let mut set = [const { Secret([0; 32]) }; ROLE_KEYS];
        for (key, secret) in [
            (RoleKeySlot::ChunkId, root.derive(context::CHUNK_ID)),
            (RoleKeySlot::PageId, root.derive(context::PAGE_ID)),
            (RoleKeySlot::Metadata, root.derive(context::METADATA)),
            (RoleKeySlot::DataPublic, Secret(public)),
            (RoleKeySlot::DataPrivate, private),
            (RoleKeySlot::Verifying, Secret(verifying)),
            (RoleKeySlot::Signing, signing),
        ] {
            set[key as usize] = secret;
        }
        Self::of(set)
    }

    fn of(set: [Secret; ROLE_KEYS]) -> Result<Self> {
        let get = |key: RoleKeySlot| &set[key as usize];
        let given = |key: RoleKeySlot| Some(get(key)).filter(|secret| secret.0 != [0; 32]);
        let metadata = get(RoleKeySlot::Metadata);
        let mark = metadata.derive(context::MARK);
        let data = SealingKey::public(get(RoleKeySlot::DataPublic).0, given(RoleKeySlot::DataPrivate), mark)?;
        let verifying = get(RoleKeySlot::Verifying).0;
        let authority = SealingKey::signed(metadata.clone(), verifying, given(RoleKeySlot::Signing))?;
        let metadata = SealingKey::new(metadata.clone());
        Ok(Self { set, data, metadata, authority })
    }

    /// Those of a role.
    ///
    /// # Errors
    /// `WrongKey` where not all of them are at hand.
    pub fn of_role(&self, role: Role) -> Result<Self> {
        let mut set = [const { Secret([0; 32]) }; ROLE_KEYS];
        for key in role.keys() {
            let own = &self.set[*key as usize];
            if own.0 == [0; 32] {
                return Err(Error::wrong_key(format!("this key has not all that the role {role} needs"))
                    .help("use the repository's own key, or one of the role admin"));
            }
            set[*key as usize] = own.clone();
        }
        Self::of(set)
    }

    /// What seals and opens the project's objects of a type.
    pub fn sealing(&self, object_type: ObjectType) -> &SealingKey {
        match object_type.sealing() {
            Sealing::Public => &self.data,
            Sealing::Signed => &self.authority,
            Sealing::Aes256Gcm | Sealing::None => &self.metadata,
        }
    }

    /// Whether chunks can be opened.
    pub fn open_chunks(&self) -> bool {
        self.data.opens()
    }

    /// The key of the hash that names chunks.
    pub fn chunk_id_key(&self) -> &[u8; 32] {
        self.set[RoleKeySlot::ChunkId as usize].expose()
    }

    /// A secret for one purpose and text, which nobody without the project's key can make. Nothing that is stored is derived so.
    pub fn token(&self, purpose: &str, text: &[u8]) -> [u8; 32] {
        let key = self.set[RoleKeySlot::ChunkId as usize].derive(purpose);
        *blake3::keyed_hash(key.expose(), text).as_bytes()
    }

    /// The key of the hash that names pages, and parts of `gc/` tables.
    pub fn page_id_key(&self) -> &[u8; 32] {
        self.set[RoleKeySlot::PageId as usize].expose()
    }

    /// Wraps the keys of a role for a passphrase or key file; signed by who may decide.
    pub fn wrap(
        &self,
        role: Role,
        unlock: &Unlock,
        at: RoleSlotPlace<'_>,
        label: &str,
        created_unix_ms: u64,
    ) -> Result<RoleSlotRecord> {
        let of_role = self.of_role(role)?;
        let mut plain = Zeroizing::new([0; LEN_BYTES]);
        for (out, secret) in plain.chunks_exact_mut(32).zip(&of_role.set) {
            out.copy_from_slice(secret.expose());
        }
        let wrapped = Wrapped::of(&plain, unlock, &at.wrap_bound(role))?;
        let (parts, _) = wrapped.ciphertext.as_chunks::<32>();
        let unsigned = RoleSlotRecord {
            project_id: *at.project_id,
            role,
            kdf: wrapped.kdf,
            salt: wrapped.salt,
            commitment: wrapped.commitment,
            wrapped: (std::array::from_fn(|at| parts[at]), wrapped.tag),
            label: label.to_owned(),
            created_unix_ms,
            signature: ([0; 32], [0; 32]),
        };
        let mut signature = [0; SIGNATURE_LEN_BYTES];
        self.authority.attest(&unsigned.digest(at)?, &mut signature)?;
        let half = |from: usize| std::array::from_fn(|at| signature[from + at]);
        Ok(RoleSlotRecord { signature: (half(0), half(32)), ..unsigned })
    }

    /// Whether a slot was made by somebody who may decide in this project.
    pub fn have_made(&self, slot: &RoleSlotRecord, at: RoleSlotPlace<'_>) -> Result<bool> {
        let signature = [slot.signature.0, slot.signature.1].concat();
        Ok(slot.project_id == *at.project_id && self.authority.check(&slot.digest(at)?, &signature).is_ok())
    }

    /// Opens a slot. `None` when the secret is not the slot's; an error when it is, but the slot was moved or tampered with.
    pub fn unwrap(slot: &RoleSlotRecord, unlock: &Unlock, at: RoleSlotPlace<'_>) -> Result<Option<Self>> {
        let (parts, tag) = &slot.wrapped;
        let mut ciphertext = [0; LEN_BYTES];
        ciphertext.copy_from_slice(parts.as_flattened());
        let (kdf, salt, commitment) = (slot.kdf, slot.salt, slot.commitment);
        let wrapped = Wrapped { kdf, salt, commitment, ciphertext, tag: *tag };
        let Some(plain) = wrapped.open(unlock, &at.wrap_bound(slot.role))? else { return Ok(None) };
        let (parts, _) = plain.as_chunks::<32>();
        let keys = Self::of(std::array::from_fn(|at| Secret(parts[at])))?;
        match keys.have_made(slot, at)? {
            true => Ok(Some(keys)),
            false => Err(Error::corrupt("the secret fits a key slot that was changed or moved").help(
                "bring the slot back from a copy or a bucket version, or make another with `cuttle key add`",
            )),
        }
    }
}
