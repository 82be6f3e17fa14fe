//! Key material: how it is derived, wrapped and forgotten (repo-format.md §5). All of it is wiped when dropped.

mod kem;
mod master;
mod project;
mod sealing;
#[cfg(test)]
pub(crate) mod tests;
mod wrap;

use std::fmt;
use std::ops::RangeInclusive;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::format::context;
use crate::format::envelope::damaged;
use crate::format::record::Kdf;

pub use crate::random::{random, random_array};
pub use master::{MasterKey, SlotPlace};
pub use project::ProjectKeys;
pub use sealing::{ObjectKey, SealingKey};

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

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

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

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn aead(key: &Secret) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.0)
        .map(LessSafeKey::new)
        .map_err(|_| Error::internal("AES-256-GCM refused its key"))
}
