//! Key material: how it is derived, wrapped and forgotten (repo-format.md §5). All of it is wiped when dropped.

use std::ops::RangeInclusive;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::format::context;
use crate::format::envelope::damaged;
use crate::format::record::{Kdf, KeySlotRecord, ProjectRecord};

pub use crate::random::{random, random_array};

/// argon2id as new slots use it: 64 MiB, 3 passes, 4 lanes.
pub const ARGON2_DEFAULT: Kdf = Kdf::Argon2id { memory_kib: 64 << 10, passes: 3, lanes: 4 };
/// What a slot may ask for (repo-format.md §3): a store that plants slots must not take the machine down. One slot costs at most 64 MiB and about
/// half a second.
const ARGON2_MEMORY_KIB: RangeInclusive<u32> = 8 << 10..=64 << 10;
const ARGON2_PASSES: RangeInclusive<u32> = 1..=4;
const ARGON2_LANES: RangeInclusive<u32> = 1..=16;
/// Key files hold at least this much.
pub const KEY_FILE_LEN_BYTES_MIN: usize = 32;
/// Key files hold at most this much.
pub const KEY_FILE_LEN_BYTES_MAX: usize = 1 << 20;

/// 32 secret bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// 32 new bytes from the system.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 32];
        random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Of 32 bytes that came from elsewhere, and that nobody must be able to guess.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes themselves: not to be printed, nor kept.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one purpose.
    fn derive(&self, purpose: &str) -> Self {
        Self(blake3::derive_key(purpose, &self.0))
    }
}

/// What a user has to open a repository.
pub enum Unlock {
    /// A passphrase, stretched by argon2id; an empty one opens nothing.
    Passphrase(Zeroizing<String>),
    /// All of a key file, of 32 bytes at least and [`KEY_FILE_LEN_BYTES_MAX`] at most.
    KeyFile(Zeroizing<Vec<u8>>),
}

impl Unlock {
    fn kdf(&self) -> Kdf {
        match self {
            Self::Passphrase(_) => ARGON2_DEFAULT,
            Self::KeyFile(_) => Kdf::KeyFile,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Passphrase(p) if p.is_empty() => Err(Error::wrong_key("the passphrase is empty")),
            Self::KeyFile(k) if !(KEY_FILE_LEN_BYTES_MIN..=KEY_FILE_LEN_BYTES_MAX).contains(&k.len()) => {
                Err(Error::wrong_key(format!(
                    "the key file holds {} bytes, expected {KEY_FILE_LEN_BYTES_MIN} to {KEY_FILE_LEN_BYTES_MAX}",
                    k.len()
                ))
                .help("make one with `head -c 32 /dev/urandom > FILE`, readable by nobody else"))
            }
            _ => Ok(()),
        }
    }

    /// The slot's output key; `None` when the slot is for the other kind of secret.
    fn stretch(&self, kdf: Kdf, salt: &[u8; 32]) -> Result<Option<Secret>> {
        match (self, kdf) {
            (Self::Passphrase(passphrase), Kdf::Argon2id { memory_kib, passes, lanes }) => {
                check_argon2(memory_kib, passes, lanes)?;
                let params = Params::new(memory_kib, passes, lanes, Some(32))
                    .map_err(|e| damaged(format!("argon2id parameters: {e}")))?;
                let mut out = Secret([0; 32]);
                Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                    .hash_password_into(passphrase.as_bytes(), salt, &mut out.0)
                    .map_err(|e| Error::internal(format!("argon2id: {e}")))?;
                Ok(Some(out))
            }
            (Self::KeyFile(content), Kdf::KeyFile) => {
                let mut hasher = blake3::Hasher::new_derive_key(context::KEY_FILE);
                hasher.update(salt).update(content);
                let out = Secret(*hasher.finalize().as_bytes());
                hasher.zeroize();
                Ok(Some(out))
            }
            _ => Ok(None),
        }
    }
}

