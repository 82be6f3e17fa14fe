//! In place of the library's keys: sealing that seals nothing, so that the fuzzer gets past authentication.

use crate::error::Result;
use crate::format::envelope::{Sealing, damaged};

/// Secret bytes, only named by what is never called here.
#[derive(Clone, Debug)]
pub struct Secret;

#[derive(Clone)]
pub struct SealingKey(pub Sealing);

pub struct ObjectKey;

impl SealingKey {
    /// As the type in `self` is sealed.
    pub fn sealing(&self) -> Sealing {
        self.0
    }

    pub fn of_new(&self) -> Result<([u8; 32], ObjectKey)> {
        Ok(([7; 32], ObjectKey))
    }

    pub fn of(&self, _salt: &[u8; 32]) -> Result<ObjectKey> {
        Ok(ObjectKey)
    }

    pub fn attest(&self, _digest: &[u8; 32], _out: &mut [u8]) -> Result<()> {
        Ok(())
    }

    /// Takes every signature and mark for good.
    pub fn check(&self, _digest: &[u8; 32], _attested: &[u8]) -> Result<()> {
        Ok(())
    }
}

impl ObjectKey {
    pub fn again(_secret: &Secret) -> Result<Self> {
        Ok(Self)
    }

    pub fn into_secret(self) -> Secret {
        Secret
    }

    pub fn seal(&self, _aad: &[u8], plain: &[u8], out: &mut [u8]) -> Result<[u8; 16]> {
        out.copy_from_slice(plain);
        Ok([0; 16])
    }

    /// Takes every body for authentic.
    pub fn open(&self, _aad: &[u8], body: &[u8], out: &mut [u8]) -> Result<()> {
        let (body, _tag) = body.split_last_chunk::<16>().ok_or_else(|| damaged("no tag"))?;
        out.copy_from_slice(body);
        Ok(())
    }
}

pub fn random_array<const N: usize>() -> Result<[u8; N]> {
    Ok([7; N])
}
