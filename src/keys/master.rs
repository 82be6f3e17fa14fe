//! The key that opens a whole repository, and the slots that wrap it.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::wrap::Wrapped;
use super::{Secret, Unlock};
use crate::error::Result;
use crate::format::context;
use crate::format::record::KeySlotRecord;

/// Where a key slot belongs: its name, and the whole repository object.
#[derive(Clone, Copy)]
pub struct SlotPlace<'a> {
    /// The number in its object name.
    pub slot: u64,
    /// All bytes of the `repository` object as it is stored.
    pub repository: &'a [u8],
}

/// The key that opens a whole repository.
#[derive(Clone)]
pub struct MasterKey(Secret);

impl MasterKey {
    /// A new one, for a new repository.
    pub fn random() -> Result<Self> {
        Ok(Self(Secret::random()?))
    }

    /// What a client remembers of a repository's key.
    pub fn fingerprint(&self) -> [u8; 8] {
        let derived = self.0.derive(context::FINGERPRINT);
        std::array::from_fn(|i| derived.0[i])
    }

    /// Seals project records.
    pub fn project_key(&self) -> Secret {
        self.0.derive(context::PROJECT)
    }

    /// Wraps the master key for a passphrase or key file.
    pub fn wrap(
        &self,
        unlock: &Unlock,
        at: SlotPlace<'_>,
        label: &str,
        created_unix_ms: u64,
    ) -> Result<KeySlotRecord> {
        let wrapped = Wrapped::of(self.0.expose(), unlock, &KeySlotRecord::wrap_bound(at.repository))?;
        let unsigned = KeySlotRecord {
            kdf: wrapped.kdf,
            salt: wrapped.salt,
            commitment: wrapped.commitment,
            wrapped: (wrapped.ciphertext, wrapped.tag),
            label: label.to_owned(),
            created_unix_ms,
            mac: [0; 32],
        };
        let mac = self.slot_mac(&unsigned, at)?;
        Ok(KeySlotRecord { mac, ..unsigned })
    }

    /// Whether a slot was made by somebody who had this key: anybody who may create can plant one that opens nothing.
    pub fn has_made(&self, slot: &KeySlotRecord, at: SlotPlace<'_>) -> Result<bool> {
        Ok(verify_slices_are_equal(&self.slot_mac(slot, at)?, &slot.mac).is_ok())
    }

    fn slot_mac(&self, slot: &KeySlotRecord, at: SlotPlace<'_>) -> Result<[u8; 32]> {
        let key = self.0.derive(context::SLOT_MAC);
        Ok(*blake3::keyed_hash(key.expose(), &slot.bound(at.slot, at.repository)?).as_bytes())
    }

    /// Opens a slot. `None` when the secret is not the slot's; an error when it is, but the slot or the repository
    /// object was tampered with.
    pub fn unwrap(slot: &KeySlotRecord, unlock: &Unlock, repository: &[u8]) -> Result<Option<Self>> {
        let (ciphertext, tag) = slot.wrapped;
        let wrapped =
            Wrapped { kdf: slot.kdf, salt: slot.salt, commitment: slot.commitment, ciphertext, tag };
        let opened = wrapped.open(unlock, &KeySlotRecord::wrap_bound(repository))?;
        Ok(opened.map(|master| Self(Secret::from_bytes(*master))))
    }
}