fn check_argon2(memory_kib: u32, passes: u32, lanes: u32) -> Result<()> {
    let allowed = ARGON2_MEMORY_KIB.contains(&memory_kib)
        && ARGON2_PASSES.contains(&passes)
        && ARGON2_LANES.contains(&lanes);
    if allowed {
        return Ok(());
    }
    Err(damaged(format!(
        "a key slot asks for argon2id with {memory_kib} KiB, {passes} passes, {lanes} lanes; at most {} KiB, {} passes, {} lanes are allowed",
        ARGON2_MEMORY_KIB.end(),
        ARGON2_PASSES.end(),
        ARGON2_LANES.end()
    )))
}

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
        unlock.check()?;
        let repository = at.repository;
        let (kdf, salt) = (unlock.kdf(), random_array()?);
        let okm = unlock
            .stretch(kdf, &salt)?
            .ok_or_else(|| Error::internal("a secret does not fit its own kind of slot"))?;
        let mut ciphertext = *self.0.expose();
        let tag = aead(&okm.derive(context::SLOT_WRAP))?
            .seal_in_place_separate_tag(
                zero_nonce(),
                Aad::from(KeySlotRecord::wrap_bound(repository)),
                &mut ciphertext,
            )
            .map_err(|_| Error::internal("the master key could not be wrapped"))?;
        let tag = tag.as_ref().try_into().map_err(|_| Error::internal("a tag of another length"))?;
        let unsigned = KeySlotRecord {
            kdf,
            salt,
            commitment: okm.derive(context::SLOT_COMMITMENT).0,
            wrapped: (ciphertext, tag),
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
        unlock.check()?;
        let Some(okm) = unlock.stretch(slot.kdf, &slot.salt)? else { return Ok(None) };
        let commitment = okm.derive(context::SLOT_COMMITMENT);
        if verify_slices_are_equal(&commitment.0, &slot.commitment).is_err() {
            return Ok(None);
        }
        let (ciphertext, tag) = &slot.wrapped;
        let mut master = Secret([0; 32]);
        aead(&okm.derive(context::SLOT_WRAP))?
            .open_separate_gather(
                zero_nonce(),
                Aad::from(KeySlotRecord::wrap_bound(repository)),
                ciphertext,
                tag,
                &mut master.0,
            )
            .map_err(|_| {
                Error::corrupt("the secret fits a key slot, but not this repository object").help(
                    "the repository object or the slot was changed or swapped; restore it from a copy or a bucket version",
                )
            })?;
        Ok(Some(Self(master)))
    }
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aead(key: &Secret) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.0)
        .map(LessSafeKey::new)
        .map_err(|_| Error::internal("AES-256-GCM refused its key"))
}

/// A key under which objects are sealed, each with a key of its own.
#[derive(Clone)]
pub struct SealingKey(Secret);

impl SealingKey {
    /// Seals with this secret, whichever key of repo-format.md §5 it is.
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Encrypts `plain` into `out`, which is as long, and returns the tag. The salt is new for every object, so the
    /// key is, and the fixed nonce never repeats.
    pub fn seal(&self, salt: &[u8; 32], aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<[u8; 16]> {
        let mut tag = [0; 16];
        self.object_key(salt)?
            .seal_out_of_place_scatter(zero_nonce(), Aad::from(aad), plain, out, &[], &mut tag)
            .map_err(|_| Error::internal("an object could not be sealed"))?;
        Ok(tag)
    }

    /// Authenticates and decrypts `body` (ciphertext and tag) into `out`, which is 16 bytes shorter.
    pub fn open(&self, salt: &[u8; 32], aad: &[u8], body: &[u8], out: &mut [u8]) -> Result<()> {
        let (ciphertext, tag) =
            body.split_last_chunk::<16>().ok_or_else(|| damaged("a sealed body without a tag"))?;
        self.object_key(salt)?
            .open_separate_gather(zero_nonce(), Aad::from(aad), ciphertext, tag, out)
            .map_err(|_| damaged("it is not authentic: changed, moved, or sealed with another key"))
    }

    fn object_key(&self, salt: &[u8; 32]) -> Result<LessSafeKey> {
        aead(&Secret(*blake3::keyed_hash(self.0.expose(), salt).as_bytes()))
    }
}

/// The keys of a project.
#[derive(Clone)]
pub struct ProjectKeys {
    chunk_id: Secret,
    page_id: Secret,
    /// Seals chunks.
    pub data: SealingKey,
    /// Seals all records of the project, and its pages.
    pub metadata: SealingKey,
}

impl ProjectKeys {
    /// All keys of a project, from the root in its record (repo-format.md §5).
    pub fn derive(record: &ProjectRecord) -> Self {
        let root = Secret(record.root);
        Self {
            chunk_id: root.derive(context::CHUNK_ID),
            page_id: root.derive(context::PAGE_ID),
            data: SealingKey(root.derive(context::DATA)),
            metadata: SealingKey(root.derive(context::METADATA)),
        }
    }

    /// The key of the hash that names chunks.
    pub fn chunk_id_key(&self) -> &[u8; 32] {
        self.chunk_id.expose()
    }

    /// A secret for one purpose and text, which nobody without the project's key can make. Nothing that is stored is derived so.
    pub fn token(&self, purpose: &str, text: &[u8]) -> [u8; 32] {
        let key = self.chunk_id.derive(purpose);
        *blake3::keyed_hash(key.expose(), text).as_bytes()
    }

    /// The key of the hash that names pages, and parts of `gc/` tables.
    pub fn page_id_key(&self) -> &[u8; 32] {
        self.page_id.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(s: &str) -> Unlock {
        Unlock::Passphrase(Zeroizing::new(s.to_owned()))
    }

    fn key_file(byte: u8) -> Unlock {
        Unlock::KeyFile(Zeroizing::new(vec![byte; 32]))
    }

    #[test]
    fn a_slot_opens_with_its_secret_only() {
        let master = MasterKey::random().expect("random");
        for (right, wrong, other_kind) in [
            (passphrase("correct horse"), passphrase("correct house"), key_file(1)),
            (key_file(1), key_file(2), passphrase("correct horse")),
        ] {
            let at = SlotPlace { slot: 7, repository: b"repository" };
            let slot = master.wrap(&right, at, "label", 0).expect("wrapped");
            let opened = MasterKey::unwrap(&slot, &right, b"repository").expect("good").expect("opens");
            assert_eq!(opened.fingerprint(), master.fingerprint());
            assert!(MasterKey::unwrap(&slot, &wrong, b"repository").expect("good").is_none());
            assert!(MasterKey::unwrap(&slot, &other_kind, b"repository").expect("good").is_none());
            let error = MasterKey::unwrap(&slot, &right, b"another repository").err().expect("refused");
            assert_eq!(error.kind(), crate::ErrorKind::Corrupt);
        }
    }

    #[test]
    fn parameters_that_would_take_the_machine_down_are_refused() {
        let master = MasterKey::random().expect("random");
        let unlock = passphrase("correct horse");
        let mut slot = master.wrap(&unlock, SlotPlace { slot: 7, repository: b"r" }, "", 0).expect("wrapped");
        for kdf in [
            Kdf::Argon2id { memory_kib: u32::MAX, passes: 1, lanes: 1 },
            Kdf::Argon2id { memory_kib: 8 << 10, passes: u32::MAX, lanes: 1 },
            Kdf::Argon2id { memory_kib: 8, passes: 1, lanes: 1 },
            Kdf::Argon2id { memory_kib: (64 << 10) + 1, passes: 1, lanes: 1 },
            Kdf::Argon2id { memory_kib: 8 << 10, passes: 5, lanes: 1 },
            Kdf::Argon2id { memory_kib: 8 << 10, passes: 1, lanes: 17 },
        ] {
            slot.kdf = kdf;
            assert!(MasterKey::unwrap(&slot, &unlock, b"r").is_err(), "{kdf:?}");
        }
    }

    #[test]
    fn a_slot_shows_who_made_it() {
        let (master, other) = (MasterKey::random().expect("random"), MasterKey::random().expect("random"));
        let at = SlotPlace { slot: 7, repository: b"repository" };
        let slot = master.wrap(&key_file(1), at, "label", 0).expect("wrapped");
        let made = |by: &MasterKey, slot: &KeySlotRecord, at| by.has_made(slot, at).expect("encoded");
        assert!(made(&master, &slot, at));
        assert!(!made(&other, &slot, at));
        assert!(!made(&master, &slot, SlotPlace { slot: 8, ..at }));
        assert!(!made(&master, &slot, SlotPlace { repository: b"another", ..at }));
        assert!(!made(&master, &KeySlotRecord { label: "other".into(), ..slot.clone() }, at));
        assert!(!made(&master, &KeySlotRecord { commitment: [0; 32], ..slot }, at));
    }

    #[test]
    fn secrets_that_protect_nothing_are_refused() {
        let master = MasterKey::random().expect("random");
        for unlock in [passphrase(""), Unlock::KeyFile(Zeroizing::new(vec![0; 31]))] {
            assert!(master.wrap(&unlock, SlotPlace { slot: 7, repository: b"r" }, "", 0).is_err());
        }
    }
}
